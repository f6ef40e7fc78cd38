"""What ``host check`` reads before it judges: configuration, keys, daemon, network, firewall, libvirt.  Reads only."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vmfence import proc
from vmfence.config import settings as configuration
from vmfence.config.settings import SEARCH_PATHS, MulticastSettings, Settings, TcpSettings
from vmfence.errors import DeadlineExceeded, NotPermitted, Unreachable, VmfenceError
from vmfence.findings import NotAsked, NotReached, explained, is_forbidden
from vmfence.host import assemble, config_search, control, ground, kernel, network, openings, pool_facts, probe, unit
from vmfence.host.backends import inventory
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.check import hidden, libvirt_unit, selinux
from vmfence.host.check.hidden import Process
from vmfence.host.check.libvirt_unit import LibvirtUnit
from vmfence.host.check.selinux import SELinux
from vmfence.host.ground import KeyFacts
from vmfence.host.kernel import Holder, Network
from vmfence.host.network import Interface
from vmfence.host.pool.corosync import Sight
from vmfence.host.pool_facts import NO_POOL, Fencing
from vmfence.host.pool_report import PoolReport
from vmfence.host.probe import Probe
from vmfence.host.unit import UnitFacts
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.rules import Opening
from vmfence.together import Once

LIBVIRT_S = 3.0
_STATUS_S = 2.0
_ASK_S = 5.0
WHO_HANGS = explained(
    "ps -eo pid,stat,etime,wchan:20,args | grep -E '[n]ft|[i]p6?tables|[f]irewalld'",
    "one that does not end keeps nft and iptables-save waiting",
)
_SOCKETS = ("libvirt-sock", "virtqemud-sock")
Gatherers = dict[str, Callable[[], Any]]
_SOCKET_FOLDER = "/run/libvirt"


@dataclass(frozen=True)
class Libvirt:
    """*found*: the URIs of the configuration that answer, *silent*: the others with their errors.

    *elsewhere*: what else has a libvirt on this host; *sockets*: the daemons' that are there; *unit*: which daemon
    systemd has, asked where one is silent.
    """

    found: tuple[Inventory, ...] = ()
    silent: tuple[tuple[str, Unreachable], ...] = ()
    elsewhere: tuple[Inventory, ...] = ()
    sockets: tuple[str, ...] = ()
    unit: LibvirtUnit = LibvirtUnit()

    @property
    def guests(self) -> tuple[GuestFacts, ...]:
        """The guests that are served."""
        return tuple(guest for one in self.found for guest in one.guests)


@dataclass(frozen=True)
class Clock:
    """*is_synchronised* None: nobody can tell, or *silence* says why who could does not.

    *newest*: the latest moment that a file or the daemon knows of.
    """

    is_synchronised: bool | None = None
    newest: float = 0.0
    silence: VmfenceError | None = None


@dataclass(frozen=True)
class Facts:
    """All facts; what could not be gathered is the VmfenceError instead, and rules that need it are not asked.

    *path*: the configuration that counts; *accepted*: True where the daemon would take it with its keys.  *holders*:
    sockets at the ports of the listeners; *processes*: QEMU's; *way_back*: what lets out call-backs, and in what
    answers them.
    *peer*: the process that listens at the daemon's control socket, or 0; *own*: the addresses of this host.
    *veiled*: how many processes this user cannot see as he would have to.  *program*: the words that start vmfence.
    *now*: seconds of the wall clock.  *corosync*, *pool* (None: the daemon runs without one), *fencing*: of a pool of
    hosts, if this is one of them.
    """

    path: str
    settings: Settings
    accepted: bool
    keys: tuple[KeyFacts, ...]
    interfaces: tuple[Interface, ...]
    network: Network
    holders: tuple[Holder, ...]
    status: dict[str, Any]
    stale: tuple[str, ...]
    probes: tuple[Probe, ...]
    libvirt: Libvirt
    processes: tuple[Process, ...]
    firewall: Firewall
    way_back: Firewall
    unit: UnitFacts
    selinux: SELinux
    clock: Clock
    program: tuple[str, ...]
    now: float
    corosync: Sight = NO_POOL  # type: ignore[assignment]
    pool: PoolReport = NO_POOL  # type: ignore[assignment]
    fencing: Fencing = NO_POOL  # type: ignore[assignment]
    peer: int = 0
    own: frozenset[str] = frozenset()
    veiled: int = 0

    @property
    def synchronised(self) -> object:
        """What the clock is, or the error that keeps it from being known whether it is kept right."""
        return self.clock if isinstance(self.clock, VmfenceError) else self.clock.silence or self.clock

    @property
    def compared(self) -> object:
        """The files that are newer than the daemon; while that is silent, which is told as such, nobody knows."""
        if isinstance(self.status, VmfenceError):
            return self.status if is_forbidden(self.status) else NotReached("the daemon does not answer")
        return self.stale

    @property
    def joined(self) -> object:
        """What the daemon tells of the pool; an error while it is not in it."""
        is_known = not isinstance(self.pool, PoolReport) or self.pool.is_joined
        return self.pool if self.pool is not None and is_known else NotReached("the daemon is not in its pool")

    @property
    def everywhere(self) -> object:
        """The error where guests of other hosts of a pool are not known; otherwise True."""
        found = self.joined
        return found if isinstance(found, VmfenceError) and found is not NO_POOL else True

    @property
    def serving(self) -> object:
        """The probes if a daemon runs, or the error that says that none does: then silence needs no other reason."""
        return self.status if isinstance(self.status, Unreachable) else self.probes

    @property
    def heard(self) -> object:
        """The probes if one was answered, else why not: then nobody knows who would have answered."""
        if isinstance(self.probes, VmfenceError) or any(one.is_heard for one in self.probes):
            return self.probes
        return next((one.error for one in self.probes if one.error is not None), self.probes)

    @property
    def answering(self) -> object:
        """What libvirt has, or the error where no libvirt of the configuration answers: nothing is known of guests."""
        if isinstance(self.libvirt, VmfenceError) or self.libvirt.found or not self.libvirt.silent:
            return self.libvirt
        return self.libvirt.silent[0][1]

    @property
    def complete(self) -> object:
        """What libvirt has, or the error of any that does not answer: it may have the guest that is looked for."""
        if isinstance(self.libvirt, VmfenceError) or not self.libvirt.silent:
            return self.libvirt
        return self.libvirt.silent[0][1]

    @property
    def allowed(self) -> object:
        """The error where this user may not ask the daemon, or nobody can say which; otherwise True."""
        return self.status if isinstance(self.status, (NotPermitted, NotAsked)) else True

    @property
    def readable(self) -> object:
        """The error where this user may not read a key, or there is none to judge; otherwise True."""
        return self.accepted if isinstance(self.accepted, (NotPermitted, NotAsked)) else True

    @property
    def multicast(self) -> tuple[MulticastSettings, ...]:
        """The listeners that join a group."""
        return tuple(one for one in self.settings.listeners if isinstance(one, MulticastSettings))

    def got_through(self) -> bool | None:
        """Whether a request came through to every listener that was tried; None when none was."""
        if isinstance(self.probes, VmfenceError) or not self.probes:
            return None
        return all(each.got_through for each in self.probes)

    def is_served(self) -> bool | None:
        """Whether every listener that was tried answered with what was asked for; None when none was tried."""
        if isinstance(self.probes, VmfenceError) or not self.probes:
            return None
        return all(each.is_served for each in self.probes)

    def interface(self, name: str) -> Interface | None:
        """Return the interface of that name, None when there is none."""
        return next((one for one in self.interfaces if one.name == name), None)


def load(config: str | None) -> Gatherers:
    """Return what is read first: the configuration, on which most of the rest depends, and how it was found."""
    find = Once(lambda _: config_search.find(config))
    return {"settings": lambda: configuration.load(find("").path), "place": lambda: find("")}


def everything(settings: Settings | VmfenceError) -> Gatherers:
    """Return what can be gathered once the configuration is known; where it cannot be read, what does without."""
    known: Gatherers = {
        "interfaces": network.read_interfaces,
        "network": lambda: kernel.read_network(one.name for one in network.read_interfaces()),
        "own": kernel.read_own_addresses,
        "processes": hidden.read_processes,
        "veiled": hidden.count_veiled,
        "unit": unit.look,
    }
    if isinstance(settings, VmfenceError):
        return {**known, **_without(settings)}
    rules = Once(firewall.read_rules)
    return {
        **known,
        "libvirt": lambda: read_libvirt(settings.backend.uris),
        "peer": lambda: control.ask_pid(settings.daemon.control_socket, _STATUS_S),
        "accepted": lambda: accept(settings),
        "keys": lambda: read_keys(settings),
        "holders": lambda: kernel.read_holders(ports(settings)),
        "status": lambda: control.ask(settings.daemon.control_socket, _STATUS_S),
        "stale": lambda: read_stale(settings.daemon.control_socket, settings.path),
        "probes": lambda: probe.try_listeners(settings),
        "firewall": lambda: read_firewall(settings, rules),
        "way_back": lambda: read_way_back(settings, rules),
        "selinux": lambda: selinux.look([settings.path, *ground.key_files(settings, with_groups=True)]),
        "clock": lambda: read_clock(
            [settings.path, *ground.key_files(settings, with_groups=True), settings.daemon.control_socket]
        ),
        "corosync": lambda: pool_facts.look_at_corosync(settings),
        "pool": lambda: pool_facts.read_report(settings),
        "fencing": lambda: pool_facts.read_fencing(settings),
    }


def _without(fault: VmfenceError) -> Gatherers:
    """Return what is gathered of a host whose configuration has a *fault*: its daemon may run well on an older one."""
    paths = config_search.paths_of(fault)
    place, is_told = config_search.control_socket(paths)
    unread: VmfenceError = NotReached("the configuration cannot be read")
    if is_forbidden(fault):
        unread = NotPermitted("this user may not read the configuration", "", "run this as root")
    names = ("accepted", "keys", "holders", "probes", "firewall", "way_back", "corosync", "pool", "fencing")
    return {
        "libvirt": lambda: read_libvirt(config_search.daemon_uris(place)),
        "peer": lambda: control.ask_pid(place, _STATUS_S),
        "status": lambda: _ask_at(place, is_told),
        "stale": lambda: read_stale(place, *paths),
        "selinux": lambda: selinux.look(paths),
        "clock": lambda: read_clock([*paths, place]),
        **{name: _raiser(unread) for name in names},
    }


def _ask_at(place: str, is_told: bool) -> dict[str, Any]:
    """Return the status of the daemon at *place*; silence there tells something only if the configuration names it."""
    try:
        return control.ask(place, _STATUS_S)
    except control.Silent:
        raise
    except Unreachable as error:
        if is_told:
            raise
        why = f"it may answer elsewhere than at {place}"
        raise NotReached("no daemon answers at the usual place, and the configuration cannot be read", why) from error


def complete(config: str | None, gathered: Mapping[str, Any]) -> Facts:
    """Return the facts made of what was *gathered*; how the configuration was found is none."""
    gathered = {name: value for name, value in gathered.items() if name != "place"}
    settings = gathered["settings"]
    path = config or SEARCH_PATHS[0] if isinstance(settings, VmfenceError) else settings.path
    found = gathered["network"]
    found = kernel.count_again(found) if isinstance(found, Network) else found
    return Facts(path=path, **{**gathered, "network": found}, program=unit.program(), now=time.time())


def accept(settings: Settings) -> bool:
    """Return True when the daemon would take *settings* with their keys.  Raises VmfenceError, NotReached."""
    keys = read_keys(settings)
    if not all(key.exists and key.fault is None for key in keys):
        raise NotReached("a key cannot be used")
    assemble.read_plan(settings)
    return True


def read_keys(settings: Settings) -> tuple[KeyFacts, ...]:
    """Return the judgement of each key.  Raises NotPermitted for one that this user may not read."""
    paths = ground.key_files(settings, with_groups=True)
    for path in paths:
        probe.refuse_hidden(path)
    return tuple(map(ground.read_key, paths))


def ports(settings: Settings) -> frozenset[tuple[str, int]]:
    """Return the ports that the listeners want."""
    udp = {("udp", one.port) for one in settings.listeners if isinstance(one, MulticastSettings)}
    return frozenset(udp | {("tcp", one.port) for one in settings.listeners if isinstance(one, TcpSettings)})


def read_stale(place: str, config: str = "") -> tuple[str, ...]:
    """Return the files that were changed since the daemon at *place* read them, the unit too.  Raises VmfenceError.

    *config*: what it should run with, "": what it does.
    """
    status = control.ask(place, _STATUS_S)
    unit_path = next((path for path in (unit.INSTALL_PATH,) if os.path.exists(path)), None)
    return tuple(ground.stale_files(status, config or str(status["config"]), unit_path))


def read_libvirt(wanted_uris: Iterable[str], run: str = _SOCKET_FOLDER) -> Libvirt:
    """Return what libvirt has at *wanted_uris* and elsewhere.  Raises NotPermitted when this user may not ask."""
    uris = tuple(dict.fromkeys(wanted_uris))
    others = [uri for uri in inventory.candidate_uris() if uri not in uris and _is_there(uri, run)]
    found, errors = inventory.survey([*uris, *others], LIBVIRT_S)
    answered = {one.uri for one in found}
    silent = tuple(zip([uri for uri in (*uris, *others) if uri not in answered], errors))
    wanted = tuple((uri, error) for uri, error in silent if uri in uris)
    if os.geteuid() != 0 and any("Permission denied" in error.why or "authentic" in error.why for _, error in wanted):
        raise NotPermitted("this user may not ask libvirt", wanted[0][1].why, "run this as root")
    return Libvirt(
        tuple(one for one in found if one.uri in uris),
        wanted,
        tuple(one for one in found if one.uri not in uris),
        tuple(path for name in _SOCKETS if os.path.exists(path := f"{run}/{name}")),
        libvirt_unit.find_unit() if wanted else LibvirtUnit(),
    )


def _is_there(uri: str, run: str) -> bool:
    """Whether asking *uri* starts nothing: the usual one has its socket."""
    return uri != inventory.DEFAULT_URI or any(os.path.exists(f"{run}/{name}") for name in _SOCKETS)


def read_firewall(settings: Settings, rules: firewall.Reader) -> Firewall:
    """Return what the firewall lacks.  Raises NotPermitted unless root asks: rules are shown to no other user."""
    if os.geteuid() != 0:
        raise NotPermitted("this user may not read the firewall", "", "run this as root")
    interfaces = network.read_interfaces()
    addresses = {address: one.name for one in interfaces if (address := network.ipv4_address(one.name))}
    bridges: Iterable[str] = ()
    if any(getattr(one, "interface", "") is None or isinstance(one, TcpSettings) for one in settings.listeners):
        found = inventory.survey(dict.fromkeys(settings.backend.uris), LIBVIRT_S)[0]
        bridges = [bridge.name for bridge in network.bridges(interfaces, found) if bridge.guests]
    return firewall.look(openings.openings(settings, addresses.get, bridges), openings.SERVICE_FILE, rules)


def read_way_back(settings: Settings, rules: firewall.Reader) -> Firewall:
    """Return what would let out the connections back to guests, and their answers in.

    Raises VmfenceError, NotPermitted unless root asks.
    """
    if os.geteuid() != 0:
        raise NotPermitted("this user may not read the firewall", "", "run this as root")
    listeners = [one for one in settings.listeners if isinstance(one, MulticastSettings)]
    wanted = [Opening("tcp", one.port, one.interface, one.family) for one in listeners]
    try:
        return firewall.look_out(wanted, rules, kernel.read_local_ports())
    except DeadlineExceeded as error:  # its own remedy starts one of the programs that hang
        raise DeadlineExceeded(error.what, error.why, WHO_HANGS) from error


def read_clock(files: Iterable[str]) -> Clock:
    """Return whether the clock is synchronised, and the newest moment that *files* know of."""
    newest = max(map(_modified_at, files), default=0.0)
    program = shutil.which("timedatectl", path=proc.system_path())
    if program is None or not os.path.isdir("/run/systemd/system"):
        return Clock(None, newest)
    try:
        told = proc.run([program, "show", "--property=NTPSynchronized", "--value"], _ASK_S).stdout.strip()
    except VmfenceError as error:
        return Clock(None, newest, error)
    return Clock({"yes": True, "no": False}.get(told), newest)


def _modified_at(path: str) -> float:
    """Return when *path* was written, in seconds of the wall clock; 0 for what is not there, or not shown."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _raiser(error: VmfenceError) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail
