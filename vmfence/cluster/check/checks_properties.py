"""Checks of the cluster properties that matter to fencing, and of what they have to do with each other.  Pure.

Source: Pacemaker's lib/common/options.c and Pacemaker Explained, "Cluster Options" and "Fencing".
"""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.cluster import properties
from vmfence.cluster.check.facts import Facts
from vmfence.cluster.durations import parse_duration
from vmfence.cluster.hostmap import parse_delay_map
from vmfence.cluster.properties import Property
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotAsked, NotReached, command_line

CLUSTER = "cluster"
_CONCURRENT_SINCE, _POWEROFF_UNTIL, _FENCE_SINCE = (3, 0, 0), (3, 0, 0), (2, 1, 9)
_RENAMED = tuple(one for one in properties.PROPERTIES if one.old_name)


def set_property(facts: Facts, name: str, value: str) -> str:
    """Return the command that sets a property, known by its old or new *name*, as this version spells it."""
    spelled = properties.find(name).name_in(facts.version)
    return command_line(["pcs", "property", "set", f"{spelled}={value}"])


def in_force(facts: Facts, name: str) -> tuple[str, str]:
    """Return the effective value of a property, and as evidence how it is set."""
    value, is_set, spelled = properties.effective(facts.cib, facts.version, name)
    return value, f"{spelled}={value}" if is_set else f"{spelled} is not set, its default is {value}"


def _ignored(facts: Facts) -> Iterator[Fault]:
    for one in _RENAMED:
        if facts.version < properties.RENAMED_SINCE and one.name in facts.cib.properties:
            value = facts.cib.properties[one.name]
            yield Fault(
                WARNING,
                one.name,
                f"this Pacemaker does not know the name {one.name}, so it is ignored",
                f"{one.name}={value}; Pacemaker {_dotted(facts.version)}, the name came with 3.0.2",
                command_line(["pcs", "property", "set", f"{one.old_name}={value}", f"{one.name}="]),
            )


def _conflict(facts: Facts) -> Iterator[Fault]:
    for one in _RENAMED:
        new, old = (facts.cib.properties.get(name) for name in (one.name, one.old_name))
        if facts.version >= properties.RENAMED_SINCE and new is not None and old is not None and new != old:
            yield Fault(
                WARNING,
                one.name,
                "it is set under its old name and its new one; the new one counts, silently",
                f"{one.name}={new}, {one.old_name}={old}",
                command_line(["pcs", "property", "set", f"{one.old_name}="]),
            )


def _invalid(facts: Facts) -> Iterator[Fault]:
    for one in properties.PROPERTIES:
        value, is_set, spelled = properties.effective(facts.cib, facts.version, one.name)
        if is_set and not _is_valid(one, value, facts.version):
            default = one.default(facts.version)
            message = f"Pacemaker does not understand this value and takes its default, {default}"
            remedy = set_property(facts, one.name, default)
            yield Fault(WARNING, spelled, message, f"{spelled}={value}; good is: {one.kind.values}", remedy)


def _is_valid(one: Property, value: str, version: tuple[int, ...]) -> bool:
    word = value.lower()
    if word == "poweroff" and version < _POWEROFF_UNTIL:
        return True
    if one.name == "no-quorum-policy" and word == "fence" and version < _FENCE_SINCE:
        return False
    try:
        one.kind.check(word)
    except VmfenceError:
        return False
    return True


def _concurrent(facts: Facts) -> Iterator[Fault]:
    nodes = facts.coverage.members
    if _is_serial(facts) and len(nodes) > 2:
        _, is_set, _ = properties.effective(facts.cib, facts.version, "concurrent-fencing")
        yield Fault(
            WARNING if is_set else NOTE,
            CLUSTER,
            "nodes are fenced one after another: when several are lost at once, recovery waits for each",
            f"{in_force(facts, 'concurrent-fencing')[1]}; members: {len(nodes)}",
            set_property(facts, "concurrent-fencing", "true"),
        )


def _is_serial(facts: Facts) -> bool:
    """Whether nodes are fenced one after another; Pacemaker 3 does that no more, whatever the property says."""
    is_set = properties.is_true(facts.cib, facts.version, "concurrent-fencing")
    return not is_set and facts.version < _CONCURRENT_SINCE


def _never_several(facts: Facts) -> VmfenceError | None:
    is_so = _is_serial(facts) and len(facts.coverage.members) <= 2
    return NotAsked("of two nodes one is fenced at most") if is_so else None


def _watchdog(facts: Facts) -> Iterator[Fault]:
    _, evidence = in_force(facts, "stonith-watchdog-timeout")
    try:
        timeout_s = properties.watchdog_s(facts.cib, facts.version)
    except VmfenceError:
        return  # told as invalid
    has_watchdog = facts.cib.properties.get("have-watchdog", "false").lower() == "true"
    off = set_property(facts, "stonith-watchdog-timeout", "0")
    if timeout_s and not has_watchdog:
        message = "fencing by watchdog is configured, but SBD does not run: a node counts as fenced that is not"
        yield Fault(ERROR, CLUSTER, message, f"{evidence}; have-watchdog=false", off)
    elif timeout_s > 0 and facts.watchdog_s is not None and timeout_s <= facts.watchdog_s:
        message = "the cluster takes a node for dead before its watchdog has reset it"
        seen = f"{evidence}; SBD_WATCHDOG_TIMEOUT={facts.watchdog_s:g} s"
        longer = set_property(facts, "stonith-watchdog-timeout", f"{2 * facts.watchdog_s:g}s")
        yield Fault(ERROR, CLUSTER, message, seen, longer)


def _no_watchdog(facts: Facts) -> VmfenceError | None:
    try:
        is_used = bool(properties.watchdog_s(facts.cib, facts.version))
    except VmfenceError:
        return NotReached(f"{in_force(facts, 'stonith-watchdog-timeout')[1]} is no duration")
    return None if is_used else NotAsked("watchdog fencing is not configured")


def _priority(facts: Facts) -> Iterator[Fault]:
    priority_s = properties.seconds(facts.cib, facts.version, "priority-fencing-delay")
    if not priority_s:
        return
    for device in facts.coverage.usable:
        delays = parse_delay_map(device.options.get("pcmk_delay_base", ""), facts.version)
        longest_s = max(
            [delays.everyone_s, _time(device.options.get("pcmk_delay_max", "0")), *dict(delays.pairs).values()]
        )
        if priority_s < 2 * longest_s:
            yield Fault(
                WARNING,
                device.id,
                "the delay of the device can outweigh the priority of the nodes: both are added",
                f"priority-fencing-delay={priority_s:g} s, less than twice the {longest_s:g} s of the device",
                set_property(facts, "priority-fencing-delay", f"{2 * longest_s:g}s"),
            )


def _no_priority(facts: Facts) -> VmfenceError | None:
    if properties.seconds(facts.cib, facts.version, "priority-fencing-delay"):
        return None
    return NotAsked("priority-fencing-delay is not set")


def _conditional(facts: Facts) -> Iterator[Fault]:
    for name in facts.cib.conditional:
        message = "these values hold only when a rule says so, and are not judged here"
        yield Fault(NOTE, name, message, "an attribute set with a rule", "see them with: pcs config")


def _time(text: str) -> float:
    try:
        return parse_duration(text)
    except VmfenceError:
        return 0.0


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_NEEDS = ("cib", "version")
CHECKS = (
    Check(
        "cluster-watchdog",
        "watchdog fencing, if configured, is real",
        """With a watchdog timeout the cluster takes a node for dead after that time, because its watchdog resets it.
        Without SBD on the nodes nothing resets it; and the timeout must be longer than SBD_WATCHDOG_TIMEOUT, usually
        twice as long.""",
        _watchdog,
        (*_NEEDS, "watchdog_s"),
        doubt=_no_watchdog,
    ),
    Check(
        "cluster-property-invalid",
        "properties that matter to fencing have values that Pacemaker understands",
        """Pacemaker replaces a value that it does not understand by the default, and only its log tells.""",
        _invalid,
        _NEEDS,
    ),
    Check(
        "cluster-property-ignored",
        "properties are set under names that this Pacemaker knows",
        """Pacemaker 3.0.2 renamed the properties that begin with stonith- to fencing-. An older one ignores the new
        names in silence: what was set has no effect.""",
        _ignored,
        _NEEDS,
    ),
    Check(
        "cluster-property-conflict",
        "no property is set under both of its names",
        """Since Pacemaker 3.0.2 a property may stand there twice, as stonith- and as fencing-. The new name wins.""",
        _conflict,
        _NEEDS,
    ),
    Check(
        "cluster-concurrent-fencing",
        "several nodes can be fenced at the same time",
        """Before Pacemaker 3 nodes may be fenced one by one (concurrent-fencing=false). After the loss of many nodes
        the last ones wait until all others are done, with their timeouts.""",
        _concurrent,
        _NEEDS,
        doubt=_never_several,
    ),
    Check(
        "cluster-priority-delay",
        "priority-fencing-delay outweighs the delays of devices",
        """Delays are added. For priority to decide who survives, priority-fencing-delay must be at least twice the
        longest pcmk_delay_base or pcmk_delay_max.""",
        _priority,
        _NEEDS,
        doubt=_no_priority,
    ),
    Check(
        "cluster-conditional-values",
        "no value depends on a rule",
        """A set of attributes with a rule holds at some times or on some nodes only. Checks judge what always
        holds.""",
        _conditional,
        _NEEDS,
    ),
)
