"""Interfaces, bridges and their guests; what libvirt's definitions say about attachments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmfence import xmldoc
from vmfence.errors import ListenError
from vmfence.host import network
from vmfence.host.backends.inventory import GuestFacts, Inventory, candidate_uris, links
from vmfence.host.network import Bridge, Interface
from vmfence.protocol.reply import State

UUID = "11111111-2222-3333-4444-555555555501"
HOST = (
    Interface("br0", is_bridge=True),
    Interface("eth0", master="br0"),
    Interface("eth1"),
    Interface("lo"),
    Interface("ovs0"),
    Interface("virbr0", is_bridge=True, is_up=False),
)


def guest(name: str, *bridges: str, direct: tuple[str, ...] = ()) -> GuestFacts:
    return GuestFacts(name, UUID, State.RUNNING, bridges=bridges, direct=direct)


def having(*guests: GuestFacts) -> list[Inventory]:
    return [Inventory("test:///x", "TEST 1.0.0", "9.0.0", guests)]


def test_bridges_are_shown_with_their_guests_most_used_first() -> None:
    found = network.bridges(HOST, having(guest("a", "virbr0"), guest("b", "virbr0"), guest("c", "br0")))
    assert found == (Bridge("virbr0", False, ("a", "b")), Bridge("br0", True, ("c",)))
    assert [str(bridge) for bridge in found] == ["virbr0 (down, guests: a, b)", "br0 (guests: c)"]


def test_a_bridge_without_guests_is_one_too() -> None:
    assert [str(bridge) for bridge in network.bridges(HOST, [])] == ["br0 (no guests)", "virbr0 (down, no guests)"]


def test_open_vswitch_has_no_bridge_folder_but_guests() -> None:
    assert network.bridges(HOST, having(guest("a", "ovs0")))[0] == Bridge("ovs0", True, ("a",))


def test_a_bridge_of_another_host_is_none_of_ours() -> None:
    assert network.only_bridge(network.bridges(HOST, having(guest("a", "br9")))) is None


def test_many_guests_are_counted() -> None:
    names = tuple(f"vm-{number}" for number in range(9))
    assert str(Bridge("br0", True, names)).endswith("vm-5 and 3 more)")


@pytest.mark.parametrize(
    ("guests", "expected"),
    [((), None), (("br0",), "br0"), (("br0", "br0"), "br0"), (("br0", "virbr0"), None)],
)
def test_the_only_bridge_with_guests(guests: tuple[str, ...], expected: str | None) -> None:
    found = network.only_bridge(network.bridges(HOST, having(*(guest(f"g{n}", b) for n, b in enumerate(guests)))))
    assert (found.name if found else None) == expected


@pytest.mark.parametrize("name", ["br0", "lo", "virbr0"])
def test_an_interface_that_exists(name: str) -> None:
    assert network.check_interface(name, HOST).name == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("br1", "no interface br1.*did you mean 'br0'"),
        ("zzz", "known here: br0, eth0"),
        ("eth0", "port of br0.*use br0"),
    ],
)
def test_an_interface_that_hears_nothing(name: str, said: str) -> None:
    with pytest.raises(ListenError) as caught:
        network.check_interface(name, HOST)
    assert re.search(said, str(caught.value))


def test_guests_elsewhere_are_not_heard() -> None:
    inventories = having(guest("a", "br0"), guest("b", "virbr0"), guest("c", "virbr0"), guest("d", "br0", "virbr0"))
    assert network.doubts("br0", inventories) == ["b, c are attached to virbr0, not to br0, so not heard"]


def test_no_interface_is_doubtful_where_guests_are_on_bridges() -> None:
    assert network.doubts(None, having(guest("a", "br0"))) == [
        "without an interface the kernel chooses one by its routes"
    ]
    assert network.doubts(None, having(guest("a"))) == []


def test_macvtap_cannot_reach_the_host() -> None:
    found = network.doubts("br0", having(guest("a", direct=("eth1",)), guest("b", "br0", direct=("eth1",))))
    assert len(found) == 1
    assert found[0].startswith("a is attached by macvtap only")


def test_interfaces_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    for name, flags in (("br0", "0x1003"), ("eth0", "0x1002"), ("eth1", "0x1043")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags").write_text(f"{flags}\n")
    (tmp_path / "br0" / "bridge").mkdir()
    (tmp_path / "eth1" / "master").symlink_to("../br0")
    (tmp_path / "bonding_masters").write_text("")
    (tmp_path / "gone").mkdir()
    assert network.read_interfaces(str(tmp_path)) == (
        Interface("br0", is_bridge=True),
        Interface("eth0", is_up=False),
        Interface("eth1", master="br0"),
    )


def test_this_machine_has_a_loopback() -> None:
    loopback = network.check_interface("lo", network.read_interfaces())
    assert not loopback.is_bridge
    assert network.ipv4_address("lo") in ("127.0.0.1", None)
    assert network.ipv4_address("vmf-nothing") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "127.9.9.9"])
def test_addresses_of_this_host(address: str) -> None:
    network.check_address(address)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_addresses_of_another_host(address: str) -> None:
    with pytest.raises(ListenError, match="no address of this host"):
        network.check_address(address)


NETWORKS = {
    "default": "<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/></network>",
    "lan": "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>",
    "tap": "<network><name>tap</name><forward mode='bridge'><interface dev='eth1'/></forward></network>",
}
LINKS = {
    "bridge": ("<interface type='bridge'><source bridge='br0'/></interface>", (("br0",), (), ())),
    "twice": ("<interface type='bridge'><source bridge='br0'/></interface>" * 2, (("br0",), (), ())),
    "network": ("<interface type='network'><source network='default'/></interface>", (("virbr0",), (), ())),
    "bridged network": ("<interface type='network'><source network='lan'/></interface>", (("br0",), (), ())),
    "running": ("<interface type='network'><source network='x' bridge='virbr7'/></interface>", (("virbr7",), (), ())),
    "macvtap": ("<interface type='direct'><source dev='eth1' mode='vepa'/></interface>", ((), ("eth1",), ())),
    "macvtap network": ("<interface type='network'><source network='tap'/></interface>", ((), ("eth1",), ())),
    "unknown": ("<interface type='network'><source network='gone'/></interface>", ((), (), ("gone",))),
    "user": ("<interface type='user'/>", ((), (), ())),
    "hostdev": ("<interface type='hostdev'><source><address/></source></interface>", ((), (), ())),
    "vhostuser": ("<interface type='vhostuser'><source type='unix' path='/x'/></interface>", ((), (), ())),
    "none": ("", ((), (), ())),
    "odd": ("<interface/><interface type='bridge'/><interface type='network'><source/></interface>", ((), (), ())),
}


@pytest.mark.parametrize("name", LINKS)
def test_attachments_of_a_guest(name: str) -> None:
    text, expected = LINKS[name]
    networks = {name: xmldoc.parse(text, "network") for name, text in NETWORKS.items()}
    assert links(xmldoc.parse(f"<domain><devices>{text}</devices></domain>", "guest"), networks) == expected


def test_candidates_are_the_system_then_what_has_a_socket(tmp_path: Path) -> None:
    for socket in ("libvirt/virtlxcd-sock", "user/1000/libvirt/libvirt-sock", "user/1000/libvirt/virtqemud-sock"):
        (tmp_path / socket).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / socket).touch()
    (tmp_path / "user/1001/libvirt").mkdir(parents=True)
    session = f"qemu+unix:///session?socket={tmp_path}/user/1000/libvirt/virtqemud-sock"
    assert candidate_uris(str(tmp_path)) == ("qemu:///system", "lxc:///system", session)
    assert candidate_uris(str(tmp_path / "empty")) == ("qemu:///system",)
