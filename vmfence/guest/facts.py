"""What ``guest check`` gathers before it judges: key, addresses, firewall, one real question.  Changes nothing."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable

from vmfence import keyfile
from vmfence.client.addresses import local_addresses
from vmfence.client.multicast import family_of
from vmfence.errors import KeyFileError, KeyNotPermitted, NotPermitted, VmfenceError
from vmfence.findings import NotAsked, NotReached, is_forbidden
from vmfence.guest import survey, trial
from vmfence.guest.guests import Inquiry
from vmfence.guest.survey import Survey
from vmfence.guest.trial import Trial
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.rules import Opening

_SYS, _RP_FILTER = "/sys/class/net", "/proc/sys/net/ipv4/conf"


@dataclass(frozen=True)
class KeyFacts:
    """A key that can be used, its *fingerprint* (SHA-256), and what weakens it."""

    fingerprint: str
    weaknesses: tuple[KeyFileError, ...] = ()


@dataclass(frozen=True)
class Address:
    """One address of this machine: *state* of its interface as the kernel has it, and its strictest reverse filter."""

    text: str
    interface: str
    state: str = "up"
    rp_filter: int = 0

    @property
    def is_loopback(self) -> bool:
        """Whether it leads nowhere but here."""
        return self.text == "::1" or self.text.startswith("127.")

    @property
    def is_link_local(self) -> bool:
        """Whether it is an IPv6 address that means nothing without an interface, so nobody can be told to call it."""
        return self.text.startswith(("fe8", "fe9", "fea", "feb"))

    @property
    def is_down(self) -> bool:
        """Whether nothing can come or go there."""
        return self.state in ("down", "lowerlayerdown", "notpresent")


@dataclass(frozen=True)
class Facts:
    """All facts; what could not be gathered is the VmfenceError instead, and rules that need it are not asked."""

    inquiry: Inquiry
    key: KeyFacts
    addresses: tuple[Address, ...]
    firewall: Firewall
    trial: Trial
    hosts: Survey

    @property
    def callable(self) -> tuple[Address, ...]:
        """The addresses at which a host may call back."""
        return tuple(one for one in self.addresses if not (one.is_loopback or one.is_link_local))


def first_round(inquiry: Inquiry, limit_s: float) -> dict[str, Callable[[], Any]]:
    """Return what can be gathered at once; the question waits *limit_s* seconds for a host."""
    if inquiry.kind == "multicast":
        family_of(inquiry.family, inquiry.address)
    return {
        "key": lambda: read_key(inquiry),
        "addresses": lambda: read_addresses(inquiry),
        "firewall": lambda: read_firewall(inquiry),
        "trial": lambda: run_trial(inquiry, limit_s),
    }


def second_round(inquiry: Inquiry, tried: Trial | VmfenceError) -> dict[str, Callable[[], Any]]:
    """Return what is asked of hosts that have answered."""
    if isinstance(tried, VmfenceError) and is_forbidden(tried):
        return {"hosts": partial(_raise, tried)}
    if isinstance(tried, VmfenceError) or not tried.is_answered:
        return {"hosts": _no_hosts}
    heard = replace(inquiry, hash_name=tried.hash_name)
    return {"hosts": lambda: survey.survey(heard)}


def complete(inquiry: Inquiry, gathered: Mapping[str, Any]) -> Facts:
    """Return the facts made of what was *gathered*."""
    return Facts(inquiry=inquiry, **gathered)


def read_key(inquiry: Inquiry) -> KeyFacts:
    """Return what is to be known of the key.  Raises KeyFileError; NotAsked where none is needed."""
    if not inquiry.uses_key:
        raise NotAsked("no key is used this way")
    key = keyfile.read(inquiry.key_file)
    return KeyFacts(keyfile.fingerprint(key), tuple(keyfile.judge(inquiry.key_file)))


def run_trial(inquiry: Inquiry, limit_s: float) -> Trial:
    """Put the question.  Raises UsageError, ListenError, NotPermitted; NotReached without the key, told as such."""
    try:
        return trial.run(inquiry, limit_s)
    except KeyNotPermitted as error:
        raise NotPermitted("no host was asked: this user may not read the key", error.why, error.remedy) from error
    except KeyFileError as error:
        raise NotReached("no host was asked, for lack of the key") from error


def read_addresses(inquiry: Inquiry) -> tuple[Address, ...]:
    """Return the addresses of the family that is asked by.  Raises VmfenceError."""
    if inquiry.kind != "multicast":
        raise NotAsked("hosts do not call back this way")
    family, _ = family_of(inquiry.family, inquiry.address)
    try:
        return tuple(_address(one.text(), one.index) for one in local_addresses(family))
    except OSError as error:
        raise VmfenceError("cannot list the addresses of this machine", error.strerror or str(error)) from error


def read_firewall(inquiry: Inquiry) -> Firewall:
    """Return what this machine's firewall does to call-backs.  Raises VmfenceError, NotPermitted unless root asks."""
    port = inquiry.port if inquiry.callback_port is None else inquiry.callback_port
    addresses = read_addresses(inquiry)
    if os.geteuid() != 0:
        raise NotPermitted("this user may not read the firewall", "", "run this as root")
    outside = [one for one in addresses if not (one.is_loopback or one.is_link_local)]
    family = "ipv6" if any(":" in one.text for one in outside) else "ipv4"
    return firewall.look([Opening("tcp", port, one.interface, family, address=one.text) for one in outside])


def _raise(error: VmfenceError) -> Survey:
    raise error


def _no_hosts() -> Survey:
    raise NotReached("no host answers")


def _address(text: str, index: int) -> Address:
    try:
        name = socket.if_indextoname(index)
    except OSError:  # it has just gone
        return Address(text, str(index), "notpresent")
    filters = [_read(f"{_RP_FILTER}/{each}/rp_filter") for each in ("all", name)]
    strictest = max((int(one) for one in filters if one.isdigit()), default=0)
    return Address(text, name, _read(os.path.join(_SYS, name, "operstate")) or "unknown", strictest)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read(64).strip()
    return ""
