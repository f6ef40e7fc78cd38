"""The settings of the daemon: frozen values, read from a fence_virt.conf and checked as a whole.

Owns what the sections and keys mean, their defaults, and where the file is looked for.  Every fault of a
file is reported at once, with its line.  Defaults and meanings are those of fence_virtd 4.12.1, except that
nothing is ignored in silence.  Ours are: several names in ``listener``; allow_unauthenticated,
unknown_guest, reboot_method, state_dir and control_socket in ``fence_virtd``; optional in every listener; mode virtio
and channel in ``listeners/serial``; fenced_command in ``backends/cpg``; key_file and networks in a group.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from dataclasses import dataclass, field
from typing import Callable

from vmfence.config import values
from vmfence.config.grammar import FILE_BYTES_MAX, parse, shown
from vmfence.config.listeners import (
    KEY_FILE,
    LISTENER_READERS,
    LISTENER_SHAPES,
    LISTENERS,
    MULTICAST_ADDRESSES,
    PORT,
    TCP_ADDRESSES,
    ListenerSettings,
    MulticastSettings,
    SerialSettings,
    TcpSettings,
    VsockSettings,
)
from vmfence.config.section import Faults, Outline, Part, Shape, outline
from vmfence.errors import ConfigError, ConfigNotPermitted
from vmfence.policy import Source
from vmfence.protocol.auth import Hash

__all__ = [
    "BackendSettings",
    "KEY_FILE",
    "LISTENERS",
    "MULTICAST_ADDRESSES",
    "PORT",
    "TCP_ADDRESSES",
    "ListenerSettings",
    "MulticastSettings",
    "SerialSettings",
    "TcpSettings",
    "VsockSettings",
    "find",
    "load",
    "read",
]
SEARCH_PATHS = ("/etc/vmfence.conf", "/etc/fence_virt.conf")
STATE_DIR = "/var/lib/vmfence"
CONTROL_SOCKET = "/run/vmfence/control"
BACKENDS = ("libvirt", "cpg")
# A UUID in braces, or without its dashes.
_ODD_UUID = re.compile(r"\{[0-9a-fA-F-]{32,36}\}|[0-9a-fA-F]{32}")

_SETUP = "create it with: vmfence host setup"
_name_mode = values.choice("name", "uuid")
_DAEMON_KEYS = (
    *("listener", "backend", "module_path", "foreground", "wait_for_init", "wait_for_backend"),
    *("debug", "name_mode"),
    *("allow_unauthenticated", "unknown_guest", "reboot_method", "state_dir", "control_socket"),
)
_BACKEND_SHAPES = {
    "libvirt": Shape(("uri",), numbered=("uri",)),
    "cpg": Shape(("uri", "name_mode", "fenced_command"), numbered=("uri",)),
}
_GROUP_SHAPE = Shape(("name", "ip", "uuid", "key_file"), lists=("ip", "uuid"), many=True)
FILE_SHAPE = Shape(
    sections={
        "fence_virtd": Shape(_DAEMON_KEYS),
        "listeners": Shape(sections=LISTENER_SHAPES),
        "backends": Shape(sections=_BACKEND_SHAPES),
        "groups": Shape(sections={"group": _GROUP_SHAPE}),
    }
)


@dataclass(frozen=True)
class DaemonSettings:
    """Section fence_virtd, without the names of listeners and backend.

    *unknown_guest* is fail or ignore, *reboot_method* cycle or reset.  *module_path* and *foreground* mean
    nothing to us; they are accepted because fence_virtd's files have them.
    """

    debug: int = 0
    wait_for_init: bool = False
    allow_unauthenticated: bool = False
    unknown_guest: str = "fail"
    reboot_method: str = "cycle"
    state_dir: str = STATE_DIR
    module_path: str | None = None
    foreground: bool = False
    control_socket: str = CONTROL_SOCKET


@dataclass(frozen=True)
class BackendSettings:
    """The backend, libvirt or cpg.  Guests are looked up on the connections *uris* in this order.

    *fenced_command* of cpg tells whether a host was fenced; None: Pacemaker is asked.
    """

    name: str = "libvirt"
    uris: tuple[str, ...] = ()
    name_mode: str = "name"
    line: int = field(default=0, compare=False)
    fenced_command: str | None = None


@dataclass(frozen=True)
class GroupSettings:
    """One group of the access rules.

    *targets* are names and UUIDs of guests, never empty; *key_file* is the group's own key, if it has one.
    """

    label: str
    sources: tuple[Source, ...] = ()
    targets: tuple[str, ...] = ()
    key_file: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Settings:
    """One configuration file, read and checked.  *groups* None: the file has no access rules."""

    path: str
    daemon: DaemonSettings
    listeners: tuple[ListenerSettings, ...]
    backend: BackendSettings
    groups: tuple[GroupSettings, ...] | None = None
    warnings: tuple[ConfigError, ...] = field(default=(), compare=False)


def find(explicit: str | None, candidates: tuple[str, ...] = SEARCH_PATHS) -> str:
    """Return *explicit*, or else the first of *candidates* that exists.

    A dangling link counts as existing: to pass over it would run the daemon with a configuration that is not
    meant.  Raises ConfigError when there is none.
    """
    if explicit is not None:
        return explicit
    for path in candidates:
        if os.path.lexists(path):
            return path
    raise ConfigError(candidates[0], 0, f"no configuration file, neither {' nor '.join(candidates)}", _SETUP)


def load(path: str) -> Settings:
    """Return the settings in the file at *path*.

    Raises ConfigError for a file that cannot be read (line 0) or has a syntax fault, ConfigErrors with all
    other faults.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError
            text = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError(path, 0, "the configuration file does not exist", _SETUP) from error
    except PermissionError as error:
        raise ConfigNotPermitted(path, 0, "the configuration file may not be read", "run this as root") from error
    except IsADirectoryError as error:
        raise ConfigError(path, 0, "this is no regular file", "name a configuration file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(path, 0, f"the configuration file cannot be read: {error}") from error
    return read(text, path)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open as open() would, but a fifo in the file's place must not stop a daemon that reloads."""
    return os.open(path, flags | os.O_NONBLOCK)


def read(text: bytes, path: str) -> Settings:
    """Return the settings in *text*, the content of the file at *path*.

    Raises ConfigError for a syntax fault, or ConfigErrors with every other fault in file order.
    """
    faults = Faults(path)
    parts = outline(parse(text, path), FILE_SHAPE, faults)
    part = _last(parts, "fence_virtd")
    if part is None:
        remedy = 'add fence_virtd { listener = "multicast"; backend = "libvirt"; }'
        faults.add(0, "section fence_virtd is missing", remedy)
        part = Part("fence_virtd", 0, faults)
    daemon = _daemon(part)
    listeners = _listeners(parts, part, daemon, faults)
    _warn_of_silence(part, daemon, listeners, faults)
    backend = _backend(parts, part, faults)
    groups = _groups(parts)
    return Settings(path, daemon, listeners, backend, groups, faults.close())


def _last(parts: Outline, place: str) -> Part | None:
    return parts[place][-1] if place in parts else None


def _daemon(part: Part) -> DaemonSettings:
    old_wait = part.get("wait_for_backend", values.boolean, False)
    return DaemonSettings(
        debug=part.get("debug", values.number, 0),
        wait_for_init=part.get("wait_for_init", values.boolean, False) or old_wait,
        allow_unauthenticated=part.get("allow_unauthenticated", values.boolean, False),
        unknown_guest=part.get("unknown_guest", values.choice("fail", "ignore"), "fail"),
        reboot_method=part.get("reboot_method", values.choice("cycle", "reset"), "cycle"),
        state_dir=part.get("state_dir", values.absolute_path, STATE_DIR),
        control_socket=part.get("control_socket", values.absolute_path, CONTROL_SOCKET),
        module_path=part.get("module_path", values.text, None),
        foreground=part.get("foreground", values.boolean, False),
    )


def _named(part: Part, key: str, convert: Callable[[str], tuple[str, ...]], example: str) -> tuple[str, ...]:
    """Return the names in the required *key* of fence_virtd."""
    if key not in part and part.line:
        part.fault(key, f"'{key}' is missing in fence_virtd", f'add {key} = "{example}";')
    return part.get(key, convert, ())


def _listeners(
    parts: Outline, daemon_part: Part, daemon: DaemonSettings, faults: Faults
) -> tuple[ListenerSettings, ...]:
    """Read every listener's section, return those that fence_virtd names, in its order."""
    named = _named(daemon_part, "listener", lambda value: values.choices(value, LISTENERS), "multicast")
    found: dict[str, ListenerSettings] = {}
    for name in LISTENERS:
        place = f"listeners/{name}"
        for part in parts.get(place) or [Part(place, daemon_part.line_of("listener"), faults)]:
            found[name] = LISTENER_READERS[name](part)
            if name in named:
                _warn_of_old_mixup(part, found[name], faults)
            if name in named and not daemon.allow_unauthenticated:
                _refuse_unauthenticated(part, found[name])
    return tuple(found[name] for name in named)


def _warn_of_silence(
    part: Part, daemon: DaemonSettings, listeners: tuple[ListenerSettings, ...], faults: Faults
) -> None:
    """Tell that silence about unknown guests serves multicast alone, where other hosts hear the same request."""
    if daemon.unknown_guest == "ignore" and any(isinstance(listener, TcpSettings) for listener in listeners):
        what = 'unknown_guest = "ignore" closes tcp connections without an answer'
        faults.warn(part.line_of("unknown_guest"), what, "its clients then report that the host did not accept them")


def _warn_of_old_mixup(part: Part, listener: ListenerSettings, faults: Faults) -> None:
    """Tell where a file that works with fence_virtd 4.12.1 means another thing here: its tcp and vsock ignore auth."""
    if isinstance(listener, (TcpSettings, VsockSettings)) and listener.auth in (Hash.SHA1, Hash.SHA512):
        what = f'auth = "{listener.auth}" in {part.place} holds as written, where fence_virtd used sha256'
        faults.warn(part.line_of("auth"), what, "remove the line if its clients have auth sha256")


def _refuse_unauthenticated(part: Part, listener: ListenerSettings) -> None:
    if isinstance(listener, SerialSettings):
        return
    remedy = 'remove the line, or add allow_unauthenticated = "yes"; to fence_virtd'
    known = "fence_virtd in fact used sha256 here, so its clients go on working without the line"
    for key, kind in (("hash", listener.hash), ("auth", listener.auth)):
        if kind is Hash.NONE:
            old_mixup = key == "auth" and listener.name in ("tcp", "vsock")
            what = f'{key} = "none" in {part.place} lets anybody fence who can reach this host'
            part.fault(key, what, f"{remedy}; {known}" if old_mixup else remedy)


def _backend(parts: Outline, daemon_part: Part, faults: Faults) -> BackendSettings:
    """Read every backend's section, return the one that fence_virtd names."""
    named = _named(daemon_part, "backend", lambda value: (values.choice(*BACKENDS)(value),), "libvirt")
    name_mode = daemon_part.get("name_mode", _name_mode, "name")
    found = BackendSettings()
    for name in BACKENDS:
        place = f"backends/{name}"
        for part in parts.get(place) or [Part(place, daemon_part.line_of("backend"), faults)]:
            uris, mode = _uris(part, name in named), part.get("name_mode", _name_mode, name_mode)
            command = part.get("fenced_command", values.absolute_path, None)
            found = BackendSettings(name, uris, mode, part.line, command) if name in named else found
    return found


def _uris(part: Part, required: bool) -> tuple[str, ...]:
    """Return uri, uri1, uri2, ... without gaps; any beyond a gap is a fault."""
    given = [key for key in part.keys if key.startswith("uri")]
    if required and not given:
        part.fault("uri", f"'uri' is missing in {part.place}", 'add uri = "qemu:///system";')
    wanted = ["uri", *(f"uri{number}" for number in range(1, len(given) + 1))]
    read = list(itertools.takewhile(part.__contains__, wanted))
    for key in given:
        if key not in read:
            what = f"'{key}' in {part.place} without '{wanted[len(read)]}'"
            part.fault(key, what, "number the URIs without gaps: uri, uri1, uri2")
    return tuple(part.get(key, values.uri, "") for key in read)


def _groups(parts: Outline) -> tuple[GroupSettings, ...] | None:
    section = _last(parts, "groups")
    if section is None:
        return None
    groups = parts.get("groups/group", [])
    if not groups:
        remedy = 'add group { ip = "..."; uuid = "..."; }, or remove the section to allow everything'
        section.fault("group", "section groups without a group", remedy)
    return tuple(_group(part, number) for number, part in enumerate(groups, 1))


def _targets(part: Part) -> tuple[str, ...]:
    """Return the guests of a group, with a warning for what looks like a slip: it matches what nobody has."""
    targets = part.all("uuid", values.text)
    for target in targets:
        if target != target.strip() or _ODD_UUID.fullmatch(target):
            part.warn(
                "uuid", f"'{shown(target)}' of uuid matches a guest of that very name alone", "see vmfence.conf(5)"
            )
    return targets


def _group(part: Part, number: int) -> GroupSettings:
    name = part.get("name", values.label, f"unnamed-{number}")
    label = part.get("group", values.label, name)
    if "uuid" not in part:
        what = f"group {label} allows nothing: it lists no guest"
        part.fault("uuid", what, 'add uuid = "name or UUID of a guest";')
    return GroupSettings(
        label=label,
        sources=part.all("ip", values.source),
        targets=_targets(part),
        key_file=part.get("key_file", values.absolute_path, None),
        line=part.line,
    )
