"""What configuration suits this host: chosen without questions, from its guests and what they are attached to.

Pure: takes what vmfence.host.ground found and what the command line wants.  A configuration that is there is taken as
it is, an old fence_virt.conf too.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vmfence.config import settings as configuration
from vmfence.config.grammar import shown
from vmfence.config.settings import KEY_FILE, MULTICAST_ADDRESSES, PORT, MulticastSettings, Settings, TcpSettings
from vmfence.errors import ConfigError, ListenError, Unreachable, UsageError, VmfenceError
from vmfence.host import configure, network
from vmfence.host.backends.inventory import DEFAULT_URI, Inventory
from vmfence.host.network import Bridge, Interface
from vmfence.policy import Group

LISTENERS = ("multicast", "tcp")
LOOPBACK = "127.0.0.1"
_NAME_ONE = "name the bridge of the guests with --interface, or take --listener tcp"
_CHANGE_IT = "change it with: vmfence host configure"


@dataclass(frozen=True)
class Wishes:
    """The command line.  None and () mean: choose."""

    config: str | None = None
    uris: tuple[str, ...] = ()
    interface: str | None = None
    listener: str | None = None
    key_file: str | None = None
    firewall: bool = True
    service: bool = True
    check: bool = True


@dataclass(frozen=True)
class Ground:
    """What this host has.  *settings* None: no configuration at *config_path* yet; *addresses*: interface -> IPv4.

    *silent*: the URIs that did not answer, each with its error; *users*: the user ids of whoever runs this.
    """

    config_path: str
    settings: Settings | None
    inventories: tuple[Inventory, ...]
    silent: tuple[tuple[str, VmfenceError], ...] = ()
    interfaces: tuple[Interface, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    users: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Choice:
    """*settings* to run with; *text*: the file to write for that, None to leave the one that is there.

    *hypervisor* and *listener* tell what was chosen, each with its reason; *doubts*: what to look at.
    """

    settings: Settings
    text: bytes | None
    hypervisor: tuple[str, str]
    listener: tuple[str, str]
    doubts: tuple[str, ...] = ()


def choose(wishes: Wishes, ground: Ground) -> Choice:
    """Return the configuration for this host.

    Raises Unreachable when no libvirt answers, UsageError when *wishes* contradict the configuration that is there,
    VmfenceError when nothing fits.
    """
    inventories = _inventories(wishes, ground)
    if ground.settings is not None:
        return _existing(wishes, ground, ground.settings, inventories)
    listener, why = _listener(wishes, ground, inventories)
    keys = {"key_file": wishes.key_file or KEY_FILE, **listener}
    settings, text = _written(ground.config_path, str(keys.pop("listener")), keys, [one.uri for one in inventories])
    doubts = network.doubts(listener["interface"], inventories) if "interface" in listener else []
    others = [str(one) for one in ground.inventories if one.guests and one not in inventories]
    doubts += [f"not served: {other}; give every URI with --uri if they are to be fenced too" for other in others]
    doubts += [f"not served, and perhaps it has guests: {error}" for _, error in ground.silent]
    hypervisor = _hypervisor(wishes, inventories, bool(ground.silent))
    return Choice(settings, text, hypervisor, (described(settings), why), tuple(doubts))


def described(settings: Settings) -> str:
    """Return the listeners in one line."""
    return ", ".join(_where(one) for one in settings.listeners)


def _where(one: configuration.ListenerSettings) -> str:
    if isinstance(one, MulticastSettings):
        return f"multicast {one.address} port {one.port}" + (f" on {one.interface}" if one.interface else "")
    return f"tcp {one.address} port {one.port}" if isinstance(one, TcpSettings) else one.name


def _inventories(wishes: Wishes, ground: Ground) -> tuple[Inventory, ...]:
    """Return what is to be served: all that was named, else the first URI with guests, else the first at all.

    A session is served unasked only if it is of the user who asks, and if it is certain that no system libvirt has
    guests: one that does not answer may have all of them.
    """
    if ground.silent and (wishes.uris or ground.settings or not ground.inventories):
        raise ground.silent[0][1]
    if wishes.uris or ground.settings:
        return ground.inventories
    with_guests = [one for one in ground.inventories if one.guests]
    of_system = [one for one in with_guests if not _is_session(one.uri)]
    if of_system:
        return (of_system[0],)
    for uri, error in ground.silent:
        if not _is_session(uri):
            raise Unreachable(error.what, error.why, f"{error.remedy.rstrip('.')}; or name what to serve with --uri")
    ours = [one for one in with_guests if _is_of(ground.users, one.uri)]
    if with_guests and not ours:
        words = shlex.join(["--uri", with_guests[0].uri])
        remedy = f"to serve them give {words}; to serve the system, which has none yet, give --uri {DEFAULT_URI}"
        raise VmfenceError(f"all guests are in sessions of other users: {with_guests[0]}", "", remedy)
    return tuple((ours or list(ground.inventories))[:1])


def _is_session(uri: str) -> bool:
    return "/session" in uri


def _is_of(users: Iterable[int], uri: str) -> bool:
    """Whether *uri* is no session, or one of *users*, as far as its socket tells."""
    owner = re.search(r"/run/user/(\d+)/", uri)
    return owner is None or int(owner[1]) in users


def _hypervisor(wishes: Wishes, inventories: tuple[Inventory, ...], is_some_silent: bool) -> tuple[str, str]:
    has_guests = any(one.guests for one in inventories)
    who = "libvirt that answers" if is_some_silent else "libvirt of this host"
    why = "it has guests" if has_guests else f"no {who} has guests yet"
    return "; ".join(map(str, inventories)), "named by --uri" if wishes.uris else why


def _existing(wishes: Wishes, ground: Ground, settings: Settings, inventories: tuple[Inventory, ...]) -> Choice:
    _refuse_contradiction(wishes, settings)
    why = f"{ground.config_path} says so"
    doubts: list[str] = []
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            _check_interface(one, settings.path, ground.interfaces)
            doubts += network.doubts(one.interface, inventories)
    doubts += _unreachable(settings, inventories) + unknown_targets(settings, inventories)
    hypervisor = "; ".join(map(str, inventories))
    return Choice(settings, None, (hypervisor, why), (described(settings), why), tuple(doubts))


def _unreachable(settings: Settings, inventories: tuple[Inventory, ...]) -> list[str]:
    """Return a doubt for a tcp listener on loopback, fence_virtd's default, while guests are attached to bridges."""
    bridged = [guest.name for one in inventories for guest in one.guests if guest.bridges]
    loopback = [
        one for one in settings.listeners if isinstance(one, TcpSettings) and one.address in ("127.0.0.1", "::1")
    ]
    if not bridged or not loopback:
        return []
    return [f"no guest on a bridge reaches {loopback[0].address}: {network.some(bridged)}; {_CHANGE_IT}"]


def unknown_targets(settings: Settings, inventories: Iterable[Inventory]) -> list[str]:
    """Return a doubt for each guest that access rules name and no libvirt knows: a slip, found before it is needed."""
    guests = [guest for one in inventories for guest in one.guests]
    names = [guest.name for guest in guests]
    doubts = []
    for group in settings.groups or ():
        for target in group.targets:
            rule = Group(group.label, (), (target,))
            if not any(rule.lists(guest.name, guest.uuid) for guest in guests):
                near = difflib.get_close_matches(target, names, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                doubts.append(f"{settings.path}:{group.line}: group {group.label} lists {target!r}, unknown here{hint}")
    return doubts


def _check_interface(one: MulticastSettings, path: str, interfaces: tuple[Interface, ...]) -> None:
    """Raise ConfigError when the interface of a configuration that is there is not: the daemon would wait for it."""
    try:
        if one.interface is not None:
            network.check_interface(one.interface, interfaces)
    except ListenError as error:
        remedy = f"{error.remedy} {_CHANGE_IT}"
        raise ConfigError(path, one.line, error.what, remedy) from error


def _refuse_contradiction(wishes: Wishes, settings: Settings) -> None:
    listeners = settings.listeners
    given = {
        "--uri": not wishes.uris or wishes.uris == settings.backend.uris,
        "--listener": wishes.listener in (None, *(one.name for one in listeners)),
        "--interface": wishes.interface in (None, *(getattr(one, "interface", None) for one in listeners)),
        "--key-file": wishes.key_file in (None, *(getattr(one, "key_file", None) for one in listeners)),
    }
    for option, agrees in given.items():
        if not agrees:
            raise UsageError(f"{option} contradicts {settings.path}, which is used as it is", "", _CHANGE_IT)


def _listener(wishes: Wishes, ground: Ground, inventories: tuple[Inventory, ...]) -> tuple[dict[str, str], str]:
    """Return the values of the listener's section, with its name as ``listener``, and why this one."""
    bridges = network.bridges(ground.interfaces, inventories)
    if wishes.interface is not None:
        network.check_interface(wishes.interface, ground.interfaces)
    if wishes.listener == "tcp":
        return _tcp(wishes.interface or next((one.name for one in bridges if one.guests), None), ground.addresses)
    if wishes.interface is not None:
        return _multicast(wishes.interface), "named by --interface"
    served = [one for one in bridges if one.guests]
    if served:
        return _multicast(served[0].name), _why_bridge(served, sum(len(one.guests) for one in inventories))
    return _without_bridge(bridges, inventories)


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
    if guests and all(_is_session(one.uri) for one in inventories) and not any(guest.direct for guest in guests):
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


def _written(path: str, listener: str, keys: Mapping[str, str], uris: list[str]) -> tuple[Settings, bytes]:
    """Return the settings of a new file, and its text."""
    tree = configure.with_value((), "fence_virtd", "listener", listener)
    tree = configure.with_value(tree, "fence_virtd", "backend", "libvirt")
    for key, value in keys.items():
        tree = configure.with_value(tree, f"listeners/{listener}", key, value)
    for number, uri in enumerate(uris):
        tree = configure.with_value(tree, "backends/libvirt", f"uri{number or ''}", uri)
    text = configure.text_of(tree)
    return configuration.read(text, path), text
