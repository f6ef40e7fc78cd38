"""Which listeners suit a host, and the access rules that they need: sections of a configuration, chosen.  Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vmfence.config.grammar import shown
from vmfence.config.listeners import CHANNEL
from vmfence.config.settings import KEY_FILE, MULTICAST_ADDRESSES, PORT
from vmfence.errors import UsageError, VmfenceError
from vmfence.host import configure, network
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.channels import SERIAL_FOLDER
from vmfence.host.network import Bridge
from vmfence.host.wishes import Ground, Wishes, names
from vmfence.policy import Group

LISTENERS = ("multicast", "tcp", "vsock", "virtio", "serial")  # virtio: listener serial in mode virtio
LOOPBACK = "127.0.0.1"
_CHANNELS = ("virtio", "serial")
_NAME_ONE = "name the bridge of the guests with --interface, or take --listener virtio, which needs no network"


@dataclass(frozen=True)
class Section:
    """One listener of a new file."""

    name: str
    keys: Mapping[str, str]


def sections_of(wishes: Wishes, ground: Ground, inventories: tuple[Inventory, ...]) -> tuple[list[Section], str]:
    """Return the sections of the listeners, and why these."""
    if {*_CHANNELS} <= {*wishes.listeners}:
        raise UsageError("virtio and serial are modes of one listener", "", "take one of them")
    _check_uses(wishes)
    found = [_section(name, wishes, ground, inventories) for name in wishes.listeners or (None,)]
    return [section for section, _ in found], "; ".join(dict.fromkeys(why for _, why in found))


def _check_uses(wishes: Wishes) -> None:
    """Raise UsageError for an option that none of the listeners has a use for: nothing is ignored in silence."""
    users = {
        "--interface": (wishes.interface, ("multicast", "tcp")),
        "--key-file": (wishes.key_file, ("multicast", "tcp", "vsock")),
    }
    for option, (value, listeners) in users.items():
        if value is not None and wishes.listeners and not {*listeners} & {*wishes.listeners}:
            raise UsageError(
                f"{option} has no use here", f"it is for listener {' or '.join(listeners)}", "leave it out"
            )


def _section(
    name: str | None, wishes: Wishes, ground: Ground, inventories: tuple[Inventory, ...]
) -> tuple[Section, str]:
    """Return the section of the listener *name* (None: the one that suits), and why it is so."""
    key = {"key_file": wishes.key_file or KEY_FILE}
    if name == "vsock":
        return Section(name, {**key, "port": str(PORT)}), "named by --listener"
    if name == "virtio":
        return Section("serial", {"mode": "virtio", "channel": CHANNEL}), "named by --listener"
    if name == "serial":
        if any(is_session(one.uri) for one in inventories):
            raise VmfenceError("guests of a session have no folder for serial lines", "", "take --listener virtio")
        return Section("serial", {"mode": "serial", "path": SERIAL_FOLDER}), "named by --listener"
    listener, why = _by_network(name, wishes, ground, inventories)
    return Section(listener.pop("listener"), {**key, **listener}), why


def _by_network(
    name: str | None, wishes: Wishes, ground: Ground, inventories: tuple[Inventory, ...]
) -> tuple[dict[str, str], str]:
    """Return the values of the section of multicast or tcp, with its name as ``listener``, and why this one."""
    bridges = network.bridges(ground.interfaces, inventories)
    if wishes.interface is not None:
        network.check_interface(wishes.interface, ground.interfaces)
    if name == "tcp":
        return _tcp(wishes.interface or next((one.name for one in bridges if one.guests), None), ground.addresses)
    if wishes.interface is not None:
        return _multicast(wishes.interface), "named by --interface"
    served = [one for one in bridges if one.guests]
    if served:
        return _multicast(served[0].name), _why_bridge(served, sum(len(one.guests) for one in inventories))
    return _without_bridge(bridges, inventories)


def rules_of(wishes: Wishes, chosen: Iterable[Section], guests: Iterable[GuestFacts]) -> tuple[Group, ...]:
    """Return the access rules: none where a key proves everybody, else who the guests behind channels may fence.

    No key is asked for behind a channel, so without rules the daemon refuses to serve one.
    """
    kinds = {section.name for section in chosen}
    if "serial" not in kinds:
        return ()
    targets = [one.uuid for one in guests if not wishes.guests or names(wishes.guests, one.name, one.uuid)]
    if wishes.guests and not targets:
        targets = list(wishes.guests)  # told as unknown with the rest
    if not targets:
        raise VmfenceError(
            "there is no guest yet", "a channel serves the guests that its rules name", "define one first"
        )
    return configure.rules_for(targets, bool(kinds & {"multicast", "tcp"}))


def what_rules_mean(rules: tuple[Group, ...], path: str) -> str:
    """Return a sentence that tells who may fence whom by *rules*."""
    count = len(rules[0].targets)
    who = (
        "the guest that has the device may fence itself" if count == 1 else f"any of {count} guests may fence any other"
    )
    return f"{who}, without a key: the hypervisor vouches for who asks; for less give --guest, or edit groups in {path}"


def is_session(uri: str) -> bool:
    """Whether *uri* is of one user's guests."""
    return "/session" in uri


def _why_bridge(served: list[Bridge], guests: int) -> str:
    best = served[0]
    if len(best.guests) == guests:
        return f"all guests are attached to it: {network.some(best.guests)}"
    if len(served) == 1:
        return f"the only bridge with guests: {network.some(best.guests)}"
    return f"of {len(served)} bridges with guests it has most: {network.some(best.guests)}; another with --interface"


def _without_bridge(bridges: tuple[Bridge, ...], inventories: tuple[Inventory, ...]) -> tuple[dict[str, str], str]:
    """Choose where no guest is attached to a bridge that exists.  Raises VmfenceError when nothing can be said."""
    guests = [guest for one in inventories for guest in one.guests]
    links = sorted({link for guest in guests for link in (*guest.unresolved, *guest.bridges)})
    if links:
        names = sorted({link for guest in guests for link in guest.unresolved})
        how = f" (virsh net-start {shown(shlex.quote(names[0]))})" if names else ""
        remedy = f"start it{how}, or {_NAME_ONE}"
        raise VmfenceError(f"{', '.join(map(shown, links))}, to which guests are attached, is not up", "", remedy)
    if guests and all(is_session(one.uri) for one in inventories) and not any(guest.direct for guest in guests):
        why = "guests of a session have no bridge; with user networking they reach this as 10.0.2.2"
        return {"listener": "tcp", "address": LOOPBACK}, why
    if not guests and len(bridges) == 1:
        return _multicast(bridges[0].name), "the only bridge of this host, which has no guests yet"
    what = "no guest is attached to a bridge of this host" if guests else "there are no guests that show which bridge"
    raise VmfenceError(what, f"bridges here: {', '.join(one.name for one in bridges) or 'none'}", _NAME_ONE)


def _multicast(interface: str) -> dict[str, str]:
    address = {"family": "ipv4", "address": MULTICAST_ADDRESSES["ipv4"], "port": str(PORT)}
    return {"listener": "multicast", **address, "interface": interface}


def _tcp(interface: str | None, addresses: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """tcp on the bridge's own address: the default of fence_virtd, loopback, is one that no guest reaches."""
    if interface is None or interface not in addresses:
        where = f"{interface} has none" if interface else "no bridge has guests"
        raise VmfenceError("no address for listener tcp", where, "name an interface with an IPv4 address: --interface")
    return {"listener": "tcp", "address": addresses[interface]}, f"named by --listener; the address of {interface}"
