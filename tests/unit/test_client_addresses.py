"""The addresses of this machine: as the kernel tells them, compared with what ip(8) shows."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from vmfence.client import addresses
from vmfence.client.addresses import LocalAddress, callable_addresses, local_addresses

FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
DONE = struct.pack("=IHHIII", 20, 3, 2, 1, 0, 0)


def shown_by_ip(family: int) -> list[tuple[str, int]]:
    shown = subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True, timeout=10).stdout
    return sorted(
        (address["local"], link["ifindex"])
        for link in json.loads(shown)
        for address in link.get("addr_info", ())
        if address.get("family") == FAMILIES[socket.AddressFamily(family)]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_as_ip_shows(family: int) -> None:
    for _ in range(5):  # other tests may make and remove interfaces between the two looks
        ours = sorted((address.text(), address.index) for address in local_addresses(family))
        if ours == shown_by_ip(family):
            break
    assert ours == shown_by_ip(family)
    if family == socket.AF_INET:
        assert ("127.0.0.1", 1) in ours


class Kernel:
    """A netlink socket whose replies are scripted."""

    def __init__(self, *replies: bytes) -> None:
        self.replies, self.sent, self.is_closed = iter(replies), b"", False

    def __call__(self, *_: object) -> Kernel:
        return self

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds <= 5

    def send(self, data: bytes) -> None:
        self.sent += data

    def recv(self, size: int) -> bytes:
        return next(self.replies)


def attribute(kind: int, value: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(value), kind) + value
    return data.ljust((len(data) + 3) & ~3, b"\0")


def message(family: int, index: int, *attributes: tuple[int, bytes], kind: int = 20) -> bytes:
    body = struct.pack("=BBBBI", family, 24, 0, 0, index) + b"".join(attribute(*one) for one in attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def asked(monkeypatch: pytest.MonkeyPatch, *replies: bytes, family: int = socket.AF_INET) -> list[tuple[str, int]]:
    kernel = Kernel(*replies)
    monkeypatch.setattr(addresses.socket, "socket", kernel)
    try:
        return [(address.text(), address.index) for address in local_addresses(family)]
    finally:
        assert kernel.is_closed


def ip4(last: int) -> bytes:
    return bytes((10, 0, 0, last))


def numbered(numbers: range) -> Iterator[bytes]:
    return (message(2, number, (1, ip4(number)), (2, ip4(number)), (3, b"eth0\0")) for number in numbers)


def test_every_reply_of_a_long_dump_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [b"".join(numbered(range(1, 30))), b"".join(numbered(range(30, 90))), DONE]
    assert asked(monkeypatch, *replies) == [(f"10.0.0.{n}", n) for n in range(1, 90)]


def test_the_end_may_come_with_the_last_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(asked(monkeypatch, b"".join(numbered(range(1, 5))) + DONE)) == 4


def test_of_a_point_to_point_link_our_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, message(2, 3, (1, ip4(2)), (2, ip4(1))) + DONE) == [("10.0.0.1", 3)]


def test_ipv6_has_no_local_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = socket.inet_pton(socket.AF_INET6, "fd00::1")
    assert asked(monkeypatch, message(10, 4, (1, packed)) + DONE, family=socket.AF_INET6) == [("fd00::1", 4)]


def test_other_messages_and_families_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    others = message(10, 4, (1, bytes(16))) + message(2, 5, (1, ip4(5)), kind=16) + message(2, 6)
    assert asked(monkeypatch, others + b"".join(numbered(range(1, 2))) + DONE) == [("10.0.0.1", 1)]


def test_a_refusal_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="refused"):
        asked(monkeypatch, struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -1) + bytes(16))


@pytest.mark.parametrize(
    ("address", "is_callable"),
    [
        ("::1", False),
        ("fe80::1", False),
        ("febf::1", False),
        ("fec0::1", True),
        ("fd00::1", True),
        ("2001:db8::1", True),
        ("::2", True),
    ],
)
def test_where_a_host_may_call_back(monkeypatch: pytest.MonkeyPatch, address: str, is_callable: bool) -> None:
    found = [LocalAddress(socket.inet_pton(socket.AF_INET6, address), 2)]
    monkeypatch.setattr(addresses, "local_addresses", lambda family: found)
    assert callable_addresses(socket.AF_INET6) == (found if is_callable else [])


def test_every_ipv4_address_counts_loopback_too() -> None:
    """fence_xvm sends a copy for 127.0.0.1, and a daemon on the same machine hears it."""
    assert "127.0.0.1" in [address.text() for address in callable_addresses(socket.AF_INET)]
