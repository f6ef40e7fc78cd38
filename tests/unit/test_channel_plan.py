"""Ways that are devices of a guest: what they take, what is there already, and the configuration that setup chooses."""

from __future__ import annotations

import pytest

from vmfence.config import settings as configuration
from vmfence.config.settings import MulticastSettings, SerialSettings, Settings, VsockSettings
from vmfence.errors import BackendError, UsageError, VmfenceError
from vmfence.host import channels, device_steps
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.channels import Definitions, Stand, Way, stand
from vmfence.host.choice import Choice, choose
from vmfence.host.device_steps import device_steps as steps
from vmfence.host.ground import Site
from vmfence.host.network import Interface
from vmfence.host.setup import condition, next_commands
from vmfence.host.steps import State, Step, carry_out
from vmfence.host.wishes import Ground, Wishes
from vmfence.policy import Group, Origin, Policy
from vmfence.protocol.reply import State as GuestState

URI, CONFIG = "qemu:///system", "/etc/vmfence.conf"
UUID = "11111111-2222-3333-4444-{:012}"
VIRTIO, SERIAL, VSOCK = Way("virtio", (URI,)), Way("serial", (URI,), folder="/run/lines"), Way("vsock", (URI,))
PORT = "<channel type='{}'>{}<target type='virtio' name='{}'/></channel>"
BIND = "<source mode='bind' path='/x/y'/>"
OURS = PORT.format("unix", BIND, "org.vmfence.0")
STORED = PORT.format("unix", "", "org.vmfence.0")
LINE = "<serial type='{}'><source mode='bind' path='{}'/><target port='{}'/></serial>"
CID = "<vsock model='virtio'><cid auto='yes'/></vsock>"


def guest(stored: str | None = None, live: str | None = None) -> Definitions:
    texts = (
        None if devices is None else f"<domain><devices>{devices}</devices></domain>" for devices in (stored, live)
    )
    return Definitions(URI, "vm one", UUID.format(1), *texts)


@pytest.mark.parametrize(
    ("way", "devices", "has"),
    [
        (VIRTIO, "", False),
        (VIRTIO, OURS, True),
        (VIRTIO, STORED, True),
        (VIRTIO, PORT.format("unix", BIND, "org.qemu.guest_agent.0"), False),
        (Way("virtio", channel="org.example"), OURS, False),
        (Way("virtio", folder="//x/"), OURS, True),
        (Way("virtio", folder="/z"), OURS, False),
        (SERIAL, LINE.format("unix", "/run/lines/a", 1), True),
        (SERIAL, LINE.format("unix", "/run/lines/deeper/a", 1), False),
        (SERIAL, LINE.format("pty", "/run/lines/a", 1), False),
        (SERIAL, "<serial type='pty'/><serial/>", False),
        (VSOCK, CID, True),
        (VSOCK, OURS, False),
    ],
)
def test_what_is_there(way: Way, devices: str, has: bool) -> None:
    found = stand(way, guest(stored=devices, live=""))
    assert (found.is_stored, found.is_live) == (has, False)
    assert stand(way, guest(live=devices)).is_stored is None


@pytest.mark.parametrize(
    "port",
    [PORT.format("pty", "", "org.vmfence.0"), PORT.format("unix", "<source mode='connect'/>", "org.vmfence.0")],
)
def test_a_port_that_is_no_socket_of_ours_is_in_the_way(port: str) -> None:
    assert "remove it first" in stand(VIRTIO, guest(stored=port)).conflict
    assert stand(VIRTIO, guest(stored=OURS)).conflict == ""


def test_devices() -> None:
    port = '<channel type="unix"><source mode="bind"/><target type="virtio" name="&lt;&amp;&quot;"/></channel>'
    assert stand(Way("virtio", channel='<&"'), guest("")).xml == port
    assert f'path="/z/vmfence-{UUID.format(1)}.sock"' in stand(Way("virtio", folder="/z"), guest("")).xml
    assert stand(VSOCK, guest("")).xml == '<vsock model="virtio"><cid auto="yes"/></vsock>'
    assert 'path="/var/lib/libvirt/qemu/vmfence-' in stand(Way("serial"), guest("")).xml


@pytest.mark.parametrize(
    ("stored", "live", "port"),
    [
        ("", "", 1),
        (LINE.format("pty", "", 0), "", 1),
        (LINE.format("pty", "", 0) + LINE.format("pty", "", 1), "", 2),
        ("", LINE.format("pty", "", 1), 2),
    ],
)
def test_a_serial_line_gets_the_first_free_number(stored: str, live: str, port: int) -> None:
    assert f'<target port="{port}"/>' in stand(SERIAL, guest(stored, live)).xml


def test_commands_can_be_typed_whatever_the_guest_is_called() -> None:
    config, live = stand(VIRTIO, guest("", "")).commands()
    assert "attach-device --domain 'vm one' --file /dev/stdin --config" in config and live.endswith("--live")
    assert [line.split()[-1] for line in stand(SERIAL, guest("", "")).commands()] == ["--config"]


# The steps


def site(*stands: Stand, has_vhost_vsock: bool = True) -> Site:
    return Site(stands=stands, has_vhost_vsock=has_vhost_vsock)


def settings(listeners: str = 'listener = "serial"', sections: str = 'serial { mode = "virtio"; }') -> Settings:
    text = f'fence_virtd {{ {listeners}; backend = "libvirt"; allow_unauthenticated = "yes"; }}'
    text += f'listeners {{ {sections} }} backends {{ libvirt {{ uri = "{URI}"; }} }}'
    return configuration.read(text.encode(), CONFIG)


def the_step(found: Stand, **wishes: bool) -> Step:
    (step,) = steps(Wishes(**wishes), settings(), site(found))  # type: ignore[arg-type]
    return step


@pytest.mark.parametrize(
    ("stored", "live", "state", "text"),
    [
        (OURS, OURS, State.UNCHANGED, "has a virtio port org.vmfence.0"),
        (STORED, None, State.UNCHANGED, "has a virtio port"),
        (None, OURS, State.UNCHANGED, "has a virtio port"),
        ("", None, State.BY_HAND, "add a virtio port"),
        ("", OURS, State.BY_HAND, "add a virtio port"),
        (None, "", State.BY_HAND, "add a virtio port"),
        (STORED, "", State.BY_HAND, "when it is shut off and started again"),
    ],
)
def test_how_a_guest_stands(stored: str | None, live: str | None, state: State, text: str) -> None:
    step = the_step(stand(VIRTIO, guest(stored, live)))
    assert step.state is state and text in step.what
    assert bool(step.commands) == (state is State.BY_HAND) and step.act is None
    assert bool(step.notes) == (stored is None)


def test_with_define_what_is_missing_is_planned_and_the_rest_is_not() -> None:
    assert the_step(stand(VIRTIO, guest("", None)), define=True).state is State.PLANNED
    assert the_step(stand(VIRTIO, guest(STORED, "")), define=True).act is None


class Libvirt:
    """One guest of a libvirt that takes devices, but for those that it refuses."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, before: Definitions, *refused: str, loses: bool = False
    ) -> None:
        self.before, self.refused, self.loses, self.added = before, refused, loses, list[str]()
        monkeypatch.setattr(device_steps.devices, "add_stored", lambda one, xml: self._add("stored", xml))
        monkeypatch.setattr(device_steps.devices, "add_live", lambda one, xml: self._add("live", xml))
        monkeypatch.setattr(device_steps.devices, "read_one", lambda one: self.now())

    def _add(self, where: str, xml: str) -> None:
        if where in self.refused:
            raise BackendError("libvirt refused a device", f"no room in {where}")
        self.added.append(where)

    def now(self) -> Definitions:
        """Return the definitions with what was added."""
        there = () if self.loses else self.added
        stored, live = self.before.stored, self.before.live
        return guest(
            None if stored is None else OURS * ("stored" in there), None if live is None else OURS * ("live" in there)
        )


@pytest.mark.parametrize(
    ("before", "refused", "added", "text"),
    [
        (guest("", ""), (), ["stored", "live"], "has a virtio port org.vmfence.0"),
        (guest("", None), (), ["stored"], "has a virtio port org.vmfence.0"),
        (guest(None, ""), (), ["live"], "has a virtio port org.vmfence.0"),
        (guest("", ""), ("live",), ["stored"], "is not enough (no room in live)"),
    ],
)
def test_what_is_added(
    before: Definitions, refused: tuple[str, ...], added: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt = Libvirt(monkeypatch, before, *refused)
    (done,) = carry_out([the_step(stand(VIRTIO, before), define=True)], is_dry=False)
    assert (libvirt.added, done.state) == (added, State.DONE) and done.what.endswith(text)


@pytest.mark.parametrize(
    ("before", "refused", "loses", "message"),
    [
        (guest("", ""), ("stored",), False, "no room in stored"),
        (guest(None, ""), ("live",), False, "no room in live"),
        (guest("", ""), (), True, "libvirt took it, and does not show it"),
    ],
)
def test_what_cannot_be_added_fails_and_the_next_guest_is_done(
    before: Definitions, refused: tuple[str, ...], loses: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Libvirt(monkeypatch, before, *refused, loses=loses)
    after = Step("check", State.PLANNED, "later", act=lambda: None)
    ended = carry_out([the_step(stand(VIRTIO, before), define=True), after], is_dry=False)
    assert [next(ended).state, next(ended).state] == [State.FAILED, State.DONE]
    with pytest.raises(BackendError, match=message):
        next(ended)


def test_vsock_devices_only_where_a_guest_that_has_one_can_start() -> None:
    one = settings('listener = "vsock"', "")
    (step,) = steps(Wishes(define=True), one, site(stand(VSOCK, guest("")), has_vhost_vsock=False))
    assert step.act is None and "no guest with a vsock device would start" in step.what
    (step,) = steps(Wishes(define=True), one, site(stand(VSOCK, guest(""))))
    assert step.act is not None


def test_vm_channels_are_left_to_the_administrator() -> None:
    (step,) = steps(Wishes(), settings(sections='serial { mode = "vmchannel"; }'), site())
    assert step.state is State.LEFT_OUT


# The choice


GUESTS = tuple(GuestFacts(name, UUID.format(n), GuestState.RUNNING, bridges=("br0",)) for n, name in enumerate("ab", 1))


def chosen(*listeners: str, guests: tuple[GuestFacts, ...] = GUESTS, **wishes: object) -> Choice:
    ground = Ground(
        CONFIG, None, (Inventory(URI, "QEMU", "9", guests),), interfaces=(Interface("br0", is_bridge=True),)
    )
    return choose(Wishes(listeners=listeners, **wishes), ground)  # type: ignore[arg-type]


def test_virtio_needs_no_network_and_no_key() -> None:
    choice = chosen("virtio", guests=tuple(GuestFacts(one.name, one.uuid, one.state) for one in GUESTS))
    assert choice.settings.listeners == (SerialSettings(mode="virtio"),)
    assert choice.settings.groups is not None
    assert [(one.sources, one.targets) for one in choice.settings.groups] == [((), (UUID.format(1), UUID.format(2)))]
    assert "any of 2 guests may fence any other, without a key" in choice.doubts[0]
    assert next_commands(choice.settings) == ("vmfence guest check -D /dev/virtio-ports/org.vmfence.0",)
    assert condition(choice.settings) == "that has its device"


def test_serial_and_vsock() -> None:
    choice = chosen("serial", "vsock")
    assert choice.settings.listeners == (
        SerialSettings(mode="serial", path="/var/lib/libvirt/qemu"),
        VsockSettings(),
    )
    assert next_commands(chosen("vsock").settings) == ("vmfence guest check -S",)
    assert chosen("vsock").settings.groups is None and not chosen("vsock").doubts


def test_several_listeners_all_serve() -> None:
    """The network is not shut out by the rules that channels need, and both ways lead to the same guests."""
    choice = chosen("multicast", "virtio", "vsock")
    assert [type(one) for one in choice.settings.listeners] == [MulticastSettings, SerialSettings, VsockSettings]
    assert choice.settings.groups is not None
    policy = Policy(tuple(Group(one.label, one.sources, one.targets) for one in choice.settings.groups))
    one, other = UUID.format(1), UUID.format(2)
    origins = (
        Origin("multicast", address="192.0.2.7"),
        Origin("multicast", address="2001:db8::7"),
        Origin("virtio", guest_uuid=one),
        Origin("vsock", cid=7, guest_uuid=one, guest_name="a"),
    )
    assert all(policy.shows(origin, None, "b", other) for origin in origins)
    assert not policy.shows(Origin("virtio", guest_uuid=UUID.format(9)), None, "b", other)


def test_chosen_guests_alone_may_ask() -> None:
    for name in ("b", UUID.format(2)):
        ground = Ground(CONFIG, None, (Inventory(URI, "QEMU", "9", GUESTS),))
        groups = choose(Wishes(listeners=("virtio",), guests=(name,)), ground).settings.groups
        assert groups is not None and groups[0].targets == (UUID.format(2),)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes(listeners=("virtio", "serial")), "modes of one listener"),
        (Wishes(listeners=("virtio",), interface="br0"), "--interface has no use here"),
        (Wishes(listeners=("virtio",), key_file="/k"), "--key-file has no use here"),
        (Wishes(listeners=("multicast",), define=True), "--define has no use here"),
        (Wishes(guests=("a",)), "--guest has no use here"),
        (Wishes(listeners=("virtio",), guests=("aa",)), "there is no guest 'aa'"),
        (Wishes(listeners=("vsock",), guests=("aa",)), "there is no guest 'aa'"),
    ],
)
def test_wishes_that_make_no_sense(wishes: Wishes, message: str) -> None:
    ground = Ground(
        CONFIG, None, (Inventory(URI, "QEMU", "9", GUESTS),), interfaces=(Interface("br0", is_bridge=True),)
    )
    with pytest.raises(UsageError, match=message):
        choose(wishes, ground)


def test_channels_need_a_guest_and_serial_lines_the_systems_libvirt() -> None:
    with pytest.raises(VmfenceError, match="there is no guest yet"):
        chosen("virtio", guests=())
    session = Inventory("qemu:///session", "QEMU", "9", GUESTS)
    with pytest.raises(VmfenceError, match="take --listener virtio"):
        choose(Wishes(uris=(session.uri,), listeners=("serial",)), Ground(CONFIG, None, (session,)))


RULES = 'groups {{ group {{ uuid = "{}"; }} group {{ ip = "192.0.2.1"; uuid = "b"; }} }}'


def existing(wishes: Wishes, mode: str = "virtio", rules: str = "") -> Choice:
    text = f'fence_virtd {{ listener = "serial"; backend = "libvirt"; }} {rules}'
    text += f'listeners {{ serial {{ mode = "{mode}"; }} }} backends {{ libvirt {{ uri = "{URI}"; }} }}'
    ground = Ground(CONFIG, configuration.read(text.encode(), CONFIG), (Inventory(URI, "QEMU", "9", GUESTS),))
    return choose(wishes, ground)


def test_an_existing_configuration_is_used_and_its_rules_are_told() -> None:
    rules = RULES.format("a")
    choice = existing(Wishes(listeners=("virtio",)), rules=rules)
    assert choice.text is None
    assert [doubt for doubt in choice.doubts if "no group lets in by virtio port" in doubt and ": b;" in doubt]
    (way,) = channels.ways(choice.settings)
    assert channels.is_admitted(choice.settings, way, "a", UUID.format(1))
    assert not channels.is_admitted(choice.settings, way, "b", UUID.format(2))
    with pytest.raises(UsageError, match="--listener contradicts"):
        existing(Wishes(listeners=("serial",)), rules=rules)
    with pytest.raises(UsageError, match="--listener contradicts"):
        existing(Wishes(listeners=("virtio", "vsock")), rules=rules)
