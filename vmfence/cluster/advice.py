"""What we advise about the cluster properties that matter to fencing.  Pure.

Source: Pacemaker Explained, "Fencing" and "Cluster Options"; the reasons stand beside each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

from vmfence.cluster import properties
from vmfence.cluster.cib import Cib
from vmfence.cluster.durations import parse_boolean, parse_duration
from vmfence.cluster.properties import Property, Version
from vmfence.errors import VmfenceError

_NEW_POLICY = (2, 1, 9)


def advice(one: Property, cib: Cib, version: Version) -> tuple[str, ...]:
    """Return what we advise about property *one* as it stands in *cib*; nothing where it is well."""
    return (*_about_names(one, cib, version), *_about_value(one, cib, version))


def _about_names(one: Property, cib: Cib, version: Version) -> Iterator[str]:
    wins = properties.effective(cib, version, one.name).spelled_name
    for spelled in (one.name, one.old_name):
        if spelled in cib.properties and spelled not in one.names_in(version):
            yield f"{spelled} is set, but this Pacemaker knows only {one.name_in(version)} and ignores it"
        elif spelled in cib.properties and spelled != wins:
            yield f"{spelled} is set too, but {wins} wins: take one of them away"


def _about_value(one: Property, cib: Cib, version: Version) -> Iterator[str]:
    value = properties.effective(cib, version, one.name).value
    if one.name == "fencing-action" and value == "poweroff" and version < (3,):
        yield "poweroff is the old word for off, and Pacemaker 3 does not know it"
        return
    try:
        one.kind.check(value)
    except VmfenceError:
        yield f"Pacemaker does not understand {value!r}, so its default holds; give {one.kind.values}"
        return
    if one.name == "no-quorum-policy" and value == "fence" and version < _NEW_POLICY:
        yield "this Pacemaker does not know fence and takes stop; the word came with 2.1.9"
    if one.name == "no-quorum-policy" and value == "suicide" and version >= _NEW_POLICY:
        yield "suicide is the old word for fence"
    for name, is_so, words in _ADVICE:
        if name == one.name and is_so(value, cib, version):
            yield words


def _is_on(value: str, cib: Cib, version: Version) -> bool:
    return parse_boolean(value)


def _is_off(value: str, cib: Cib, version: Version) -> bool:
    return not parse_boolean(value)


def _is_serial(value: str, cib: Cib, version: Version) -> bool:
    return not parse_boolean(value) and _members(cib) > 2


def _is_short(value: str, cib: Cib, version: Version) -> bool:
    return parse_duration(value) < 60


def _is_watchdog_missing(value: str, cib: Cib, version: Version) -> bool:
    is_wanted = value.startswith("-") or parse_duration(value) > 0
    return is_wanted and not properties.is_true(cib, version, "have-watchdog")


def _is_tie(value: str, cib: Cib, version: Version) -> bool:
    names = ("pcmk_delay_base", "pcmk_delay_max")
    is_delayed = any(name in device.options for device in cib.devices for name in names)
    return _members(cib) == 2 and parse_duration(value) == 0 and not is_delayed


def _members(cib: Cib) -> int:
    return sum(not node.is_remote for node in cib.nodes)


# Property, when (its value is understood by then), what we say.
_ADVICE: tuple[tuple[str, Callable[[str, Cib, Version], bool], str], ...] = (
    (
        "fencing-enabled",
        _is_off,
        "set it to true: without fencing, two halves of a split cluster write to the same data",
    ),
    (
        "fencing-action",
        lambda value, cib, version: value == "off",
        "a fenced node stays off until somebody starts it; reboot brings it back",
    ),
    ("fencing-timeout", _is_short, "give 60s or more: the host may need that long to stop a guest"),
    (
        "fencing-watchdog-timeout",
        _is_watchdog_missing,
        "no watchdog runs here (have-watchdog is not true), so take it away",
    ),
    (
        "concurrent-fencing",
        _is_serial,
        "set it to true: when several nodes are lost, they are fenced one after another",
    ),
    ("startup-fencing", _is_off, "set it to true: a node that was never seen may be running all the same"),
    (
        "priority-fencing-delay",
        _is_tie,
        "two nodes that lose each other fence each other: give one a head start, with this or with pcmk_delay_base"
        " on the device",
    ),
    ("fence-remote-without-quorum", _is_on, "set it to false: a part without quorum must not fence"),
    (
        "no-quorum-policy",
        lambda value, cib, version: value == "ignore",
        "set it to stop: with ignore, every part of a split cluster fences and runs; two nodes want two_node in"
        " corosync.conf instead",
    ),
    ("maintenance-mode", _is_on, "the cluster starts and stops nothing, so it recovers nothing either"),
)
