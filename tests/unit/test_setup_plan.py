"""What setup chooses and plans: tables of hosts, without any host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmfence.config import settings as configuration
from vmfence.config.grammar import parse
from vmfence.config.settings import MulticastSettings, Settings, TcpSettings
from vmfence.errors import ConfigError, KeyFileError, Unreachable, UsageError, VmfenceError
from vmfence.host import choice, control, ground, selfcheck, unit
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.choice import Choice, choose
from vmfence.host.execstart import Start
from vmfence.host.ground import KeyFacts, Site
from vmfence.host.network import Interface
from vmfence.host.setup import condition, next_commands, plan
from vmfence.host.steps import State, Step, carry_out, has_changed, unfinished
from vmfence.host.unit import UnitFacts
from vmfence.host.wishes import Ground, Wishes
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.rules import Opening
from vmfence.protocol.reply import State as GuestState

SYSTEM, SESSION = "qemu:///system", "qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock"
OWN = "qemu+unix:///session?socket=/run/user/0/libvirt/libvirt-sock"
CONFIG, KEY = "/etc/vmfence.conf", "/etc/cluster/fence_xvm.key"
BR0, BR1, VIRBR0 = (Interface(name, is_bridge=True) for name in ("br0", "br1", "virbr0"))
ETH0 = Interface("eth0")


def guest(name: str, *bridges: str, direct: tuple[str, ...] = (), unresolved: tuple[str, ...] = ()) -> GuestFacts:
    return GuestFacts(
        name, f"uuid of {name}", GuestState.RUNNING, bridges=bridges, direct=direct, unresolved=unresolved
    )


def host(*guests: GuestFacts, uri: str = SYSTEM) -> Inventory:
    return Inventory(uri, "QEMU 7.2.0", "9.0.0", guests)


def land(*inventories: Inventory, interfaces: tuple[Interface, ...] = (BR0, BR1, ETH0), **more: object) -> Ground:
    addresses = {"br0": "10.88.0.1"}
    found = Ground(CONFIG, None, inventories, interfaces=interfaces, addresses=addresses)
    return dataclasses.replace(found, **more)  # type: ignore[arg-type]


ONE = host(guest("a", "br0"), guest("b", "br0"))


# The choice


def test_the_usual_host() -> None:
    choice = choose(Wishes(), land(ONE))
    assert choice.listener == (
        "multicast 225.0.0.12 port 1229 on br0",
        "all guests are attached to it: a, b",
    )
    assert choice.hypervisor == ("qemu:///system: QEMU 7.2.0, libvirt 9.0.0, 2 guests", "it has guests")
    assert choice.settings.listeners == (MulticastSettings(interface="br0"),)
    assert choice.settings.backend.uris == (SYSTEM,)
    assert choice.text is not None and configuration.read(choice.text, CONFIG) == choice.settings
    assert choice.doubts == ()


@pytest.mark.parametrize(
    ("inventories", "interfaces", "bridge", "why", "doubts"),
    [
        ([host(guest("a", "br0"), guest("b"))], (BR0, BR1), "br0", "the only bridge with guests: a", 0),
        ([host(guest("a", "br0", "br1"), guest("b", "br1"))], (BR0, BR1), "br1", "all guests are attached to it", 0),
        (
            [host(guest("a", "br0"), guest("b", "br1"), guest("c", "br1"))],
            (BR0, BR1),
            "br1",
            "of 2 bridges with guests it has most: b, c; another with --interface",
            1,
        ),
        ([host()], (VIRBR0, ETH0), "virbr0", "the only bridge of this host, which has no guests yet", 0),
        ([host(guest("a", "br0"), guest("m", direct=("eth0",)))], (BR0,), "br0", "the only bridge with guests", 1),
        ([host(guest("a", "eth0"))], (BR0, ETH0), "eth0", "all guests are attached to it", 0),  # Open vSwitch
    ],
)
def test_the_bridge(
    inventories: list[Inventory], interfaces: tuple[Interface, ...], bridge: str, why: str, doubts: int
) -> None:
    choice = choose(Wishes(), land(*inventories, interfaces=interfaces))
    assert choice.settings.listeners == (MulticastSettings(interface=bridge),)
    assert choice.listener[1].startswith(why) and len(choice.doubts) == doubts


@pytest.mark.parametrize(
    ("inventory", "interfaces", "message"),
    [
        (host(), (BR0, BR1), "there are no guests that show which bridge. bridges here: br0, br1."),
        (host(), (ETH0,), "bridges here: none"),
        (host(guest("m", direct=("eth0",))), (BR0,), "no guest is attached to a bridge of this host"),
        (host(guest("a", "br9")), (BR0,), "br9, to which guests are attached, is not up. start it"),
        (host(guest("a", unresolved=("default",))), (BR0,), "virsh net-start default"),
    ],
)
def test_where_nothing_fits_it_says_what_to_name(
    inventory: Inventory, interfaces: tuple[Interface, ...], message: str
) -> None:
    with pytest.raises(VmfenceError) as caught:
        choose(Wishes(), land(inventory, interfaces=interfaces))
    assert message in str(caught.value) and "--interface" in str(caught.value)


@pytest.mark.parametrize(
    ("wishes", "inventories", "uris", "doubts"),
    [
        (Wishes(), [host(), host(guest("s"), uri=OWN)], (OWN,), 0),
        (Wishes(uris=(SESSION,)), [host(guest("s"), uri=SESSION)], (SESSION,), 0),
        (Wishes(), [ONE, host(guest("s"), uri=SESSION)], (SYSTEM,), 1),
        (Wishes(interface="br0"), [host(), host(uri=SESSION)], (SYSTEM,), 0),
        (Wishes(uris=(SYSTEM, SESSION)), [ONE, host(guest("s"), uri=SESSION)], (SYSTEM, SESSION), 0),
    ],
)
def test_the_uri(wishes: Wishes, inventories: list[Inventory], uris: tuple[str, ...], doubts: int) -> None:
    choice = choose(wishes, land(*inventories))
    assert choice.settings.backend.uris == uris and len(choice.doubts) == doubts


def test_the_session_of_another_user_is_served_only_when_named() -> None:
    where = land(host(), host(guest("s"), uri=SESSION))
    with pytest.raises(VmfenceError, match="all guests are in sessions of other users") as caught:
        choose(Wishes(), where)
    assert f"--uri '{SESSION}'" in caught.value.remedy
    assert choose(Wishes(), dataclasses.replace(where, users=(0, 1000))).settings.backend.uris == (SESSION,)


def test_guests_of_a_session_get_tcp() -> None:
    choice = choose(Wishes(), land(host(guest("s"), uri=OWN)))
    assert choice.settings.listeners == (TcpSettings(),) and "10.0.2.2" in choice.listener[1]
    assert next_commands(choice.settings) == ("vmfence guest check -T 10.0.2.2",)


@pytest.mark.parametrize(
    ("wishes", "listener"),
    [
        (Wishes(interface="eth0"), MulticastSettings(interface="eth0")),
        (Wishes(listeners=("multicast",)), MulticastSettings(interface="br0")),
        (Wishes(listeners=("tcp",)), TcpSettings(address="10.88.0.1")),
        (Wishes(key_file="/etc/k"), MulticastSettings(interface="br0", key_file="/etc/k")),
    ],
)
def test_wishes_come_first(wishes: Wishes, listener: MulticastSettings | TcpSettings) -> None:
    assert choose(wishes, land(ONE)).settings.listeners == (listener,)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes(interface="br7"), "this host has no interface br7"),
        (Wishes(interface="vnet0"), "vnet0 is a port of br0"),
        (Wishes(listeners=("tcp",), interface="br1"), "no address for listener tcp. br1 has none"),
        (Wishes(key_file="relative"), "must be an absolute path"),
    ],
)
def test_wishes_that_cannot_be(wishes: Wishes, message: str) -> None:
    interfaces = (BR0, BR1, Interface("vnet0", master="br0"))
    with pytest.raises(VmfenceError, match=message):
        choose(wishes, land(ONE, interfaces=interfaces))


NO_ANSWER = Unreachable("cannot connect to libvirt", "refused", "see that it runs")


@pytest.mark.parametrize(
    ("wishes", "inventories", "silent"),
    [
        (Wishes(), [], SYSTEM),
        (Wishes(uris=(SYSTEM, OWN)), [ONE], OWN),
        # It may have all the guests: a session is no substitute.
        (Wishes(), [host(guest("s"), uri=OWN)], SYSTEM),
        (Wishes(), [host(uri=OWN)], SYSTEM),
        (Wishes(interface="br0"), [host()], "xen:///system"),
    ],
)
def test_a_libvirt_that_must_answer_and_does_not(wishes: Wishes, inventories: list[Inventory], silent: str) -> None:
    with pytest.raises(Unreachable, match="cannot connect to libvirt"):
        choose(wishes, land(*inventories, silent=((silent, NO_ANSWER),)))


@pytest.mark.parametrize("silent", [OWN, "xen:///system"])
def test_a_libvirt_that_is_not_served_and_does_not_answer_is_doubted(silent: str) -> None:
    choice = choose(Wishes(), land(ONE, silent=((silent, NO_ANSWER),)))
    assert choice.settings.backend.uris == (SYSTEM,)
    assert len(choice.doubts) == 1 and "not served" in choice.doubts[0] and "cannot connect" in choice.doubts[0]


def test_the_remedy_can_be_typed_whatever_the_network_is_called() -> None:
    with pytest.raises(VmfenceError) as caught:
        choose(Wishes(), land(host(guest("a", unresolved=("my net; \x9b",)))))
    assert "(virsh net-start 'my net; \\x9b')" in caught.value.remedy and "\x9b" not in str(caught.value)


OLD = b"""fence_virtd { listener = "multicast"; backend = "libvirt"; }
listeners { multicast { interface = "br0"; key_file = "/etc/old.key"; } }
backends { libvirt { uri = "qemu:///system"; } }
"""


def old(path: str = "/etc/fence_virt.conf", text: bytes = OLD) -> Settings:
    return configuration.read(text, path)


def test_a_configuration_that_is_there_is_used_as_it_is() -> None:
    choice = choose(Wishes(interface="br0", key_file="/etc/old.key"), land(ONE, settings=old()))
    assert choice.text is None and choice.settings == old()


def test_guests_that_a_configuration_misses_are_told() -> None:
    choice = choose(Wishes(), land(host(guest("a", "br1")), settings=old()))
    assert "a is attached to br1, not to br0" in choice.doubts[0]


def test_an_interface_that_is_gone_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match="no interface br0") as caught:
        choose(Wishes(), land(ONE, interfaces=(VIRBR0,), settings=old()))
    assert caught.value.line == 2


@pytest.mark.parametrize(
    "wishes",
    [Wishes(uris=(SESSION,)), Wishes(listeners=("tcp",)), Wishes(interface="br1"), Wishes(key_file="/etc/k")],
)
def test_a_wish_never_changes_a_configuration_that_is_there(wishes: Wishes) -> None:
    with pytest.raises(UsageError, match="contradicts"):
        choose(wishes, land(ONE, settings=old()))


def test_what_is_written_is_what_fence_virtd_reads() -> None:
    choice = choose(Wishes(), land(ONE))
    assert choice.text is not None
    assert [entry.name for entry in parse(choice.text, CONFIG)] == ["fence_virtd", "listeners", "backends"]  # type: ignore[union-attr]


# The plan


RUNNING = UnitFacts(is_manager=True)
GOOD_KEY = KeyFacts(KEY, True, "f" * 64)
PROGRAM = ("/opt/bin/vmfence",)


def new_choice() -> Choice:
    return choose(Wishes(), land(ONE))


def site(**facts: object) -> Site:
    usual = Site(keys=(KeyFacts(KEY, False),), openings=(Opening("udp", 1229, "br0"),), unit=RUNNING, program=PROGRAM)
    return dataclasses.replace(usual, **facts)  # type: ignore[arg-type]


def installed(settings: Settings, **facts: object) -> UnitFacts:
    """Return the facts of a service that was set up for *settings*."""
    text = unit.render(unit.shipped_text(), PROGRAM, None, unit.extras(settings))
    usual = UnitFacts(True, unit.INSTALL_PATH, text, is_enabled=True, is_active=True)
    return dataclasses.replace(usual, **facts)  # type: ignore[arg-type]


def states(steps: tuple[Step, ...]) -> dict[str, str]:
    return {step.name: step.state.value for step in steps}


def test_a_new_host_needs_everything() -> None:
    assert states(plan(Wishes(), new_choice(), site())) == {
        "libvirt": "chosen",
        "listener": "chosen",
        "key": "would do",
        "configuration": "would do",
        "firewall": "unchanged",
        "service": "would do",
        "check": "would do",
    }


def test_a_host_that_is_set_up_needs_nothing() -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    steps = plan(Wishes(), choice, site(keys=(GOOD_KEY,), unit=installed(choice.settings)))
    assert {step.name for step in steps if step.act} == {"check"}


@pytest.mark.parametrize(
    "facts",
    [{"is_enabled": False}, {"is_active": False}, {"text": "[Service]\n"}, {"text": "", "path": None}],
)
def test_a_service_that_is_not_as_it_must_be_is_mended(facts: dict[str, object]) -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    steps = plan(Wishes(), choice, site(keys=(GOOD_KEY,), unit=installed(choice.settings, **facts)))
    assert states(steps)["service"] == "would do"


def test_a_new_key_restarts_a_service_that_runs() -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    assert states(plan(Wishes(), choice, site(unit=installed(choice.settings))))["service"] == "would do"


@pytest.mark.parametrize(
    ("is_manager", "wishes", "expected"),
    [
        (True, Wishes(), "failed"),
        (True, Wishes(service=False), "by hand"),
        (False, Wishes(), "by hand"),
    ],
)
def test_fence_virtd_in_the_way(is_manager: bool, wishes: Wishes, expected: str) -> None:
    found = site(rivals=(7, 8), holders=("fence_virtd (7) has UDP 1229",), unit=UnitFacts(is_manager=is_manager))
    steps = plan(wishes, new_choice(), found)
    assert states(steps)["fence_virtd"] == expected
    told = next(step for step in steps if step.name == "fence_virtd")
    assert "7, 8" in told.what
    if not is_manager:
        assert told.commands == ("kill 7 8",)


def test_a_fence_virtd_that_has_no_port_of_ours_is_not_in_the_way() -> None:
    steps = plan(Wishes(), new_choice(), site(rivals=(7,)))
    told = next(step for step in steps if step.name == "fence_virtd")
    assert told.state is State.UNCHANGED and "process 7" in told.what and told.notes
    assert states(steps)["service"] == "would do"


@pytest.mark.parametrize(
    ("is_manager", "wishes", "expected"),
    [(True, Wishes(), "failed"), (True, Wishes(service=False), "by hand"), (False, Wishes(), "by hand")],
)
def test_a_stranger_at_the_port_is_told_before_anything_is_done(
    is_manager: bool, wishes: Wishes, expected: str
) -> None:
    found = site(holders=("python3 (7) has UDP 0.0.0.0 port 1229",), unit=UnitFacts(is_manager=is_manager))
    steps = plan(wishes, new_choice(), found)
    assert states(steps)["port"] == expected
    assert "python3 (7)" in str(next(step for step in steps if step.name == "port"))


ELSEWHERE = "/etc/systemd/system/vmfence.service.d/o.conf"


@pytest.mark.parametrize(
    "start",
    [
        Start(unit.INSTALL_PATH, "/srv/other.conf", ELSEWHERE),
        Start(unit.INSTALL_PATH, None, ELSEWHERE, VmfenceError("it is not clear")),
    ],
)
def test_a_drop_in_that_has_another_configuration_run_is_an_obstacle(start: Start) -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    steps = plan(Wishes(), choice, site(keys=(GOOD_KEY,), unit=installed(choice.settings, start=start)))
    step = next(step for step in steps if step.name == "service")
    assert step.state is State.FAILED and ELSEWHERE in step.why and "daemon-reload" in step.why


def test_a_drop_in_that_has_ours_run_is_left_alone() -> None:
    choice = dataclasses.replace(choose(Wishes(), land(ONE, config_path="/srv/a.conf")), text=None)
    start = Start(unit.INSTALL_PATH, "/srv/a.conf", ELSEWHERE)
    found = site(keys=(GOOD_KEY,), unit=installed(choice.settings, start=start), is_found_unnamed=False)
    assert states(plan(Wishes(), choice, found))["service"] == "unchanged"


def test_what_the_unit_names_it_goes_on_naming() -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    path = choice.settings.path
    text = unit.render(unit.shipped_text(), PROGRAM, path)
    facts = installed(choice.settings, start=Start(unit.INSTALL_PATH, path), text=text)
    assert states(plan(Wishes(), choice, site(keys=(GOOD_KEY,), unit=facts)))["service"] == "unchanged"


def test_a_configuration_that_the_service_cannot_see_is_refused_beforehand() -> None:
    choice = choose(Wishes(), land(ONE, config_path="/tmp/x.conf"))
    with pytest.raises(VmfenceError, match="the service cannot read /tmp/x.conf"):
        plan(Wishes(), choice, site(is_found_unnamed=False))


def test_a_masked_service_says_how_to_unmask_it() -> None:
    steps = plan(Wishes(), new_choice(), site(unit=UnitFacts(is_manager=True, is_masked=True)))
    step = next(step for step in steps if step.name == "service")
    assert step.state is State.FAILED and "systemctl unmask vmfence.service" in step.why


def test_a_service_that_runs_with_what_is_no_more_is_restarted() -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    steps = plan(Wishes(), choice, site(keys=(GOOD_KEY,), unit=installed(choice.settings), stale=("/etc/x",)))
    step = next(step for step in steps if step.name == "service")
    assert (step.state, step.what) == (State.PLANNED, "restart vmfence.service") and "/etc/x" in step.why


def test_a_place_where_no_configuration_can_be_put_is_an_obstacle() -> None:
    fault = VmfenceError("cannot write /nowhere/f", "there is no folder /nowhere")
    steps = plan(Wishes(), new_choice(), site(config_fault=fault))
    assert states(steps)["configuration"] == "failed"
    with pytest.raises(VmfenceError, match="there is no folder /nowhere"):
        list(carry_out(steps, is_dry=True))


def test_a_key_that_a_configuration_in_use_lacks_is_not_made_in_silence() -> None:
    in_use = dataclasses.replace(new_choice(), text=None)
    new, found = (plan(Wishes(), choice, site())[2] for choice in (new_choice(), in_use))
    assert (new.name, found.name) == ("key", "key")
    assert not new.notes and "is the path right?" in found.notes[0]


def test_a_bad_key_is_an_obstacle_before_anything_is_done() -> None:
    bad = KeyFacts(KEY, True, fault=KeyFileError("the key is not secret", "", f"chmod 0600 {KEY}"))
    done: list[Step] = []
    with pytest.raises(KeyFileError, match="not secret"):
        for step in carry_out(plan(Wishes(), new_choice(), site(keys=(bad,))), is_dry=False):
            done.append(step)
    assert states(tuple(done)) == {
        **dict.fromkeys(("libvirt", "listener"), "chosen"),
        "key": "failed",
        "firewall": "unchanged",
        **dict.fromkeys(("configuration", "service", "check"), "not done"),
    }


def test_rules_of_others_are_left_to_the_administrator() -> None:
    rules = ("nft insert rule ...",)
    step = next(s for s in plan(Wishes(), new_choice(), site(firewall=Firewall(rules=rules))) if s.commands)
    assert (step.name, step.state, step.commands, step.act) == ("firewall", State.BY_HAND, rules, None)


def test_a_firewall_that_cannot_be_seen_is_left_to_the_administrator() -> None:
    steps = plan(Wishes(), new_choice(), site(firewall=Firewall(doubts=("nft failed.",))))
    step = next(step for step in steps if step.name == "firewall")
    assert (step.state, step.notes) == (State.BY_HAND, ("nft failed.",)) and "UDP 1229" in step.what


def test_rules_beside_firewalld_are_told_beside_it() -> None:
    found = Firewall(("libvirt",), (("firewall-cmd", "--zone=libvirt"),), rules=("nft insert rule ...",))
    steps = [step for step in plan(Wishes(), new_choice(), site(firewall=found)) if step.name == "firewall"]
    assert [step.state for step in steps] == [State.PLANNED, State.BY_HAND]


GROUPS = b"""groups {
group { name = "web"; uuid = "a"; ip = "10.88.0.2"; key_file = "/etc/web.key"; }
group { name = "db"; uuid = "b"; ip = "10.88.0.3"; } }
"""


def test_keys_of_groups_are_made_and_judged_like_all_others() -> None:
    settings = old(text=OLD + GROUPS)
    assert ground.key_files(settings, with_groups=True) == ("/etc/old.key", "/etc/web.key")
    assert ground.key_files(settings) == ("/etc/old.key",)
    assert "the key of its group (web: /etc/web.key, db: /etc/old.key)" in condition(settings)
    assert next_commands(settings) == ("vmfence guest check -k /etc/web.key", "vmfence guest check -k /etc/old.key")
    keys = (GOOD_KEY, KeyFacts("/etc/web.key", False))
    choice = dataclasses.replace(new_choice(), settings=settings, text=None)
    steps = plan(Wishes(), choice, site(keys=keys, unit=installed(settings)))
    assert [step.what for step in steps if step.act][:1] == ["make /etc/web.key"]
    assert states(steps)["service"] == "would do"


def test_an_open_listener_needs_its_key_where_a_group_has_one() -> None:
    text = (OLD + GROUPS).replace(b'interface = "br0";', b'hash = "none"; auth = "none";')
    text = text.replace(b"fence_virtd {", b'fence_virtd { allow_unauthenticated = "yes";')
    assert ground.key_files(old(text=text)) == ("/etc/old.key",)


@pytest.mark.parametrize(
    "facts", [{"keys": (KeyFacts("/etc/web.key", True, "f" * 64, owner=1000),)}, {"config_owner": 1000}]
)
def test_files_of_another_user_give_the_unit_the_right_to_read_them(facts: dict[str, object]) -> None:
    choice = dataclasses.replace(new_choice(), text=None)
    usual = site(keys=(GOOD_KEY,), unit=installed(choice.settings))
    assert states(plan(Wishes(), choice, usual))["service"] == "unchanged"
    assert states(plan(Wishes(), choice, dataclasses.replace(usual, **facts)))["service"] == "would do"  # type: ignore[arg-type]


def test_a_daemon_that_runs_with_something_else_is_stale(tmp_path: Path) -> None:
    config = tmp_path / "f"
    config.write_text("")
    now = config.stat().st_ctime
    status = {"config": str(config), "read_at": now + 1, "started_at": now + 1, "keys": []}
    assert ground.stale_files(status, str(config), str(config)) == ()
    assert ground.stale_files(status, "/etc/fence_virt.conf", None) == ("/etc/fence_virt.conf",)
    unit_is_newer = {**status, "started_at": now - 1}
    assert ground.stale_files(unit_is_newer, str(config), str(config)) == (str(config),)


def test_no_step_is_silent_about_being_left_out() -> None:
    found = states(plan(Wishes(firewall=False, service=False, check=False), new_choice(), site()))
    assert {name for name, state in found.items() if state == "left out"} == {"firewall", "service", "check"}


def test_without_systemd_the_command_is_given_whole() -> None:
    choice = choose(Wishes(), land(ONE, config_path="/srv/my own.conf"))
    found = site(unit=UnitFacts(), is_found_unnamed=False)
    step = next(s for s in plan(Wishes(), choice, found) if s.name == "service")
    assert step.commands == ("/opt/bin/vmfence host daemon --wait-for-init --config '/srv/my own.conf'",)


# Carrying it out


def test_steps_stop_at_the_first_that_fails() -> None:
    done: list[str] = []

    def fail() -> str:
        raise VmfenceError("no room")

    steps = (
        Step("a", State.PLANNED, "do a", act=lambda: done.append("a")),
        Step("b", State.PLANNED, "do b", act=fail),
        Step("c", State.PLANNED, "do c", act=lambda: done.append("c")),
        Step("d", State.UNCHANGED, "is so"),
    )
    seen: list[Step] = []
    with pytest.raises(VmfenceError, match="no room"):
        for step in carry_out(steps, is_dry=False):
            seen.append(step)
    assert done == ["a"]
    assert states(tuple(seen)) == {"a": "done", "b": "failed", "c": "not done", "d": "unchanged"}


def test_an_error_of_the_system_is_a_failed_step() -> None:
    def fail() -> str:
        raise OSError(28, "No space left on device", "/etc/x")

    steps = (Step("a", State.PLANNED, "do a", act=fail), Step("b", State.PLANNED, "do b", act=lambda: None))
    seen: list[Step] = []
    with pytest.raises(VmfenceError, match="step a failed. /etc/x: No space left on device."):
        _seen(carry_out(steps, is_dry=False), seen)
    assert states(tuple(seen)) == {"a": "failed", "b": "not done"} and has_changed(steps, seen)


def test_what_is_broken_off_is_told_to_the_end() -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    steps = (
        Step("a", State.PLANNED, "do a", act=lambda: None),
        Step("b", State.PLANNED, "do b", act=interrupt),
        Step("c", State.UNCHANGED, "is so"),
        Step("d", State.PLANNED, "do d", act=lambda: None, ends_as=State.GOOD),
    )
    seen: list[Step] = []
    with pytest.raises(KeyboardInterrupt):
        _seen(carry_out(steps, is_dry=False), seen)
    rest = tuple(unfinished(steps, len(seen)))
    assert states(tuple(seen)) == {"a": "done"}
    assert states(rest) == {"b": "failed", "c": "unchanged", "d": "not done"}
    assert "interrupted" in rest[0].notes[0] and has_changed(steps, [*seen, *rest])
    assert not list(unfinished(steps, len(steps)))


def test_a_refused_step_and_a_failed_check_have_changed_nothing() -> None:
    planned = (Step("a", State.FAILED, "x"), Step("check", State.PLANNED, "y", ends_as=State.GOOD))
    assert not has_changed(planned, [dataclasses.replace(step, state=State.FAILED) for step in planned])


def _seen(steps: Iterator[Step], seen: list[Step]) -> None:
    """Keep the steps as they come, also those before an error."""
    for step in steps:
        seen.append(step)


def test_a_dry_run_does_nothing() -> None:
    steps = (Step("a", State.PLANNED, "do a", act=lambda: pytest.fail("done")),)
    assert list(carry_out(steps, is_dry=True)) == list(steps)


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        ('multicast { interface = "br0"; }', "vmfence guest check"),
        ('multicast { address = "225.1.2.3"; port = "1300"; }', "vmfence guest check -a 225.1.2.3 -p 1300"),
        ('multicast { family = "ipv6"; }', "vmfence guest check -i ipv6"),
        ('multicast { key_file = "/etc/a key"; }', "vmfence guest check -k '/etc/a key'"),
        ('tcp { address = "10.0.0.1"; }', "vmfence guest check -T 10.0.0.1"),
    ],
)
def test_what_to_type_next(listener: str, expected: str) -> None:
    name = listener.split()[0]
    text = f'fence_virtd {{ listener = "{name}"; backend = "libvirt"; }} listeners {{ {listener} }}'
    assert next_commands(old(text=f'{text} backends {{ libvirt {{ uri = "u"; }} }}'.encode())) == (expected,)


# What is found


def test_fence_virtd_is_found_in_our_network_only(tmp_path: Path) -> None:
    for pid, name, network in (("self", "python", "1"), ("5", "fence_virtd", "1"), ("6", "fence_virtd", "2")):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "comm").write_text(f"{name}\n")
        (tmp_path / pid / "ns" / "net").symlink_to(f"net:[{network}]")
    (tmp_path / "7").mkdir()  # one that has just ended
    assert ground.rivals(str(tmp_path)) == [5]


def test_keys_are_judged(tmp_path: Path) -> None:
    good, open_to_all = tmp_path / "good", tmp_path / "open"
    good.write_bytes(bytes(range(64)))
    good.chmod(0o600)
    open_to_all.write_bytes(bytes(range(64)))
    open_to_all.chmod(0o644)
    assert ground.read_key(str(good)).fault is None
    assert ground.read_key(str(open_to_all)).fault is not None
    assert ground.read_key(str(tmp_path / "none")) == KeyFacts(str(tmp_path / "none"), False)


def test_listeners_without_authentication_need_no_key() -> None:
    text = OLD.replace(b'interface = "br0";', b'hash = "none"; auth = "none";')
    text = text.replace(b"fence_virtd {", b'fence_virtd { allow_unauthenticated = "yes";')
    assert ground.key_files(old(text=text)) == ()
    assert ground.key_files(old()) == ("/etc/old.key",)


def test_the_sample_of_a_package_that_was_never_used_is_passed_over(tmp_path: Path) -> None:
    """Debian's fence-virtd brings a configuration for virbr0 and no key: nobody can have used it."""
    sample = (
        'fence_virtd {{ listener = "multicast"; backend = "libvirt"; }}\n'
        'listeners {{ multicast {{ key_file = "{key}"; address = "225.0.0.12"; interface = "virbr0"; }} }}\n'
        'backends {{ libvirt {{ uri = "qemu:///system"; }} }}\n'
    ).format(key=tmp_path / "key")
    settings = configuration.read(sample.encode(), "/etc/fence_virt.conf")
    assert ground.is_unused_sample(settings)
    assert not ground.is_unused_sample(configuration.read(sample.encode(), "/etc/vmfence.conf"))
    changed = configuration.read(sample.replace("virbr0", "br0").encode(), "/etc/fence_virt.conf")
    assert not ground.is_unused_sample(changed)
    (tmp_path / "key").write_bytes(b"x" * 64)
    assert not ground.is_unused_sample(settings)


def test_rules_that_name_nobody_are_doubted() -> None:
    rules = 'groups { group { name = "web"; ip = "10.0.0.1"; uuid = "alpha"; uuid = "a1pha"; uuid = "ALPHA"; } }'
    text = f'fence_virtd {{ listener = "tcp"; backend = "libvirt"; }} backends {{ libvirt {{ uri = "u"; }} }} {rules}'
    settings = configuration.read(text.encode(), "/etc/vmfence.conf")
    guest = GuestFacts("alpha", "11111111-2222-3333-4444-555555555501", GuestState.RUNNING, True, bridges=("br0",))
    inventory = Inventory("u", "QEMU", "9.0.0", (guest,))
    doubts = choice.unknown_targets(settings, [inventory])
    assert [doubt.partition("lists ")[2].partition(",")[0] for doubt in doubts] == ["'a1pha'", "'ALPHA'"]
    assert "did you mean alpha?" in doubts[0]
    assert choice._unreachable(settings, (inventory,))[0].startswith("no guest on a bridge reaches 127.0.0.1: alpha")


# The check at the end


def test_the_answer_of_another_host_is_no_proof() -> None:
    ours = {"u1": "a", "u2": "b"}
    both = ["u1", "u2"]
    selfcheck.check_answer("here", ours, ours, both, both)
    selfcheck.check_answer("here", {"u1": "a", "u3": "new"}, {**ours, "u3": "new"}, [*both, "u3"], ["u1"])  # meanwhile
    selfcheck.check_answer("here", {}, ours, [], both)
    with pytest.raises(VmfenceError, match="another host answered at here. not of this host: c"):
        selfcheck.check_answer("here", {"u1": "a", "u9": "c"}, ours, both, both)
    with pytest.raises(VmfenceError, match="does not list all guests of this host. missing: a, b"):
        selfcheck.check_answer("here", {}, ours, both, both)
    with pytest.raises(VmfenceError, match="does not answer by the access rules. .*: b"):
        selfcheck.check_answer("here", ours, ours, ["u1"], both)


def test_only_lists_that_were_answered_count() -> None:
    requests = [("list", "ok", 3), ("list", "dropped", 5), ("status", "ok", 7)]
    status = {"requests": [{"action": a, "result": r, "count": n} for a, r, n in requests]}
    assert control.lists_answered(status) == 3
