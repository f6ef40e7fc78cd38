"""What a libvirt URI has: its version, its guests, and the interfaces of this host that they are attached to.

For commands, not for the daemon: one connection, one look, a deadline.  libvirt calls cannot be interrupted, so they
run in a thread that is left behind when libvirt hangs; it ends with the process.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Callable, TypeVar

from vmfence import xmldoc
from vmfence.errors import Unreachable
from vmfence.host.backends import binding as libvirt
from vmfence.protocol.reply import State, guest_count

T = TypeVar("T")

TIMEOUT_S = 10.0
DEFAULT_URI = "qemu:///system"
# Sockets of libvirt's other modular daemons (virtlxcd(8) and its like), below /run/libvirt.
_MODULAR = {"virtlxcd-sock": "lxc:///system", "virtxend-sock": "xen:///system", "virtchd-sock": "ch:///system"}
_SESSION_SOCKETS = ("virtqemud-sock", "libvirt-sock")
_START_IT = "see that libvirt runs: systemctl status virtqemud libvirtd"
_RESTART_IT = "it hangs, or its host is overloaded: systemctl status virtqemud libvirtd, then restart it"


class Hung(Unreachable):
    """A libvirt that takes connections, and does not answer in time."""


@dataclass(frozen=True)
class GuestFacts:
    """One guest.

    *bridges*: interfaces of the host that it is attached to, also through libvirt's networks; *direct*: interfaces
    that it shares by macvtap, on which it cannot reach the host; *unresolved*: networks that libvirt does not know.
    *moved*: it is shut off here because it was migrated away.
    """

    name: str
    uuid: str
    state: State
    is_persistent: bool = True
    bridges: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()
    moved: bool = False

    @property
    def state_text(self) -> str:
        """The state as libvirt's own tools write it."""
        return self.state.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Inventory:
    """One URI.  *hypervisor* and *libvirt* are versions as text (``QEMU 7.2.0``, ``9.0.0``).

    *networks*: libvirt's, each with its bridge.
    """

    uri: str
    hypervisor: str
    libvirt: str
    guests: tuple[GuestFacts, ...]
    networks: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.uri}: {self.hypervisor}, libvirt {self.libvirt}, {guest_count(len(self.guests))}"


def read_inventory(uri: str, timeout_s: float = TIMEOUT_S) -> Inventory:
    """Return what *uri* has, guests by name.  Raises Unreachable: no connection, or no answer in *timeout_s*."""
    found, silent = survey((uri,), timeout_s)
    if silent:
        raise silent[0]
    return found[0]


def survey(uris: Iterable[str], timeout_s: float = TIMEOUT_S) -> tuple[list[Inventory], list[Unreachable]]:
    """Ask all *uris* at once; return those that answer within *timeout_s*, and an error for each of the others."""
    deadline = time.monotonic() + timeout_s
    asked = [(uri, _begin(uri, partial(_inventory, uri))) for uri in uris]
    found: list[Inventory] = []
    silent: list[Unreachable] = []
    for uri, future in asked:
        try:
            found.append(_end(uri, future, deadline, timeout_s))
        except Unreachable as error:
            silent.append(error)
    return found, silent


def ask_libvirt(uri: str, work: Callable[[libvirt.virConnect], T], timeout_s: float = TIMEOUT_S) -> T:
    """Return what *work* returns for a connection to *uri*.  Raises what it raises; Unreachable: no answer in time."""
    deadline = time.monotonic() + timeout_s
    return _end(uri, _begin(uri, work), deadline, timeout_s)


def candidate_uris(run: str = "/run") -> tuple[str, ...]:
    """Return the URIs under which this machine may have guests, the usual one first.

    Besides the system's: other hypervisors with a daemon of their own, and users' sessions (spec faults 18); a user
    who is not root sees only his own.  Only sockets are looked for: asking would start daemons.
    """
    others = [uri for name, uri in _MODULAR.items() if os.path.exists(f"{run}/libvirt/{name}")]
    return (DEFAULT_URI, *others, *_session_uris(run))


def _session_uris(run: str) -> list[str]:
    found = []
    for folder in sorted(glob.glob(f"{glob.escape(run)}/user/*/libvirt")):
        sockets = [path for name in _SESSION_SOCKETS if os.path.exists(path := f"{folder}/{name}")]
        found += [f"qemu+unix:///session?socket={path}" for path in sockets[:1]]
    return found


def _begin(uri: str, work: Callable[[libvirt.virConnect], T]) -> Future[T]:
    """Start to read in a thread that does not keep the process alive, unlike those of an executor."""
    future: Future[T] = Future()

    def read() -> None:
        try:
            future.set_result(_read(uri, work))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)

    threading.Thread(target=read, name=f"inventory of {uri}", daemon=True).start()
    return future


def _end(uri: str, future: Future[T], deadline: float, timeout_s: float) -> T:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except concurrent.futures.TimeoutError:
        why = f"no answer within {timeout_s:g} s"
        raise Hung(f"libvirt at {uri} does not answer", why, _RESTART_IT) from None


def _read(uri: str, work: Callable[[libvirt.virConnect], T]) -> T:
    libvirt.registerErrorHandler(lambda context, error: None, None)  # else libvirt writes to stderr itself
    try:
        with contextlib.closing(libvirt.open(uri)) as connection:
            return work(connection)
    except libvirt.libvirtError as error:
        why = (error.get_error_message() or str(error)).rstrip(".")
        raise Unreachable(f"cannot connect to libvirt at {uri}", why, _remedy(error)) from error
    except UnicodeError as error:
        raise Unreachable(f"cannot connect to libvirt at {uri}", "this is not UTF-8", "write another URI") from error


def _remedy(error: libvirt.libvirtError) -> str:
    refused = (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_UNAVAILABLE, libvirt.VIR_ERR_AUTH_CANCELLED)
    if error.get_error_code() in refused or "Permission denied" in str(error):
        return "run this as root, or as a member of group libvirt"
    return _START_IT


def _inventory(uri: str, connection: libvirt.virConnect) -> Inventory:
    networks = _networks(connection)
    guests = []
    for domain in connection.listAllDomains():
        try:
            guests.append(_guest(domain, networks))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # one that ended while we look
                raise
    hypervisor = f"{connection.getType()} {_version(connection.getVersion())}"
    ordered = tuple(sorted(guests, key=lambda guest: guest.name.lower()))
    bridges = {name: root.find("bridge") for name, root in networks.items()}
    pairs = tuple((name, bridge.get("name", "")) for name, bridge in bridges.items() if bridge is not None)
    return Inventory(uri, hypervisor, _version(connection.getLibVersion()), ordered, pairs)


def _version(number: int) -> str:
    """Return the text of libvirt's major * 1000000 + minor * 1000 + release."""
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _guest(domain: libvirt.virDomain, networks: Mapping[str, xmldoc.Element]) -> GuestFacts:
    number, reason = domain.state()
    state = State(number) if number in State._value2member_map_ else State.NONE
    moved = number == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED
    root = xmldoc.parse(domain.XMLDesc(0), f"the definition of {domain.name()}")
    is_kept = bool(domain.isPersistent())
    return GuestFacts(domain.name(), domain.UUIDString(), state, is_kept, *links(root, networks), moved)


def links(
    domain: xmldoc.Element, networks: Mapping[str, xmldoc.Element]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the bridges, macvtap interfaces and unknown networks of the definition *domain*, each once.

    *networks* are definitions by name (libvirt formatdomain.html, formatnetwork.html).  A running guest tells the
    bridge of its network itself.
    """
    found: dict[str, list[str]] = {"bridge": [], "direct": [], "unresolved": []}
    for interface in domain.iterfind("devices/interface"):
        source = interface.find("source")
        attributes = {} if source is None else {str(key): str(value) for key, value in source.attrib.items()}
        kind, name = _attachment(str(interface.get("type")), attributes, networks)
        if name and name not in found.get(kind, [name]):
            found[kind].append(name)
    return tuple(found["bridge"]), tuple(found["direct"]), tuple(found["unresolved"])


def _attachment(kind: str, source: Mapping[str, str], networks: Mapping[str, xmldoc.Element]) -> tuple[str, str | None]:
    """Return what an interface with this *source* is attached to: (bridge, direct, unresolved or other, name)."""
    if kind != "network":
        return kind, source.get("bridge" if kind == "bridge" else "dev")
    if "bridge" in source:
        return "bridge", source["bridge"]
    network = networks.get(source.get("network", ""))
    if network is None:
        return "unresolved", source.get("network")
    bridge, device = network.find("bridge"), network.find("forward/interface")
    if bridge is not None:
        return "bridge", bridge.get("name")
    return "direct", source.get("dev") or (None if device is None else device.get("dev"))


def _networks(connection: libvirt.virConnect) -> dict[str, xmldoc.Element]:
    """Return the definitions of libvirt's networks; none when its network daemon does not answer."""
    try:
        found = connection.listAllNetworks()
    except libvirt.libvirtError:
        return {}
    networks = {}
    for network in found:
        with contextlib.suppress(libvirt.libvirtError):  # one that is removed while we look
            networks[network.name()] = xmldoc.parse(network.XMLDesc(0), f"the network {network.name()}")
    return networks
