"""What ``vmfence host setup`` finds on this machine before it decides: reads only, changes nothing."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vmfence import keyfile
from vmfence.config import settings as configuration
from vmfence.config.settings import SEARCH_PATHS, Settings
from vmfence.errors import KeyFileError, VmfenceError
from vmfence.host import control, firewall, network, unit
from vmfence.host.backends import inventory
from vmfence.host.choice import Ground, Wishes
from vmfence.host.firewall import Firewall
from vmfence.host.packet_rules import Opening
from vmfence.host.unit import UnitFacts
from vmfence.protocol.auth import Hash

LIBVIRT_S = 10.0
_SAMPLE = b"""fence_virtd { listener = "multicast"; backend = "libvirt"; }
listeners { multicast { interface = "virbr0"; } }
backends { libvirt { uri = "qemu:///system"; } }
"""
RIVAL = "fence_virtd"


@dataclass(frozen=True)
class KeyFacts:
    """One key file.  *fault*: why it cannot be used; *weaknesses*: what is not good about it."""

    path: str
    exists: bool
    fingerprint: str = ""
    owner: int = 0
    fault: VmfenceError | None = None
    weaknesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Site:
    """What there is around the settings that were chosen.

    *rivals*: processes of fence_virtd in our network; *stale*: what was changed since the daemon that runs read it.
    """

    keys: tuple[KeyFacts, ...] = ()
    config_owner: int = 0
    openings: tuple[Opening, ...] = ()
    firewall: Firewall = field(default_factory=Firewall)
    unit: UnitFacts = field(default_factory=UnitFacts)
    program: tuple[str, ...] = ("vmfence",)
    rivals: tuple[int, ...] = ()
    stale: tuple[str, ...] = ()


def survey(wishes: Wishes) -> Ground:
    """Return what this host has.  Raises ConfigError, ConfigErrors for a configuration that is there and wrong."""
    path, settings = _configuration(wishes.config)
    uris = wishes.uris or (settings.backend.uris if settings else inventory.candidate_uris())
    uris = tuple(dict.fromkeys(uris))
    found, errors = inventory.survey(uris, LIBVIRT_S)
    answered = {one.uri for one in found}
    silent = tuple(zip([uri for uri in uris if uri not in answered], errors))
    interfaces = network.read_interfaces()
    addresses = {one.name: address for one in interfaces if (address := network.ipv4_address(one.name))}
    return Ground(path, settings, tuple(found), silent, interfaces, addresses, _own_users())


def _own_users() -> tuple[int, ...]:
    """Return the user ids that whoever runs this has: root's, and with sudo his own."""
    behind_sudo = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return (os.geteuid(), *([int(behind_sudo)] if behind_sudo.isdecimal() else []))


def _configuration(explicit: str | None) -> tuple[str, Settings | None]:
    """Return the path and settings of the present configuration, or where a new one is to be and None."""
    candidates = (explicit,) if explicit is not None else SEARCH_PATHS
    path = next((path for path in candidates if os.path.lexists(path)), None)
    settings = None if path is None else configuration.load(path)
    if path is None or settings is None or (explicit is None and is_unused_sample(settings)):
        return candidates[0], None
    return path, settings


def is_unused_sample(settings: Settings) -> bool:
    """Whether this is the file that fence_virtd's package brings, and was never used: its key does not exist.

    fence_virtd does not start without the key, so nobody can rely on the file (Debian 12 names virbr0 in it).
    """
    if settings.path != SEARCH_PATHS[1] or len(settings.listeners) != 1:
        return False
    key_file = getattr(settings.listeners[0], "key_file", "")
    sample = configuration.read(_SAMPLE, settings.path)
    listeners = (replace(sample.listeners[0], key_file=key_file),)
    return replace(sample, listeners=listeners) == settings and not os.path.lexists(key_file)


def inspect(wishes: Wishes, settings: Settings, found: Ground) -> Site:
    """Return what there is around *settings*; what is not wished for is not looked at.  Raises VmfenceError."""
    interfaces = {address: interface for interface, address in found.addresses.items()}
    served = [one for one in found.inventories if one.uri in settings.backend.uris]
    bridges = [one.name for one in network.bridges(found.interfaces, served) if one.guests]
    openings = firewall.openings(settings, interfaces.get, bridges)
    facts = unit.look() if wishes.service else UnitFacts()
    return Site(
        keys=tuple(map(read_key, key_files(settings, with_groups=True))),
        config_owner=os.stat(settings.path).st_uid if os.path.exists(settings.path) else 0,
        openings=openings,
        firewall=firewall.look(openings) if wishes.firewall else Firewall(),
        unit=facts,
        program=unit.program(),
        rivals=tuple(rivals()),
        stale=_stale(settings, facts.path) if wishes.service else (),
    )


def _stale(settings: Settings, unit_path: str | None) -> tuple[str, ...]:
    """Return what was changed since the daemon that runs read it; nothing when none runs."""
    try:
        status = control.ask(settings.daemon.control_socket)
    except VmfenceError:
        return ()
    return stale_files(status, settings.path, unit_path)


def stale_files(status: Mapping[str, object], config: str, unit_path: str | None) -> tuple[str, ...]:
    """Return what the daemon of *status* does not run with, or not as it is now: files, configuration, unit."""
    found = control.stale_files(dict(status))
    if status.get("config") != os.path.abspath(config):
        found.append(config)
    started_at = status.get("started_at")
    with contextlib.suppress(OSError):
        if unit_path and isinstance(started_at, float) and os.stat(unit_path).st_ctime > started_at:
            found.append(unit_path)
    return tuple(dict.fromkeys(found))


def key_files(settings: Settings, with_groups: bool = False) -> tuple[str, ...]:
    """Return the key files that the daemon needs for the listeners, *with_groups* for access rules too; each once.

    A listener that asks for no authentication needs its key none the less where a group has a key.
    """
    of_groups = [group.key_file for group in settings.groups or () if group.key_file is not None]
    found = []
    for one in settings.listeners:
        hashes = {getattr(one, "hash", Hash.NONE), getattr(one, "auth", Hash.NONE)}
        if hashes != {Hash.NONE} or of_groups:
            found.append(str(getattr(one, "key_file", None) or ""))
    found += of_groups if with_groups else []
    return tuple(dict.fromkeys(path for path in found if path))


def read_key(path: str) -> KeyFacts:
    """Return what is known about the key at *path*."""
    if not os.path.lexists(path):
        return KeyFacts(path, False)
    try:
        key = keyfile.read(path)
        return KeyFacts(
            path,
            True,
            keyfile.fingerprint(key),
            os.stat(path).st_uid,
            weaknesses=tuple(str(weakness) for weakness in keyfile.judge(path)),
        )
    except KeyFileError as error:
        return KeyFacts(path, True, fault=error)


def rivals(proc_folder: str = "/proc") -> list[int]:
    """Return the processes of fence_virtd that share our network: those are in our way."""
    found = []
    with contextlib.suppress(OSError):
        ours = os.readlink(f"{proc_folder}/self/ns/net")
        for path in glob.glob(f"{proc_folder}/[0-9]*"):
            with contextlib.suppress(OSError), open(f"{path}/comm", encoding="utf-8", errors="replace") as file:
                if file.read().strip() == RIVAL and os.readlink(f"{path}/ns/net") == ours:
                    found.append(int(os.path.basename(path)))
    return sorted(found)
