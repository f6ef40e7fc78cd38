"""Who is known to be behind an interface: texts and bytes as Linux 6.1 and libvirt 9.0 write them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vmfence.packetfilter import origins
from vmfence.packetfilter.origins import Origin, Origins, read_origins

ARP = """IP address       HW type     Flags       HW address            Mask     Device
10.88.0.11       0x1         0x2         52:54:00:00:00:11     *        br0
10.88.0.12       0x1         0x0         00:00:00:00:00:00     *        br0
10.88.0.254      0x1         0x2         52:54:00:00:00:fe     *        br0
10.99.0.1        0x1         0x2         52:54:00:00:00:99     *        br1
nonsense
"""
ROUTE = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
br0	0000580A	00000000	0001	0	0	0	00FFFFFF	0	0	0
br0	00000000	FE00580A	0003	0	0	0	00000000	0	0	0
br1	0000630A	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""
TRIE = """Local:
  +-- 10.88.0.0/24 2 0 2
     |-- 10.88.0.0
        /32 link BROADCAST
     |-- 10.88.0.1
        /32 host LOCAL
"""
INET6 = "fd880000000000000000000000000001 04 40 00 80     br0\n"
LEASES = '[{"ip-address": "10.88.0.13", "mac-address": "52:54:00:00:00:13", "expiry-time": 1}]'


def learned(hardware: str, port: int, is_local: bool = False) -> bytes:
    return struct.pack("=6sBBIBBH", bytes.fromhex(hardware.replace(":", "")), port, is_local, 7, 0, 0, 0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bridge with two guests' ports and one that is hardware, behind which is the router."""
    files: dict[str, bytes] = {
        "net/arp": ARP.encode(),
        "net/route": ROUTE.encode(),
        "net/fib_trie": TRIE.encode(),
        "net/if_inet6": INET6.encode(),
        "leases/br0.status": LEASES.encode(),
        "class/br0/brforward": learned("52:54:00:00:00:11", 1)
        + learned("52:54:00:00:00:14", 2)
        + learned("52:54:00:00:00:fe", 3)
        + learned("52:54:00:00:00:01", 1, is_local=True)
        + b"cut",
        "class/br0/brif/vnet0/port_no": b"0x1\n",
        "class/br0/brif/vnet1/port_no": b"0x2\n",
        "class/br0/brif/eth0/port_no": b"0x3\n",
        "class/eth0/device/uevent": b"",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(origins, "_PROC_NET", str(tmp_path / "net"))
    monkeypatch.setattr(origins, "_SYS_CLASS_NET", str(tmp_path / "class"))
    monkeypatch.setattr(origins, "_LEASES", str(tmp_path / "leases"))
    return tmp_path


def test_guests_are_known_by_neighbours_and_by_what_the_bridge_has_learned(machine: Path) -> None:
    found = read_origins("br0", "ipv4")
    assert found.known == (
        Origin("10.88.0.11", "52:54:00:00:00:11", "vnet0"),
        Origin("", "52:54:00:00:00:14", "vnet1"),
    )  # neither the router behind the hardware, nor whoever may be there
    assert (found.networks, found.own) == (("10.88.0.0/24",), frozenset({"10.88.0.1"}))


def test_leases_count_where_no_other_machine_is_on_the_bridge(machine: Path) -> None:
    (machine / "class/eth0/device/uevent").unlink()
    (machine / "class/eth0/device").rmdir()
    assert Origin("10.88.0.13", "52:54:00:00:00:13") in read_origins("br0", "ipv4").known


def test_networks_of_ipv6(machine: Path) -> None:
    assert read_origins("br0", "ipv6") == Origins((), ("fd88::/64",), frozenset({"fd88::1"}))


@pytest.mark.parametrize("name", ["net/arp", "net/route", "net/fib_trie", "leases/br0.status", "class/br0/brforward"])
@pytest.mark.parametrize("content", [None, b"", b"x\n", b"\xff\n\xff", b'[{"ip-address": 7}]', b'{"a": 1}'])
def test_what_cannot_be_read_is_left_out(machine: Path, name: str, content: bytes | None) -> None:
    path = machine / name
    path.write_bytes(content) if content is not None else path.unlink()
    assert isinstance(read_origins("br0", "ipv4"), Origins)
    assert read_origins(None, "ipv4") == Origins()
