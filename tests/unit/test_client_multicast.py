"""Which family and group are meant."""

from __future__ import annotations

import socket
import time

import pytest

from vmfence.client import multicast
from vmfence.client.ask import Transport, ask
from vmfence.client.failures import NoAnswer
from vmfence.client.multicast import family_of
from vmfence.errors import UsageError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import Action

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("family", "address", "meant"),
    [
        ("auto", "", (IPV4, "225.0.0.12")),
        ("ipv4", "", (IPV4, "225.0.0.12")),
        ("ipv6", "", (IPV6, "ff05::3:1")),
        ("auto", "239.1.2.3", (IPV4, "239.1.2.3")),
        ("auto", "224.0.0.1", (IPV4, "224.0.0.1")),
        ("auto", "239.255.255.255", (IPV4, "239.255.255.255")),
        ("auto", "ff02::1", (IPV6, "ff02::1")),
        ("auto", "FF05::3:1", (IPV6, "FF05::3:1")),
        ("ipv4", "225.0.0.12", (IPV4, "225.0.0.12")),
        ("ipv6", "ff3e::1", (IPV6, "ff3e::1")),
    ],
)
def test_family_and_group(family: str, address: str, meant: tuple[int, str]) -> None:
    assert family_of(family, address) == meant


@pytest.mark.parametrize(
    ("family", "address"),
    [
        *(("ipv4", "ff05::3:1"), ("ipv6", "225.0.0.12")),
        *(("auto", address) for address in ("223.255.255.255", "240.0.0.0", "10.0.0.1", "127.0.0.1", "fe80::1", "::1")),
        *(("auto", address) for address in ("group", "225.0.0", "225.0.0.012", "225.0.0.12 ", " ", "225.0.0.12\0")),
        *(("auto", address) for address in ("ff05::3:1%eth0", "ff05:::1", "\u0662\u0662\u0665.0.0.12", "255.0.0.0.1")),
    ],
)
def test_what_is_no_group(family: str, address: str) -> None:
    with pytest.raises(UsageError):
        family_of(family, address)


def test_without_time_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that is over before the first copy is an answer of its own, no defect."""
    monkeypatch.setattr(multicast, "send", lambda *_: pytest.fail("sent"))
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        ask(
            Action.LIST,
            "",
            Transport("multicast", port=0),
            Key(b"k" * 32),
            hash_type=Hash.SHA256,
            auth=Hash.SHA256,
            timeout_s=0,
        )
    assert time.monotonic() - began < 2
