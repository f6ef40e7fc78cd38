"""What configuration suits this host: chosen without questions, from its guests and what they are attached to.

Pure: takes what vmfence.host.ground found and what the command line wants.  A configuration that is there is taken as
it is, an old fence_virt.conf too.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from vmfence.config import settings as configuration
from vmfence.config.settings import MulticastSettings, SerialSettings, Settings, TcpSettings, VsockSettings
from vmfence.errors import ConfigError, ListenError, Unreachable, UsageError, VmfenceError
from vmfence.host import channels, configure, network
from vmfence.host.backends.inventory import DEFAULT_URI, GuestFacts, Inventory
from vmfence.host.network import Interface
from vmfence.host.sections import Section, is_session, rules_of, sections_of, what_rules_mean
from vmfence.host.wishes import Ground, Wishes, names
from vmfence.policy import Group

_CHANGE_IT = "change it with: vmfence host configure"


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
    sections, why = sections_of(wishes, ground, inventories)
    uris = [one.uri for one in inventories]
    rules = rules_of(wishes, sections, [guest for one in inventories for guest in one.guests])
    settings, text = _written(ground.config_path, sections, uris, rules)
    _check_guests(wishes, settings, inventories)
    interfaces = [section.keys["interface"] for section in sections if "interface" in section.keys]
    doubts = [doubt for interface in interfaces for doubt in network.doubts(interface, inventories)]
    if rules:
        doubts.append(what_rules_mean(rules, ground.config_path))
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
    if isinstance(one, SerialSettings):
        where = f" below {one.path}" if one.path else ""
        return (f"virtio port {one.channel}" if one.mode == "virtio" else f"serial, mode {one.mode}") + where
    return f"vsock port {one.port}" if isinstance(one, VsockSettings) else f"tcp {one.address} port {one.port}"


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
    of_system = [one for one in with_guests if not is_session(one.uri)]
    if of_system:
        return (of_system[0],)
    for uri, error in ground.silent:
        if not is_session(uri):
            raise Unreachable(error.what, error.why, f"{error.remedy.rstrip('.')}; or name what to serve with --uri")
    ours = [one for one in with_guests if _is_of(ground.users, one.uri)]
    if with_guests and not ours:
        words = shlex.join(["--uri", with_guests[0].uri])
        remedy = f"to serve them give {words}; to serve the system, which has none yet, give --uri {DEFAULT_URI}"
        raise VmfenceError(f"all guests are in sessions of other users: {with_guests[0]}", "", remedy)
    return tuple((ours or list(ground.inventories))[:1])


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
    _check_guests(wishes, settings, inventories)
    why = f"{ground.config_path} says so"
    doubts: list[str] = []
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            _check_interface(one, settings.path, ground.interfaces)
            doubts += network.doubts(one.interface, inventories)
    doubts += _unreachable(settings, inventories)
    if settings.backend.name != "cpg":  # what other hosts of a pool have is not seen here
        doubts += unknown_targets(settings, inventories)
    doubts += left_out(wishes, settings, inventories)
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


def unknown_targets(
    settings: Settings, inventories: Iterable[Inventory], elsewhere: Iterable[GuestFacts] = ()
) -> list[str]:
    """Return a doubt for each guest that access rules name and nobody knows: a slip, found before it is needed.

    *elsewhere*: guests of other hosts of the pool.
    """
    guests = [*(guest for one in inventories for guest in one.guests), *elsewhere]
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
        "--listener": {*wishes.listeners} <= {_kind(one) for one in listeners},
        "--interface": wishes.interface in (None, *(getattr(one, "interface", None) for one in listeners)),
        "--key-file": wishes.key_file in (None, *(getattr(one, "key_file", None) for one in listeners)),
    }
    for option, agrees in given.items():
        if not agrees:
            raise UsageError(f"{option} contradicts {settings.path}, which is used as it is", "", _CHANGE_IT)


def _kind(one: configuration.ListenerSettings) -> str:
    """Return the word of LISTENERS for a listener."""
    return one.mode if isinstance(one, SerialSettings) else one.name


def _check_guests(wishes: Wishes, settings: Settings, inventories: Iterable[Inventory]) -> None:
    """Raise UsageError for a wished guest that no libvirt has, or where no listener needs devices of guests."""
    if (wishes.guests or wishes.define) and not channels.ways(settings):
        option = "--guest" if wishes.guests else "--define"
        remedy = "with --listener virtio, serial or vsock guests get devices"
        raise UsageError(f"{option} has no use here", "no listener needs a device of the guests", remedy)
    guests = [guest for one in inventories for guest in one.guests]
    for wanted in wishes.guests:
        if not any(names((wanted,), guest.name, guest.uuid) for guest in guests):
            near = difflib.get_close_matches(wanted, [guest.name for guest in guests], 1)
            remedy = f"did you mean {near[0]}?" if near else "see: virsh list --all"
            raise UsageError(f"there is no guest {wanted!r}", "", remedy)


def left_out(wishes: Wishes, settings: Settings, inventories: Iterable[Inventory]) -> list[str]:
    """Return a doubt for the guests that could have a channel, and that access rules do not let ask for anything."""
    doubts = []
    for way in channels.ways(settings):
        found = [guest for one in inventories if one.uri in way.uris for guest in one.guests]
        silent = [one for one in found if not channels.is_admitted(settings, way, one.name, one.uuid)]
        silent = [one for one in silent if not wishes.guests or names(wishes.guests, one.name, one.uuid)]
        if silent:
            first = f'add uuid = "{silent[0].uuid}"; to a group'
            doubts.append(f"no group lets in by {way}: {network.some([one.name for one in silent])}; {first}")
    return doubts


def _written(
    path: str, sections: Iterable[Section], uris: list[str], rules: tuple[Group, ...]
) -> tuple[Settings, bytes]:
    """Return the settings of a new file, and its text."""
    tree = configure.with_value((), "fence_virtd", "listener", " ".join(section.name for section in sections))
    tree = configure.with_value(tree, "fence_virtd", "backend", "libvirt")
    for section in sections:
        for key, value in section.keys.items():
            tree = configure.with_value(tree, f"listeners/{section.name}", key, value)
    for number, uri in enumerate(uris):
        tree = configure.with_value(tree, "backends/libvirt", f"uri{number or ''}", uri)
    text = configure.text_of(configure.with_rules(tree, rules))
    return configuration.read(text, path), text
