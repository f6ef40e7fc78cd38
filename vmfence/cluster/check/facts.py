"""What ``cluster check`` reads before it judges: cluster, fencer, agents, keys, hosts, this machine.  Reads only.

In two rounds, because what the hosts, keys and agents are asked depends on the devices in the configuration.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Callable

from vmfence import keyfile, together
from vmfence.cluster import corosync, inquiry, machine, proofs
from vmfence.cluster.cib import Cib, Device
from vmfence.cluster.corosync import QuorumSettings
from vmfence.cluster.coverage import Claim, Coverage
from vmfence.cluster.fencer import AgentMetadata, FencingEvent
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.proofs import Proof
from vmfence.cluster.shown import Shown
from vmfence.cluster.status import Status
from vmfence.errors import AuthenticationError, KeyFileError, KeyNotPermitted, NotPermitted, VmfenceError
from vmfence.findings import NotAsked, NotReached, is_forbidden
from vmfence.guest import survey
from vmfence.guest.answers import HostAnswer
from vmfence.guest.guests import Inquiry
from vmfence.guest.survey import Survey
from vmfence.protocol.reply import Record

VIRT_AGENTS = inquiry.AGENTS
AGENT_FOLDER = "/usr/sbin"
SBD_FILES = ("/etc/sysconfig/sbd", "/etc/default/sbd")
HOST_TIMEOUT_S = 3.0
# Two questions about guests, whose answers are waited for as long as survey.voices() wants to hear all hosts.
VOICES_S, LATE_S = 1.7, 0.25
Gatherers = dict[str, Callable[[], Any]]
# What Pacemaker tells besides its configuration.
_OF_CLUSTER = ("version", "node", "status", "history")


@dataclass(frozen=True)
class AgentFacts:
    """A fence agent that a device names.  *metadata*: what it says of itself, or why it does not.

    *mode*: permission bits of its file; None where no file of that name is in the usual folder.
    """

    name: str
    is_installed: bool
    metadata: AgentMetadata | VmfenceError
    mode: int | None = None


@dataclass(frozen=True)
class KeyFacts:
    """A key file that *devices* use.  *error*: why it is refused; *weaknesses* of one that is not.

    *mode*: its permission bits; None when it is not there.
    """

    path: str
    devices: tuple[str, ...]
    error: KeyFileError | None = None
    weaknesses: tuple[KeyFileError, ...] = ()
    mode: int | None = None


@dataclass(frozen=True)
class HostFacts:
    """What the hosts answered that *devices* ask, or the *error*.

    *asked*: the guest that they were asked about, "" for none; *speakers*: who replied: see survey.voices().
    """

    devices: tuple[str, ...]
    inquiry: Inquiry | None = None
    answers: tuple[HostAnswer, ...] = ()
    error: VmfenceError | None = None
    asked: str = ""
    speakers: tuple[str, ...] = ()

    @cached_property
    def guests(self) -> tuple[Record, ...]:
        """All guests of all these hosts, each once."""
        return tuple(dict.fromkeys(record for answer in self.answers for record in answer.guests))

    @cached_property
    def shown(self) -> Shown:
        """The same guests, to be found by name or UUID."""
        return Shown(self.guests)


@dataclass(frozen=True)
class Facts:
    """All facts; what could not be gathered is the VmfenceError instead, and rules that need it are not asked.

    *fencer*: node -> ids of the devices that the fencer would use for it.  *proofs*: last rehearsal by node.
    *watchdog_s*: SBD's watchdog timeout, None where SBD is not configured.  *pcs*: its version.  *now*: seconds of the
    wall clock.
    """

    version: tuple[int, ...]
    cib: Cib
    node: str
    status: Status
    history: tuple[FencingEvent, ...]
    corosync: QuorumSettings
    machine_uuid: str
    proofs: Mapping[str, Proof]
    watchdog_s: float | None
    agents: Mapping[str, AgentFacts]
    fencer: Mapping[str, tuple[str, ...]]
    keys: tuple[KeyFacts, ...]
    hosts: tuple[HostFacts, ...]
    pcs: tuple[int, ...]
    now: float

    @cached_property
    def coverage(self) -> Coverage:
        """Who fences whom by the configuration."""
        return Coverage(self.cib, self.version)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """What the devices would do for each node, by the configuration, and by the fencer where it has answered."""
        return tuple(self.coverage.claims({} if isinstance(self.fencer, VmfenceError) else self.fencer))

    @property
    def answering(self) -> tuple[HostFacts, ...] | VmfenceError:
        """The hosts, or the first error when there are some and none has answered: then nothing is known of guests."""
        if isinstance(self.hosts, VmfenceError) or any(host.answers for host in self.hosts):
            return self.hosts
        return next((host.error for host in self.hosts if host.error is not None), self.hosts)

    @property
    def exchange(self) -> tuple[HostFacts, ...] | VmfenceError:
        """The hosts when one has answered or refused; silence says nothing of the key."""
        if isinstance(self.hosts, VmfenceError) or any(
            isinstance(one.error, AuthenticationError) for one in self.hosts
        ):
            return self.hosts
        return self.answering

    def hosts_of(self, device: Device) -> HostFacts | None:
        """Return what the hosts of *device* answered; None for a device that asks no host of ours."""
        return next((one for one in self.hosts if device.id in one.devices), None)


def first_round(pacemaker: Pacemaker, record: str = proofs.RECORD_FILE) -> Gatherers:
    """Return what can be gathered at once.  With a CIB file nothing of the running cluster and this machine is."""
    gatherers: Gatherers = {"version": pacemaker.version, "cib": pacemaker.load_cib}
    live: Gatherers = {
        "node": pacemaker.node_name,
        "status": pacemaker.load_status,
        "history": pacemaker.fencing_history,
        "corosync": corosync.load_quorum,
        "machine_uuid": machine.machine_uuid,
        "proofs": lambda: proofs.load(record),
        "watchdog_s": watchdog_timeout,
    }
    if pacemaker.cib_file is None:
        return {**gatherers, **live}
    left_out = NotAsked("a file is judged, not the running cluster")
    return {**gatherers, **{name: _raiser(left_out) for name in live}}


def second_round(pacemaker: Pacemaker, cib: Cib | VmfenceError) -> Gatherers:
    """Return what can be gathered once the configuration is known."""
    if isinstance(cib, VmfenceError) or pacemaker.cib_file is not None:
        unknown = isinstance(cib, VmfenceError)
        why = "the configuration could not be read" if unknown else "a file is judged, not the running cluster"
        left_out: VmfenceError = NotReached(why) if unknown else NotAsked(why)
        if isinstance(cib, VmfenceError) and is_forbidden(cib):
            left_out = cib
        return {name: _raiser(left_out) for name in ("agents", "fencer", "keys", "hosts", "pcs")}
    devices = [device for device in cib.devices if device.agent in VIRT_AGENTS]
    return {
        "agents": lambda: load_agents(pacemaker, {device.agent for device in cib.devices}),
        "fencer": lambda: {node.name: pacemaker.devices_for(node.name) for node in cib.nodes},
        "keys": lambda: load_keys(devices),
        "hosts": lambda: ask_hosts(devices),
        "pcs": lambda: Pcs.detect().version,
    }


def complete(gathered: Mapping[str, Any]) -> Facts:
    """Return the facts made of what both rounds have *gathered*; a cluster that cannot be read is one error."""
    cib, found = gathered["cib"], dict(gathered)
    if isinstance(cib, VmfenceError) and not is_forbidden(cib):
        for name in _OF_CLUSTER:
            if isinstance(found[name], VmfenceError) and not isinstance(found[name], NotAsked):
                found[name] = NotReached("the cluster cannot be read")
    return Facts(**found, now=time.time())


def load_agents(pacemaker: Pacemaker, names: Iterable[str]) -> dict[str, AgentFacts]:
    """Return what is known of each agent in *names*; those that are missing have an error for metadata."""
    installed = pacemaker.installed_agents()
    return {name: _agent(pacemaker, name, name in installed) for name in sorted(names)}


def _agent(pacemaker: Pacemaker, name: str, is_installed: bool) -> AgentFacts:
    metadata: AgentMetadata | VmfenceError
    try:
        metadata = pacemaker.agent_metadata(name) if is_installed else VmfenceError(f"{name} is not installed")
    except VmfenceError as error:
        metadata = error
    return AgentFacts(name, is_installed, metadata, _mode(os.path.join(AGENT_FOLDER, os.path.basename(name))))


def load_keys(devices: Iterable[Device]) -> tuple[KeyFacts, ...]:
    """Return the judgement of each key file that *devices* use; those that work without a key use none.

    Raises KeyNotPermitted for one that this user may not read, or of which he may not see whether it is there.
    """
    users: dict[str, list[str]] = {}
    for device in devices:
        try:
            question = inquiry.inquiry_of(device.options, device.agent)
        except VmfenceError:
            continue  # told with the hosts
        if question.uses_key:
            users.setdefault(question.key_file, []).append(device.id)
    return tuple(_key(path, tuple(ids)) for path, ids in users.items())


def _key(path: str, devices: tuple[str, ...]) -> KeyFacts:
    try:
        return KeyFacts(path, devices, None, tuple(keyfile.judge(path)), _mode(path))
    except KeyNotPermitted:
        raise
    except KeyFileError as error:
        return KeyFacts(path, devices, error, (), _mode(path))


def ask_hosts(devices: Iterable[Device], timeout_s: float = HOST_TIMEOUT_S) -> tuple[HostFacts, ...]:
    """Return what the hosts of *devices* answer, all asked at the same time; who asks in the same way is asked once.

    Raises NotPermitted when this user may not read a key.
    """
    found: list[HostFacts] = []
    users: dict[Inquiry, list[Device]] = {}
    for device in devices:
        try:
            question = replace(inquiry.inquiry_of(device.options, device.agent), timeout_s=timeout_s)
        except VmfenceError as error:
            found.append(HostFacts((device.id,), error=error))
        else:
            users.setdefault(question, []).append(device)
    all_s = timeout_s + VOICES_S
    calls = {str(number): partial(survey.survey, question, all_s) for number, question in enumerate(users)}
    heard = together.call(calls, all_s + LATE_S).values()
    for one in heard:
        if isinstance(one, KeyNotPermitted):
            raise NotPermitted("no host was asked: this user may not read the key", one.what, one.remedy)
    return (*found, *(_host(question, users[question], one) for question, one in zip(users, heard)))


def _host(question: Inquiry, devices: list[Device], found: Survey | VmfenceError) -> HostFacts:
    ids = tuple(device.id for device in devices)
    if isinstance(found, VmfenceError):
        return HostFacts(ids, question, error=found)
    return HostFacts(ids, question, found.hosts, None, found.asked, found.speakers)


def watchdog_timeout(paths: Iterable[str] = SBD_FILES) -> float | None:
    """Return the seconds of SBD_WATCHDOG_TIMEOUT, 5 where SBD's file does not say; None without that file."""
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file.read(1 << 20).splitlines()]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise VmfenceError(f"cannot read {path}", error.strerror or str(error), "run this as root") from error
        values = [line.partition("=")[2].strip("\"' ") for line in lines if line.startswith("SBD_WATCHDOG_TIMEOUT=")]
        text = values[-1] if values else ""
        return float(text) if text.isdecimal() and text.isascii() else 5.0
    return None


def _mode(path: str) -> int | None:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None


def _raiser(error: VmfenceError) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail
