"""What the kernel writes of its network, as read by ``host check``: texts of Linux 6.1, cut short."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vmfence.errors import VmfenceError
from vmfence.host import kernel
from vmfence.host.kernel import Holder, Link, Network, Route

IGMP = """Idx	Device    : Count Querier	Group    Users Timer	Reporter
1	lo        :     1      V3
				010000E0     1 0:00000000		0
4	br0       :     2      V3
				0C0000E1     1 0:00000000		0
				010000E0     1 0:00000000		0
"""
IGMP6 = """1    lo              ff020000000000000000000000000001     1 0000000C 0
4    br0             ff050000000000000000000000030001     1 00000004 0
"""
ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
br0	0000580A	00000000	0001	0	0	0	00FFFFFF	0	0	0
eth1	0B00580A	00000000	0005	0	0	0	FFFFFFFF	0	0	0
gone	0000590A	00000000	0000	0	0	0	00FFFFFF	0	0	0
"""
ARP = """IP address       HW type     Flags       HW address            Mask     Device
10.88.0.12       0x1         0x2         52:54:00:00:00:12     *        br0
10.88.0.13       0x1         0x0         00:00:00:00:00:00     *        br0
"""
UDP = """   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  402: 0C0000E1:04CD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31337 2 0000000000000000 0
"""
UDP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue tr
  402: 000005FF000000000000000001000300:04CD 00000000000000000000000000000000:0000 07 00000000:00000000 00:0 0 0 0 7 2
"""
NETSTAT = "TcpExt: SyncookiesSent IPReversePathFilter TCPTimeouts\nTcpExt: 0 17 3\nIpExt: InNoRoutes\nIpExt: 1\n"


def test_groups_are_read_for_each_interface() -> None:
    assert kernel.parse_igmp(IGMP) == {"lo": {"224.0.0.1"}, "br0": {"225.0.0.12", "224.0.0.1"}}
    assert kernel.parse_igmp6(IGMP6) == {"lo": {"ff02::1"}, "br0": {"ff05::3:1"}}


def test_routes_that_are_up() -> None:
    found = {route.interface: (str(route.network), route.is_direct) for route in kernel.parse_routes(ROUTES)}
    assert found == {"eth0": ("0.0.0.0/0", False), "br0": ("10.88.0.0/24", True), "eth1": ("10.88.0.11/32", True)}


def test_neighbours_that_have_answered() -> None:
    assert kernel.parse_neighbours(ARP) == (("10.88.0.12", "br0"),)


def test_sockets_of_both_families() -> None:
    assert list(kernel.parse_sockets(UDP, "07")) == [("225.0.0.12", 1229, 31337)]
    assert list(kernel.parse_sockets(UDP6, "07"))[0][:2] == ("ff05::3:1", 1229)
    assert list(kernel.parse_sockets(UDP, "0A")) == []


def test_packets_that_the_reverse_path_filter_dropped() -> None:
    assert kernel.parse_filtered(NETSTAT) == 17
    assert kernel.parse_filtered("") == kernel.parse_filtered("TcpExt: a\nTcpExt: b\n") == 0


@pytest.mark.parametrize("text", ["", "x", "1 2 x\n4 5 y\n", "a\n\n \n\t\tzz\n", "Iface\nbr0 zz zz zz zz zz zz zz\n"])
def test_what_cannot_be_read_is_left_out(text: str) -> None:
    assert not any(kernel.parse_igmp(text).values()) and kernel.parse_igmp6(text) == {}
    assert kernel.parse_routes(text) == () and kernel.parse_neighbours(text) == ()
    assert list(kernel.parse_sockets(text, "07")) == []


def network(*routes: Route, neighbours: tuple[tuple[str, str], ...] = ()) -> Network:
    return Network({}, routes, neighbours)


def route(interface: str, text: str, metric: int = 0, is_direct: bool = True) -> Route:
    return Route(interface, ipaddress.IPv4Network(text), metric, is_direct)


BR0, DEFAULT = route("br0", "10.88.0.0/24"), route("eth0", "0.0.0.0/0", is_direct=False)


@pytest.mark.parametrize(
    ("found", "elsewhere"),
    [
        (network(BR0, DEFAULT), {}),
        (network(BR0, route("eth1", "10.88.0.11/32")), {}),  # nobody is seen there
        (network(BR0, route("eth1", "10.88.0.11/32"), neighbours=(("10.88.0.11", "br0"),)), {"10.88.0.11": "eth1"}),
        (network(BR0, route("virbr0", "10.88.0.128/25"), neighbours=(("10.88.0.129", "virbr0"),)), {}),
        (network(BR0, DEFAULT, neighbours=(("10.99.0.1", "br0"),)), {"10.99.0.1": "eth0"}),
        (network(BR0, DEFAULT, neighbours=(("10.99.0.1", "eth0"), ("10.88.0.9", "br0"))), {}),
        (network(BR0, neighbours=(("10.99.0.1", "br0"),)), {}),  # no route at all
    ],
)
def test_neighbours_that_are_routed_elsewhere(found: Network, elsewhere: dict[str, str]) -> None:
    assert kernel.astray("br0", found) == elsewhere


@pytest.mark.parametrize(
    ("found", "elsewhere"),
    [
        (network(BR0, DEFAULT), {}),
        (network(BR0, route("eth1", "10.88.0.11/32")), {"10.88.0.11/32": "eth1"}),
        (network(BR0, route("eth1", "10.88.0.0/24", metric=100)), {}),
        (network(route("br0", "10.88.0.0/24", metric=100), route("eth1", "10.88.0.0/24")), {"10.88.0.0/24": "eth1"}),
    ],
)
def test_networks_within_those_of_an_interface(found: Network, elsewhere: dict[str, str]) -> None:
    assert kernel.carved_out("br0", found) == elsewhere


def test_what_the_filter_drops_meanwhile_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/netstat").write_text(NETSTAT)
    monkeypatch.setattr(kernel, "PROC", str(tmp_path))
    again = kernel.count_again(Network({}, filtered=15))
    assert (again.filtered, again.filtered_meanwhile) == (17, 2)


def test_an_interface_without_any_route() -> None:
    assert kernel.is_routed("br0", network(BR0)) and not kernel.is_routed("br0", network(DEFAULT))


def test_the_network_of_this_machine_can_be_read() -> None:
    found = kernel.read_network(["lo", "no-such"])
    assert found.link("lo") and found.link("no-such") and found.link("other") is None
    assert "224.0.0.1" in found.memberships["lo"]


def test_knobs_of_the_kernel_are_read() -> None:
    """A file of /proc/sys cannot be read by the megabyte."""
    folder = Path("/proc/sys/net/ipv4/conf")
    knobs = [int((folder / name / "rp_filter").read_text()) for name in ("all", "lo")]
    assert kernel.read_network(["lo"]).link("lo") == Link("lo", "unknown", max(knobs))
    with pytest.raises(VmfenceError, match="cannot read"):
        kernel._text("/proc/no-such-file")
    assert kernel._text("/proc/no-such-file", must_exist=False) == ""
    assert kernel._number(f"{folder}/all/rp_filter") == knobs[0]


def test_our_own_socket_is_nobody_elses() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert kernel.read_holders({("udp", port)}) == ()


def test_the_owner_of_a_socket_is_named() -> None:
    code = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))"
    code += "; print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdin is not None
        port = int(other.stdout.readline())
        [found] = kernel.read_holders({("udp", port)})
        other.stdin.write(b"\n")
    assert (found.pid, found.address, found.port) == (other.pid, "127.0.0.1", port)
    assert found.program.startswith("python")


def test_a_holder_is_told_in_words() -> None:
    assert str(Holder("udp", "225.0.0.12", 1229, 7, "fence_virtd")) == "fence_virtd (7) has UDP 225.0.0.12 port 1229"
    assert str(Holder("tcp", "::", 1229)) == "a process of another user has TCP :: port 1229"


@pytest.mark.parametrize(
    ("text", "ports"),
    [("32768\t60999\n", (32768, 60999)), ("", (1024, 65535)), ("nonsense\n", (1024, 65535)), (None, (1024, 65535))],
)
def test_ports_that_this_host_connects_from(tmp_path: Path, text: str | None, ports: tuple[int, int]) -> None:
    if text is not None:
        (tmp_path / "sys/net/ipv4").mkdir(parents=True)
        (tmp_path / "sys/net/ipv4/ip_local_port_range").write_text(text)
    assert kernel.read_local_ports(str(tmp_path)) == ports
