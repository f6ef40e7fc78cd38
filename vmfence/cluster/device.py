"""The stonith device that is wanted, and what it takes to have it: compared with what is there.  Pure.

Facts: spec of pcs 0.9 to 0.12 (names, op, meta, empty values), Pacemaker's fencer (host map, host list, plug and port).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vmfence.cluster import delays, options, timeouts
from vmfence.cluster.cib import Cib, Device, Operation
from vmfence.cluster.durations import parse_duration
from vmfence.cluster.hostmap import format_host_map, parse_host_list, parse_host_map
from vmfence.cluster.matching import Pair, is_same
from vmfence.cluster.pcs import Argv, Pcs
from vmfence.cluster.properties import effective, is_true, seconds, writable_name
from vmfence.errors import UsageError, VmfenceError
from vmfence.findings import command_line
from vmfence.protocol.reply import Record
from vmfence.protocol.request import DOMAIN_BYTES_MAX

Version = tuple[int, ...]
DEFAULT_NAME = "vmfence"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_NOT_PORTABLE = re.compile(r"^-|[^A-Za-z0-9_.+@-]")
_RESERVED = "cib-bootstrap-options"  # Pacemaker's own properties, which a new CIB does not have yet
_HOST_LIST_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Spec:
    """What the user asks for.  *options*: the agent's parameters and pcmk_*, as given; times as they stand in a CIB.

    *has_static_list*: write the list of nodes besides the map.
    """

    name: str = DEFAULT_NAME
    agent: str = "fence_vmfence"
    options: Mapping[str, str] = field(default_factory=dict)
    has_static_list: bool = False
    monitor_interval: str = "60s"
    monitor_timeout: str = ""


@dataclass(frozen=True)
class Cluster:
    """The cluster as it is: *version* of Pacemaker, and the *option_names* that it lists, None where it lists none."""

    cib: Cib
    version: Version
    option_names: Collection[str] | None = None


@dataclass(frozen=True)
class Difference:
    """One option, or time of an operation, that is not as wanted: "" for none."""

    name: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Step:
    """One command that changes the cluster, and what it is for."""

    what: str
    argv: Argv


@dataclass(frozen=True)
class Plan:
    """*device* as it shall be; *existing* is the one of that name that is there, and *differences* what parts them.

    *properties*: cluster properties that have to change with it.  *steps* come in the order of doing; none: all is as
    it shall be.
    """

    device: Device
    existing: Device | None
    differences: tuple[Difference, ...]
    properties: Mapping[str, str]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def make_plan(spec: Spec, pairs: Sequence[Pair], guests: Sequence[Record], cluster: Cluster, pcs: Pcs) -> Plan:
    """Return what makes *spec* true for *pairs*.  *guests*: all that the hosts show.

    Raises UsageError for what cannot be meant, VmfenceError for names that no host map can hold, and for an id that
    something else has.
    """
    cib, version = cluster.cib, cluster.version
    existing = _check_name(spec, cib)
    options.check(spec.options)
    stonith_s = seconds(cib, version, "stonith-timeout")
    times = timeouts.add_up(spec.agent, spec.options, spec.monitor_timeout, stonith_s)
    priority_s = seconds(cib, version, "priority-fencing-delay")
    nodes = [pair.node for pair in pairs]
    delay = delays.head_start(spec.name, nodes, spec.options, cib, version, priority_s)
    wanted = {**_where(spec, pairs, guests, cib), **spec.options, **times.options, **delay.options}
    monitor = Operation("monitor", spec.monitor_interval, times.monitor)
    device = Device(spec.name, spec.agent, wanted, existing.meta if existing else {}, (monitor,))
    properties = _properties(times.stonith_timeout_s, cluster)
    differences = tuple(compare(device, existing, version)) if existing else ()
    steps = (*_property_steps(properties, pcs), *_device_steps(device, existing, differences, pcs))
    notes = (delay.note, times.note, *_warnings(cib, version, existing))
    return Plan(device, existing, differences, properties, tuple(steps), tuple(filter(None, notes)))


def compare(wanted: Device, found: Device, version: Version) -> Iterable[Difference]:
    """Yield what parts *found* from *wanted*: options, and the operations that *wanted* has; not meta attributes."""
    for name in dict.fromkeys((*wanted.options, *found.options)):
        pair = found.options.get(name, ""), wanted.options.get(name, "")
        if not _means_same(name, *pair, version):
            yield Difference(name, *pair)
    for one in wanted.operations:
        other = found.operation(one.name) or Operation(one.name)
        for what in ("interval", "timeout"):
            pair = getattr(other, what), getattr(one, what)
            if not _means_same(what, *pair, version):
                yield Difference(f"{one.name} {what}", *pair)


def port_of(pair: Pair, guests: Sequence[Record], nodes: Iterable[str]) -> str:
    """Return the name by which the host is asked for the guest of *pair*: its name where that is safe, else its UUID.

    Its UUID also where the user gave that.  *nodes*: all of the cluster.
    A name is unsafe that a host map of some Pacemaker, the wire or an agent's input would change, that two guests have,
    or that another node has: Pacemaker takes the ports of a map for names of nodes too, and would fence this guest for
    that node.  Raises VmfenceError when it has no UUID then.
    """
    guest = pair.guest
    fault = "" if is_same(pair.given, guest.uuid) else _fault_of(guest.name, pair.node, guests, nodes)
    if not fault and not is_same(pair.given, guest.uuid):
        return guest.name
    if guest.uuid:
        return guest.uuid
    what = f"the name of guest {guest.name!r} cannot stand in a host map"
    raise VmfenceError(what, fault, "rename the guest, or give its UUID with --map")


def _fault_of(name: str, node: str, guests: Sequence[Record], nodes: Iterable[str]) -> str:
    """Return why a guest's *name* is no safe port for *node*, "" when it is one."""
    bad = _NOT_PORTABLE.search(name)
    if bad or not name:
        return f"versions of Pacemaker and agents differ in how they read {bad[0]!r} there" if bad else "it is empty"
    size = len(name.encode("utf-8", "surrogateescape"))
    if size >= DOMAIN_BYTES_MAX:
        # The wire cuts names at 63 bytes: one that fills them may be the beginning of a longer one.
        return f"it has {size} bytes, and only names with fewer than {DOMAIN_BYTES_MAX} are surely whole on the wire"
    if sum(other.name == name for other in guests) > 1 or any(is_same(other.uuid, name) for other in guests):
        return "another guest has that name, or it for a UUID"
    if any(is_same(other, name) and not is_same(other, node) for other in nodes):
        return f"another node has that name, so Pacemaker would fence the guest of {node} for it"
    return ""


def _check_name(spec: Spec, cib: Cib) -> Device | None:
    """Return the device of that name, if it is one that can be made into the one wanted."""
    if not _NAME.fullmatch(spec.name):
        remedy = "use letters, digits, '_', '-' and '.', a letter or '_' first, at most 200"
        raise UsageError(f"{spec.name!r} cannot be the name of a device", "", remedy)
    existing = cib.device(spec.name)
    if existing is None and (spec.name in cib.ids or spec.name.startswith(_RESERVED)):
        why = "that id is for something else in the CIB"
        raise VmfenceError(f"the name {spec.name} is taken", why, "choose another")
    if existing is not None and existing.agent != spec.agent:
        what = f"there is a device {spec.name} already, with the agent {existing.agent!r}"
        remedy = f"choose another name, or remove it with: vmfence cluster remove-device {spec.name}"
        raise VmfenceError(what, f"the agent of a device cannot be changed into {spec.agent}", remedy)
    return existing


def _where(spec: Spec, pairs: Sequence[Pair], guests: Sequence[Record], cib: Cib) -> dict[str, str]:
    """Return the options that say which nodes the device fences, and as what."""
    nodes = [node.name for node in cib.nodes] or [pair.node for pair in pairs]
    where = {"pcmk_host_map": format_host_map([(pair.node, port_of(pair, guests, nodes)) for pair in pairs])}
    if spec.has_static_list:
        bad = next((pair.node for pair in pairs if not _HOST_LIST_NAME.fullmatch(pair.node)), None)
        if bad is not None:
            why = "Pacemaker cuts each name there at the first character but letters, digits, '_', '.' and '-'"
            raise VmfenceError(f"node {bad!r} cannot stand in pcmk_host_list", why, "leave --static-list out")
        where["pcmk_host_list"] = ",".join(pair.node for pair in pairs)
        where["pcmk_host_check"] = "static-list"
    return where


def _properties(stonith_timeout_s: int | None, cluster: Cluster) -> dict[str, str]:
    if stonith_timeout_s is None:
        return {}
    return {writable_name("stonith-timeout", cluster.version, cluster.option_names): f"{stonith_timeout_s}s"}


def _property_steps(properties: Mapping[str, str], pcs: Pcs) -> list[Step]:
    return [Step("raise the cluster's timeout", pcs.property_set(properties))] if properties else []


def _device_steps(wanted: Device, existing: Device | None, differences: Sequence[Difference], pcs: Pcs) -> list[Step]:
    if existing is None:
        argv = pcs.create_stonith(wanted.id, wanted.agent, wanted.options, wanted.operations)
        return [Step(f"create the device {wanted.id}", argv)]
    if not differences:
        return []
    changed = {one.name: one.wanted for one in differences if " " not in one.name}
    times = wanted.operations if len(changed) < len(differences) else ()
    return [Step(f"change the device {wanted.id}", pcs.update_stonith(wanted.id, changed, times))]


def _warnings(cib: Cib, version: Version, existing: Device | None) -> Iterable[str]:
    if not is_true(cib, version, "stonith-enabled"):
        name = effective(cib, version, "stonith-enabled").spelled_name
        yield f"fencing is disabled in this cluster: enable it with: vmfence cluster properties set {name}=true"
    if existing is not None and existing.is_disabled:
        yield f"the device is disabled: enable it with: {command_line(['pcs', 'stonith', 'enable', existing.id])}"


def _means_same(name: str, one: str, other: str, version: Version) -> bool:
    """Whether two values mean the same to Pacemaker."""
    if one == other or not (one and other):
        return one == other
    if name == "pcmk_host_map":
        first, second = parse_host_map(one, version), parse_host_map(other, version)
        return not first.faults and _folded(first.ports()) == _folded(second.ports())
    if name == "pcmk_host_list":
        return {node.lower() for node in parse_host_list(one)} == {node.lower() for node in parse_host_list(other)}
    if name in ("interval", "timeout", "delay", "pcmk_delay_max") or name.endswith("_timeout"):
        return _is_same_time(one, other)
    return False


def _is_same_time(one: str, other: str) -> bool:
    try:
        return parse_duration(one) == parse_duration(other)
    except VmfenceError:
        return False


def _folded(ports: Mapping[str, str]) -> dict[str, str]:
    return {node.lower(): port for node, port in ports.items()}
