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
    """What there is around the settings that were chosen.  *rivals*: processes of fence_virtd in our network."""

    keys: tuple[KeyFacts, ...] = ()
    openings: tuple[Opening, ...] = ()
    firewall: Firewall = field(default_factory=lambda: Firewall("none"))
    unit: UnitFacts = field(default_factory=UnitFacts)
    program: tuple[str, ...] = ("vmfence",)
    rivals: tuple[int, ...] = ()
    stale: tuple[str, ...] = ()


def survey(wishes: Wishes) -> Ground:
    """Return what this host has.  Raises ConfigError, ConfigErrors for a configuration that is there and wrong."""
    path, settings = _configuration(wishes.config)
    uris = wishes.uris or (settings.backend.uris if settings else inventory.candidate_uris())
    found, silent = inventory.survey(uris, LIBVIRT_S)
    interfaces = network.read_interfaces()
    addresses = {one.name: address for one in interfaces if (address := network.ipv4_address(one.name))}
    return Ground(path, settings, tuple(found), tuple(silent), interfaces, addresses)


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


def inspect(wishes: Wishes, settings: Settings, addresses: Mapping[str, str]) -> Site:
    """Return what there is around *settings*; what is not wished for is not looked at.  Raises VmfenceError."""
    interfaces = {address: interface for interface, address in addresses.items()}
    openings = firewall.openings(settings, interfaces.get)
    return Site(
        keys=tuple(map(read_key, key_files(settings))),
        openings=openings,
        firewall=firewall.look(openings) if wishes.firewall else Firewall("none"),
        unit=unit.look() if wishes.service else UnitFacts(),
        program=unit.program(),
        rivals=tuple(rivals()),
        stale=_stale(settings) if wishes.service else (),
    )


def _stale(settings: Settings) -> tuple[str, ...]:
    """Return what was changed since the daemon that runs read it; nothing when none runs."""
    try:
        return tuple(control.stale_files(control.ask(settings.daemon.control_socket)))
    except VmfenceError:
        return ()


def key_files(settings: Settings) -> tuple[str, ...]:
    """Return the key files of the listeners, each once; none for a listener that needs none."""
    found = []
    for one in settings.listeners:
        hashes = {getattr(one, "hash", Hash.NONE), getattr(one, "auth", Hash.NONE)}
        if hashes != {Hash.NONE}:
            found.append(str(getattr(one, "key_file", "")))
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
