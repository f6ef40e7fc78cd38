"""What ``vmfence host setup`` finds on this machine before it decides: reads only, changes nothing."""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from vmfence import keyfile
from vmfence.config import settings as configuration
from vmfence.config.settings import KEY_FILE, SEARCH_PATHS, MulticastSettings, Settings, TcpSettings
from vmfence.errors import KeyFileError, NotPermitted, Unreachable, VmfenceError
from vmfence.host import channels, config_search, configure, control, kernel, network, openings, selfcheck, unit
from vmfence.host.backends import devices, inventory
from vmfence.host.channels import Stand
from vmfence.host.unit import UnitFacts
from vmfence.host.wishes import Ground, Wishes, names
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.rules import Opening
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
    weaknesses: tuple[KeyFileError, ...] = ()


@dataclass(frozen=True)
class Site:
    """What there is around the settings that were chosen.

    *rivals*: processes of fence_virtd in our network; *stale*: what was changed since the daemon that runs read it;
    *holders*: who else has a port of ours; *is_found_unnamed*: a daemon takes this configuration where none is named
    to it; *config_fault*: why a new configuration cannot be put where it is to be; *stands*: how the guests stand to
    the ways that are devices of theirs.
    """

    keys: tuple[KeyFacts, ...] = ()
    config_owner: int = 0
    openings: tuple[Opening, ...] = ()
    firewall: Firewall = field(default_factory=Firewall)
    unit: UnitFacts = field(default_factory=UnitFacts)
    program: tuple[str, ...] = ("vmfence",)
    rivals: tuple[int, ...] = ()
    stale: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    is_found_unnamed: bool = True
    config_fault: VmfenceError | None = None
    stands: tuple[Stand, ...] = ()
    has_vhost_vsock: bool = True


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
    """Return the path and settings of the present configuration, or where a new one is to be and None.

    Raises VmfenceError when it is not clear which the service runs with: it may hold access rules.
    """
    named = _in_service() if explicit is None else explicit
    candidates = (named,) if named is not None else SEARCH_PATHS
    path = next((path for path in candidates if os.path.lexists(path)), None)
    settings = None if path is None else configuration.load(path)
    if path is None or settings is None or (named is None and is_unused_sample(settings)):
        return candidates[0], None
    return path, settings


def _in_service() -> str | None:
    """Return the configuration that the service has, None for none.  Raises VmfenceError when unclear, or gone."""
    path = config_search.in_service()
    if path is not None and not os.path.lexists(path):
        remedy = f"put it back, or have a new one made: vmfence host setup --config {shlex.quote(path)}"
        raise VmfenceError(f"the configuration of the service, {path}, is gone", "", remedy)
    return path


def is_unused_sample(settings: Settings) -> bool:
    """Whether this is the file that fence_virtd's package brings, and was never used: its key does not exist.

    fence_virtd does not start without the key, so nobody can rely on the file (Debian 12 names virbr0 in it).
    """
    one = settings.listeners[0]
    if settings.path != SEARCH_PATHS[1] or not isinstance(one, MulticastSettings) or os.path.lexists(one.key_file):
        return False
    with_usual_key = replace(settings, listeners=(replace(one, key_file=KEY_FILE), *settings.listeners[1:]))
    return with_usual_key == configuration.read(_SAMPLE, settings.path)


def inspect(wishes: Wishes, settings: Settings, found: Ground) -> Site:
    """Return what there is around *settings*; what is not wished for is not looked at.  Raises VmfenceError."""
    interfaces = {address: interface for interface, address in found.addresses.items()}
    served = [one for one in found.inventories if one.uri in settings.backend.uris]
    bridges = [one.name for one in network.bridges(found.interfaces, served) if one.guests]
    wanted = openings.openings(settings, interfaces.get, bridges)
    facts = unit.look() if wishes.service else UnitFacts()
    stale = _stale(settings, facts.path)
    holders = () if stale is not None else tuple(_strangers(settings, facts.main_pid))
    return Site(
        keys=tuple(map(read_key, key_files(settings, with_groups=True))),
        config_owner=os.stat(settings.path).st_uid if os.path.exists(settings.path) else 0,
        openings=wanted,
        firewall=firewall.look(wanted, openings.SERVICE_FILE) if wishes.firewall else Firewall(),
        unit=facts,
        program=unit.program(),
        rivals=tuple(rivals()),
        stale=(stale or ()) if wishes.service else (),
        holders=holders,
        is_found_unnamed=config_search.is_found_unnamed(os.path.abspath(settings.path)),
        config_fault=_config_fault(settings.path),
        stands=tuple(_stands(wishes, settings)),
        has_vhost_vsock=os.path.exists(channels.VHOST_VSOCK),
    )


def _stands(wishes: Wishes, settings: Settings) -> Iterator[Stand]:
    """Yield how each guest that is meant stands to each way; those that the access rules leave out are not meant."""
    for way in channels.ways(settings):
        for guest in (guest for uri in way.uris for guest in devices.read_definitions(uri, LIBVIRT_S)):
            is_meant = not wishes.guests or names(wishes.guests, guest.name, guest.uuid)
            if is_meant and channels.is_admitted(settings, way, guest.name, guest.uuid):
                yield channels.stand(way, guest)


def _strangers(settings: Settings, own_pid: int) -> Iterator[str]:
    """Yield who keeps a listener from its port, once for each; *own_pid*: the process of our service, or 0."""
    for one in settings.listeners:
        if isinstance(one, selfcheck.Network) and _is_taken(one):
            protocol = "udp" if isinstance(one, MulticastSettings) else "tcp"
            holders = kernel.read_holders({(protocol, one.port)})
            if not holders or any(holder.pid != own_pid for holder in holders):
                strangers = [str(holder) for holder in holders if holder.pid != own_pid]
                yield "; ".join(strangers) or f"another program has {protocol.upper()} {one.address} port {one.port}"


def _is_taken(one: MulticastSettings | TcpSettings) -> bool:
    """Whether somebody has the port of *one*; what is wrong with its address is not our question."""
    with contextlib.suppress(VmfenceError):
        return selfcheck.is_taken(one)
    return False


def _config_fault(path: str) -> VmfenceError | None:
    """Return why no file can be put at *path*, whoever tries; None when one is there."""
    try:
        if not os.path.lexists(path):
            configure.check_writable(path)
    except NotPermitted:
        pass  # of this user: --dry-run is for everybody
    except VmfenceError as error:
        return error
    return None


def _stale(settings: Settings, unit_path: str | None) -> tuple[str, ...] | None:
    """Return what was changed since the daemon that runs read it; None when none runs."""
    try:
        status = control.ask(settings.daemon.control_socket)
    except NotPermitted:
        return ()  # one that is none of this user's business
    except Unreachable:
        return None
    except VmfenceError:
        return ("this version of vmfence",)
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
            weaknesses=tuple(keyfile.judge(path)),
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
