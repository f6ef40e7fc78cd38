"""Which port fences which node: pcmk_host_map, pcmk_host_list and pcmk_delay_base as the fencer of each version reads
them.  Pure.

Source: Pacemaker's fencer (fenced_commands.c, st_client.c) of 1.1, 2.1.2, 2.1.5 and 3.0.2, and its ChangeLog.  The
user documentation of 3.0 still has the escapes that its code dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vmfence.cluster.cib import Device
from vmfence.cluster.durations import parse_duration
from vmfence.errors import VmfenceError

Version = tuple[int, ...]
_ESCAPES_SINCE, _FIRST_SINCE, _DELAYS_SINCE = (2, 1, 2), (3, 0, 2), (2, 1, 2)
_NOT_IN_PORT = re.compile(r"[:=;\\\s\x00-\x1f\x7f]")
_NOT_IN_NODE = re.compile(r"[:=;,\\\s\x00-\x1f\x7f]")


class ByNode(Mapping[str, str]):
    """A mapping by node name; as in Pacemaker the case of a name does not matter, and the last of two counts."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values = {node.lower(): (node, value) for node, value in pairs}

    def __getitem__(self, node: str) -> str:
        return self._values[node.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (node for node, _ in self._values.values())

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class HostMap:
    """What the fencer makes of a map.  *pairs*: (node, port), the last of a node counts; *faults*: sentences."""

    pairs: tuple[tuple[str, str], ...]
    faults: tuple[str, ...] = ()

    def ports(self) -> ByNode:
        """Return the port of each node."""
        return ByNode(self.pairs)


def parse_host_map(text: str, version: Version) -> HostMap:
    """Return what Pacemaker *version* makes of the pcmk_host_map *text*.  Never raises: what is wrong is a fault."""
    pairs, faults = _read_first(text) if version >= _FIRST_SINCE else _read_last(text, version >= _ESCAPES_SINCE)
    seen: set[str] = set()
    for node, port in pairs:
        if node.lower() in seen:
            faults.append(f"node {node!r} stands there twice, only the last one counts")
        if "," in node:
            faults.append(f"{node!r} is taken for one node: pairs are parted by a semicolon, not by a comma")
        if not port:
            faults.append(f"the port of node {node!r} is empty")
        seen.add(node.lower())
    if not pairs and text.strip():
        faults.append("it has no pair of node and port")
    return HostMap(tuple(pairs), tuple(faults))


def _read_first(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """3.0.2 and later: the first colon or equals sign parts node and port, a backslash is one."""
    pairs, faults = [], []
    for entry in filter(None, re.split(r"[; \t]", text.strip())):
        node, *port = re.split(r"[:=]", entry, maxsplit=1)
        if node and port and port[0]:
            pairs.append((node, port[0]))
        else:
            faults.append(f"{entry!r} is no pair of node and port, it is ignored")
    return pairs, faults


def _read_last(text: str, has_escapes: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """Before 3.0.2: the last colon or equals sign parts node and port; with *has_escapes* a backslash guards one."""
    pairs, faults = [], []
    node, field, signs = "", "", 0
    for token in [*re.findall(r"\\.|." if has_escapes else ".", text, re.DOTALL), ";"]:
        if token in (":", "="):
            node, field, signs = field or node, "", signs + 1
        elif token not in (";", " ", "\t"):
            field += token
        else:
            if signs > 1 and node:
                faults.append(f"an entry has several colons or equals signs, it is read as node {node!r}")
            if node:
                pairs.append((node, field.replace("\\", "") if has_escapes else field))
            elif field or signs:
                faults.append(f"{field!r} is no pair of node and port, it is ignored")
            node, field, signs = "", "", 0
    return pairs, faults


def format_host_map(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the map in the one form that every version reads the same way.

    Raises VmfenceError, naming node and character, for what no such form exists for, and for a node given twice.
    """
    seen: set[str] = set()
    entries = []
    for node, port in pairs:
        _refuse(node, _NOT_IN_NODE, f"the node name {node!r}", "")
        _refuse(port, _NOT_IN_PORT, f"the port {port!r} of node {node}", "use the UUID of the guest as its port")
        if node.lower() in seen:
            raise VmfenceError(f"node {node!r} stands in the host map twice", "only the last one would count")
        seen.add(node.lower())
        entries.append(f"{node}:{port}")
    return ";".join(entries)


def _refuse(text: str, bad: re.Pattern[str], what: str, remedy: str) -> None:
    found = bad.search(text)
    if found:
        why = f"versions of Pacemaker differ in how they read the character {found[0]!r} there"
        raise VmfenceError(f"{what} cannot stand in a host map", why, remedy)
    if not text:
        raise VmfenceError(f"{what} cannot stand in a host map", "it is empty", remedy)


def parse_host_list(text: str) -> tuple[str, ...]:
    """Return the nodes in the pcmk_host_list *text* as the fencer reads them: each cut at the first strange character.

    A line with "invalid" or "variable" is dropped as a whole, so are names that are "on" or "off".
    """
    lines = (line for line in text.split("\n") if "invalid" not in line and "variable" not in line)
    words = (word for line in lines for word in re.split(r"[\s,;]+", line))
    names = (match[0] for match in (re.match(r"[A-Za-z0-9_.-]+", word) for word in words) if match)
    return tuple(name for name in names if name.lower() not in ("on", "off"))


def ports_of(device: Device, version: Version) -> ByNode:
    """Return the port by which *device* fences each node that it names: from its map, or the node's own name."""
    listed = [(node, node) for node in parse_host_list(device.options.get("pcmk_host_list", ""))]
    mapped = parse_host_map(device.options.get("pcmk_host_map", ""), version).pairs
    return ByNode([*listed, *mapped])


def targets_of(device: Device, version: Version) -> ByNode:
    """Return the port for every name that *device* takes for a node's: ports_of(), and each port of its map.

    Every fencer puts the ports of a map into the list of nodes (fenced_commands.c build_port_aliases), so it would
    fence the guest n2 for node n2, although the map gives that guest to another node.
    """
    mapped = parse_host_map(device.options.get("pcmk_host_map", ""), version).pairs
    ports = [(port, port) for _, port in mapped if port]
    return ByNode([*ports, *ports_of(device, version).items()])


@dataclass(frozen=True)
class DelayMap:
    """A pcmk_delay_base.  *everyone_s*: for nodes without their own, *pairs*: (node, seconds), in order."""

    pairs: tuple[tuple[str, float], ...] = ()
    everyone_s: float = 0.0
    faults: tuple[str, ...] = ()

    def delay_s(self, node: str, version: Version) -> float:
        """Return the seconds that Pacemaker *version* waits before it fences *node*.

        From 2.1.2 to 3.0.1 a name also meant every longer one that begins with it (node1: node10 too).
        """
        is_prefix = version < _FIRST_SINCE
        for name, delay_s in self.pairs:
            if node.lower() == name.lower() or (is_prefix and node.lower().startswith(name.lower())):
                return delay_s
        return self.everyone_s


def parse_delay_map(text: str, version: Version) -> DelayMap:
    """Return what Pacemaker *version* makes of the pcmk_delay_base *text*.  Never raises: what is wrong is a fault."""
    if ":" not in text:
        return _delay_of_all(text.strip())
    if version < _DELAYS_SINCE:
        return DelayMap(faults=("a delay by node needs Pacemaker 2.1.2, older ones do not delay at all",))
    entries = [entry for entry in re.split(r"[; \t]", text) if entry]
    pairs, faults = [], []
    for entry in entries:
        node, _, delay = entry.partition(":")
        try:
            pairs.append((node, _whole_seconds(delay)))
        except VmfenceError:
            faults.append(f"{entry!r} is no pair of node and delay, it is ignored")
    has_default = version < _FIRST_SINCE and ":" not in entries[0]
    return DelayMap(tuple(pairs), _delay_of_all(entries[0]).everyone_s if has_default else 0.0, tuple(faults))


def _delay_of_all(text: str) -> DelayMap:
    try:
        return DelayMap(everyone_s=_whole_seconds(text) if text else 0.0)
    except VmfenceError as error:
        return DelayMap(faults=(error.what,))


def _whole_seconds(text: str) -> float:
    """Return the delay as the fencer takes it, without fractions of a second."""
    return float(math.floor(parse_duration(text)))
