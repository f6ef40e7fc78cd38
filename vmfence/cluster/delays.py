"""Two nodes: which delay keeps them from fencing each other at the same moment.  Pure.

When two nodes lose each other, each keeps quorum and fences the other; without a head start for one of them both die.
The delay stands on the fencing of the node that is to survive: its rival shoots later.  Source: Pacemaker Explained,
"Fencing", and fenced_commands.c of 1.1 to 3.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmfence.cluster.cib import Cib, Node
from vmfence.cluster.hostmap import parse_delay_map

Version = tuple[int, ...]
DELAY_S = 10  # longer than a fencing of a guest takes: off, seen off, and the loser is gone
RANDOM_S = 20
_BY_NODE_SINCE, _BASE_SINCE, _MAX_SINCE, _WHOLE_NAMES_SINCE = (2, 1, 2), (1, 1, 18), (1, 1, 13), (3, 0, 2)
_OPTIONS = ("pcmk_delay_base", "pcmk_delay_max")


@dataclass(frozen=True)
class Delay:
    """*options* to give to the device, and the *note* that says why, or why there is none."""

    options: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def head_start(
    device: str, covered: Sequence[str], given: Mapping[str, str], cib: Cib, version: Version, priority_s: float
) -> Delay:
    """Return the delay for *device*, which fences the nodes *covered*.

    *given*: options that the user wants.  *priority_s*: the cluster's priority-fencing-delay in seconds.
    """
    nodes = sorted((node for node in cib.nodes if not node.is_remote), key=_age)
    names = [node.name for node in nodes]
    covered = [name for name in names if name.lower() in {one.lower() for one in covered}]
    if len(names) != 2 or not covered:
        return Delay()
    if any(name in given for name in _OPTIONS):
        return _judge_given(given, covered, version)
    if priority_s > 0:
        return Delay(note="no delay: priority-fencing-delay breaks the tie, if the resources have a priority")
    there = cib.device(device)
    kept = {name: there.options[name] for name in _OPTIONS if there and name in there.options}
    if kept:
        return Delay(kept, "the delay of the device that is there stays")
    return _choose(names, covered, _favoured(names, cib, version), version)


def _choose(names: Sequence[str], covered: Sequence[str], favoured: str, version: Version) -> Delay:
    survivor = favoured or _first_but_prefix(names, version)
    loser = next(name for name in names if name != survivor)
    why = "as another device has it" if favoured else "the first of the cluster"
    note = f"if the nodes lose each other, {survivor} survives ({why}): it is fenced {DELAY_S} s later than {loser}"
    if len(covered) == 1:
        if covered[0] != survivor or version < _BASE_SINCE:
            return Delay()
        return Delay({"pcmk_delay_base": f"{DELAY_S}s"}, note)
    if version >= _BY_NODE_SINCE:
        delays = {survivor: f"{survivor}:{DELAY_S}s"}
        if _shadows(survivor, loser, version):  # the longer name first: a name also means those that begin with it
            delays = {loser: f"{loser}:0s", **delays}
        return Delay({"pcmk_delay_base": ";".join(delays.values())}, note)
    if version >= _MAX_SINCE:
        return Delay({"pcmk_delay_max": f"{RANDOM_S}s"}, _random_note(survivor))
    return Delay(note="no delay: this Pacemaker knows none, so both nodes may fence each other")


def _random_note(survivor: str) -> str:
    return (
        f"a random delay up to {RANDOM_S} s, since Pacemaker before 2.1.2 has none by node: it makes it unlikely, not "
        "impossible, that both nodes fence each other; surer are two devices, made with --node NODE each, and with "
        f"--pcmk-delay-base {DELAY_S}s for {survivor} alone"
    )


def _judge_given(given: Mapping[str, str], covered: Sequence[str], version: Version) -> Delay:
    if "pcmk_delay_max" in given or len(covered) < 2:
        return Delay()
    read = parse_delay_map(given["pcmk_delay_base"], version)
    first_s, second_s = (read.delay_s(name, version) for name in covered)
    if first_s == second_s:
        return Delay(note="pcmk_delay_base delays both nodes by the same time: they may still fence each other")
    return Delay()


def _favoured(names: Sequence[str], cib: Cib, version: Version) -> str:
    """Return the node that another device fences later than the other one, "" for none."""
    for device in cib.devices:
        read = parse_delay_map(device.options.get("pcmk_delay_base", ""), version)
        first_s, second_s = (read.delay_s(name, version) for name in names)
        if first_s != second_s and not device.is_disabled:
            return names[0] if first_s > second_s else names[1]
    return ""


def _first_but_prefix(names: Sequence[str], version: Version) -> str:
    """Return the first node, but the other one where a delay of the first would be one of both."""
    return names[1] if _shadows(names[0], names[1], version) else names[0]


def _shadows(name: str, other: str, version: Version) -> bool:
    """Whether a delay of *name* is one of *other* too: from 2.1.2 to 3.0.1 names are compared as beginnings."""
    return version < _WHOLE_NAMES_SINCE and other.lower().startswith(name.lower())


def _age(node: Node) -> tuple[int, str]:
    """Return what sorts nodes by number, as corosync gave it."""
    return (int(node.id) if node.id.isascii() and node.id.isdigit() and len(node.id) < 20 else 0, node.name)
