"""The cluster properties that matter to fencing: names, defaults, what is in force, what may be set.  Pure.

Source: Pacemaker's lib/common/options.c of 2.1.5 and 3.0.2, lib/pengine/common.c of 1.1.23, and Pacemaker Explained,
"Cluster Options".  Every fencing-* name is new in 3.0.2, which reads the old name second; older ones ignore the new.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Callable, NamedTuple, TypeVar

from vmfence.cluster.cib import Cib
from vmfence.cluster.durations import parse_boolean, parse_duration
from vmfence.errors import UsageError, VmfenceError

Version = tuple[int, ...]
Parsed = TypeVar("Parsed", bool, float)
RENAMED_SINCE = (3, 0, 2)


class Kind(NamedTuple):
    """What a value may be: *values* in words, *check* raises VmfenceError for what Pacemaker would not understand."""

    values: str
    check: Callable[[str], object]


@dataclass(frozen=True)
class Property:
    """A cluster property.  *name*: since 3.0.2, *old_name*: before, "" where it is the same.

    *default_3*: the default since 3.0.0 where that is another.  *is_generated*: the cluster sets it itself.
    """

    name: str
    old_name: str
    kind: Kind
    default_value: str
    meaning: str
    since: Version = (1, 1)
    default_3: str = ""
    is_generated: bool = False

    def name_in(self, version: Version) -> str:
        """Return the name that Pacemaker *version* wants."""
        return self.name if version >= RENAMED_SINCE else self.old_name or self.name

    def names_in(self, version: Version) -> tuple[str, ...]:
        """Return the names that Pacemaker *version* reads, the one that wins first."""
        return tuple(dict.fromkeys((self.name_in(version), self.old_name or self.name)))

    def default(self, version: Version) -> str:
        """Return what holds in Pacemaker *version* while it is not set."""
        return self.default_3 if self.default_3 and version >= (3,) else self.default_value


class Effective(NamedTuple):
    """What is in force: *value*, whether it *is_set*, and the *spelled_name* under which (else the one to use)."""

    value: str
    is_set: bool
    spelled_name: str


def _one_of(*choices: str) -> Kind:
    def check(text: str) -> None:
        if text not in choices:
            raise VmfenceError(f"{text!r} is none of {', '.join(choices)}")

    return Kind(" or ".join(choices), check)


def _check_number(text: str) -> None:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise VmfenceError(f"{text!r} is no whole number above 0")


def _check_watchdog(text: str) -> None:
    parse_duration(text.removeprefix("-"))


_SWITCH = Kind("true or false", parse_boolean)
_TIME = Kind('a time ("60s", "2min")', parse_duration)
_NUMBER = Kind("a whole number", _check_number)
_WATCHDOG = Kind("a time, 0, or a negative one for twice SBD_WATCHDOG_TIMEOUT", _check_watchdog)
_ACTION, _REACTION = _one_of("reboot", "off"), _one_of("stop", "panic")
_POLICY = _one_of("stop", "freeze", "ignore", "demote", "fence", "suicide")

PROPERTIES = (
    Property(
        "fencing-enabled", "stonith-enabled", _SWITCH, "true",
        "whether lost nodes are fenced; without, they are taken for dead",
    ),
    Property(
        "fencing-action", "stonith-action", _ACTION, "reboot",
        "what is done to a node that must be fenced",
    ),
    Property(
        "fencing-timeout", "stonith-timeout", _TIME, "60s",
        "how long one fencing may take where the device does not say",
    ),
    Property(
        "fencing-max-attempts", "stonith-max-attempts", _NUMBER, "10",
        "how often fencing of a node may fail before it is not retried at once", since=(1, 1, 17),
    ),
    Property(
        "fencing-watchdog-timeout", "stonith-watchdog-timeout", _WATCHDOG, "0",
        "after which time a watchdog (SBD) is trusted to have stopped a node; 0: never", since=(1, 1, 13),
    ),
    Property(
        "fencing-reaction", "fence-reaction", _REACTION, "stop",
        "what a node does that hears it was fenced and still runs", since=(1, 1, 22),
    ),
    Property(
        "have-watchdog", "", _SWITCH, "false",
        "whether SBD runs with a watchdog; the cluster sets it", is_generated=True,
    ),
    Property(
        "concurrent-fencing", "", _SWITCH, "false",
        "whether several nodes are fenced at the same time", since=(1, 1, 15), default_3="true",
    ),
    Property(
        "startup-fencing", "", _SWITCH, "true",
        "whether nodes that were never seen are fenced at the start",
    ),
    Property(
        "priority-fencing-delay", "", _TIME, "0",
        "how much later the node with the more important resources is fenced, in a tie", since=(1, 1, 23),
    ),
    Property(
        "node-pending-timeout", "", _TIME, "0",
        "after which time a node that joins but gets no further is fenced; 0: never", since=(2, 1, 7),
    ),
    Property(
        "fence-remote-without-quorum", "", _SWITCH, "false",
        "whether a part without quorum may fence remote nodes", since=(3, 0, 1),
    ),
    Property(
        "no-quorum-policy", "", _POLICY, "stop",
        "what a part of the cluster without quorum does",
    ),
    Property(
        "cluster-delay", "", _TIME, "60s",
        "what is added to times for the way between nodes",
    ),
    Property(
        "symmetric-cluster", "", _SWITCH, "true",
        "whether resources may run anywhere unless forbidden",
    ),
    Property(
        "maintenance-mode", "", _SWITCH, "false",
        "whether the cluster leaves all resources alone",
    ),
)  # fmt: skip


def find(name: str) -> Property:
    """Return the property of that name, old or new.  Raises UsageError for one that does not matter to fencing."""
    for one in PROPERTIES:
        if name and name in (one.name, one.old_name):
            return one
    raise UsageError(
        f"{name!r} is no property that matters to fencing",
        "",
        "vmfence cluster properties lists those; others are set with pcs property set",
    )


def default(name: str, version: Version) -> str:
    """Return what holds in Pacemaker *version* while *name*, old or new, is not set."""
    return find(name).default(version)


def effective(cib: Cib, version: Version, name: str) -> Effective:
    """Return what is in force for *name*, old or new; the value as written.  Raises UsageError for an unknown name."""
    one = find(name)
    for spelled in one.names_in(version):
        if spelled in cib.properties:
            return Effective(cib.properties[spelled], True, spelled)
    return Effective(one.default(version), False, one.name_in(version))


def is_true(cib: Cib, version: Version, name: str) -> bool:
    """Return whether the boolean property *name* is in force; what Pacemaker cannot read counts as the default."""
    return _parsed(cib, version, name, parse_boolean)


def word(cib: Cib, version: Version, name: str) -> str:
    """Return what is in force for *name* in lower case, a boolean as true or false however it is written."""
    if find(name).kind is _SWITCH:
        return "true" if is_true(cib, version, name) else "false"
    return effective(cib, version, name).value.strip().lower()


def seconds(cib: Cib, version: Version, name: str) -> float:
    """Return the time in force for *name* in seconds; what Pacemaker cannot read counts as the default."""
    return _parsed(cib, version, name, parse_duration)


def _parsed(cib: Cib, version: Version, name: str, parse: Callable[[str], Parsed]) -> Parsed:
    try:
        return parse(effective(cib, version, name).value)
    except VmfenceError:
        return parse(default(name, version))


def watchdog_s(cib: Cib, version: Version) -> float:
    """Return after how many seconds a watchdog is trusted: 0: never, negative: twice SBD_WATCHDOG_TIMEOUT.

    Raises VmfenceError for what is no time; Pacemaker takes that for a negative one.
    """
    value = effective(cib, version, "stonith-watchdog-timeout").value
    return parse_duration(value.removeprefix("-")) * (-1 if value.startswith("-") else 1)


def writable_name(name: str, version: Version, listed: Collection[str] | None = None) -> str:
    """Return the spelling of *name* to write for Pacemaker *version*, which *listed* these names where it can.

    Raises UsageError for what the cluster sets itself, for an unknown property and one this Pacemaker does not have.
    """
    one = find(name)
    if one.is_generated:
        raise UsageError(f"{name} cannot be set", "the cluster sets it itself")
    wanted = one.name_in(version)
    if listed is not None:
        wanted = next((spelled for spelled in (one.name, one.old_name) if spelled in listed), "")
    if not wanted or (listed is None and version < one.since):
        number, since = (".".join(map(str, numbers)) for numbers in (version, one.since))
        raise UsageError(f"Pacemaker {number} has no property {name}", f"it came with {since}")
    return wanted


def check_value(name: str, value: str) -> None:
    """Raise UsageError unless *value* is good for the property *name*; an empty one takes the setting away."""
    one = find(name)
    if not value:
        return
    try:
        one.kind.check(value)
    except VmfenceError as error:
        raise UsageError(f"{name} cannot be {value!r}", "", f"give {one.kind.values}") from error
