"""Which sockets of a guest are served: its live definition, and what the settings mean by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmfence.config.settings import SerialSettings
from vmfence.errors import VmfenceError
from vmfence.host.backends.live import GuestSocket, LiveGuest, read_guest
from vmfence.host.listeners.channel import choose, is_meant
from vmfence.host.listeners.line import Place

UUID = "11111111-2222-3333-4444-555555555501"
OTHER = "11111111-2222-3333-4444-555555555502"
GUEST = """<domain type='kvm' id='3'><name>alpha</name><uuid>{uuid}</uuid><devices>
  <serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>
  <serial type='unix'><source mode='bind' path='/run/fence/alpha'/><target port='1'/></serial>
  <serial type='unix'><source mode='connect' path='/run/fence/connects'/><target port='2'/></serial>
  <serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/></serial>
  <console type='unix'><source mode='bind' path='/run/fence/alpha'/><target type='serial' port='1'/></console>
  <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/d-3/org.qemu.guest_agent.0'/>
    <target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/></channel>
  <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/d-3/org.vmfence.0'/>
    <target type='virtio' name='org.vmfence.0' state='connected'/></channel>
  <channel type='unix'><source mode='bind' path='/run/fence/alpha.chan'/>
    <target type='guestfwd' address='10.0.2.179' port='1229'/></channel>
  <channel type='unix'><source mode='bind'/><target type='virtio' name='not.yet.0'/></channel>
  <channel type='unix'><target type='virtio' name='none.0'/></channel>
  <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
  <vsock model='virtio'><cid auto='yes' address='7'/></vsock>
</devices></domain>"""
AGENT = GuestSocket(
    "channel", "/var/lib/libvirt/qemu/channel/target/d-3/org.qemu.guest_agent.0", "virtio", "org.qemu.guest_agent.0"
)
OURS = GuestSocket("channel", "/var/lib/libvirt/qemu/channel/target/d-3/org.vmfence.0", "virtio", "org.vmfence.0")
FORWARDED = GuestSocket("channel", "/run/fence/alpha.chan", "guestfwd")
SERIAL = GuestSocket("serial", "/run/fence/alpha")


def test_what_a_definition_says() -> None:
    guest = read_guest(GUEST.format(uuid=UUID))
    assert guest == LiveGuest("alpha", UUID, (SERIAL, AGENT, OURS, FORWARDED), 7, "3")


@pytest.mark.parametrize("vsock", ["", "<vsock><cid auto='yes'/></vsock>", "<vsock><cid address='x'/></vsock>"])
def test_a_guest_without_anything(vsock: str) -> None:
    guest = read_guest(f"<domain><name>a</name><uuid>{UUID}</uuid><devices>{vsock}</devices></domain>")
    assert guest == LiveGuest("a", UUID)


@given(st.text(max_size=200))
def test_what_is_no_definition(text: str) -> None:
    try:
        read_guest(text)
    except VmfenceError:
        pass


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SerialSettings(mode="serial"), [SERIAL]),
        (SerialSettings(mode="vmchannel"), [OURS, FORWARDED]),
        (SerialSettings(mode="virtio"), [OURS]),
        (SerialSettings(mode="virtio", channel="org.other.0"), []),
        (SerialSettings(mode="serial", path="/run/fence"), [SERIAL]),
        (SerialSettings(mode="serial", path="//run/fence//"), [SERIAL]),
        (SerialSettings(mode="serial", path="/run"), []),
        (SerialSettings(mode="serial", path="/run/fence/alpha"), []),
        (SerialSettings(mode="vmchannel", path="/run/fence"), [FORWARDED]),
        (SerialSettings(mode="virtio", path="/run/fence"), []),
    ],
)
def test_which_are_meant(settings: SerialSettings, expected: list[GuestSocket]) -> None:
    sockets = read_guest(GUEST.format(uuid=UUID)).sockets
    assert [each for each in sockets if is_meant(each, settings)] == expected


def test_a_socket_of_two_guests_is_refused() -> None:
    own = GuestSocket("serial", "/run/fence/beta")
    guests = [LiveGuest("alpha", UUID, (SERIAL, SERIAL)), LiveGuest("beta", OTHER, (SERIAL, own))]
    places, refused = choose(guests, SerialSettings())
    assert (places, refused) == ([Place("serial", own.path, "beta", OTHER)], frozenset({SERIAL.path}))


def test_a_socket_that_a_guest_has_twice_is_one() -> None:
    places, refused = choose([LiveGuest("alpha", UUID, (SERIAL, SERIAL))], SerialSettings())
    assert (places, refused) == ([Place("serial", SERIAL.path, "alpha", UUID)], frozenset())


def test_one_socket_spelled_in_two_ways_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "a").touch()
    (tmp_path / "real" / "b").touch()
    (tmp_path / "real" / "own").touch()
    (tmp_path / "hard").hardlink_to(tmp_path / "real" / "b")
    paths = {"a": "real/a", "a2": "link/./a", "b": "real/b", "b2": "hard", "c": "real/not-yet", "c2": "link/not-yet"}
    spelled = {name: f"{tmp_path}/{path}" for name, path in paths.items()}
    own = GuestSocket("serial", f"{tmp_path}/real/own")
    guests = [
        LiveGuest(name, f"{number:08}-2222-3333-4444-555555555502", (GuestSocket("serial", path),))
        for number, (name, path) in enumerate(spelled.items())
    ]
    places, refused = choose([*guests, LiveGuest("alpha", UUID, (own,))], SerialSettings())
    assert (places, refused) == ([Place("serial", own.path, "alpha", UUID)], frozenset(spelled.values()))
