"""Which guest each node is by the devices that there are, and what is wrong with that.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from vmfence.cluster.cib import Cib, Device
from vmfence.cluster.hostmap import parse_host_map, ports_of, targets_of
from vmfence.cluster.inquiry import AGENTS
from vmfence.cluster.shown import Shown
from vmfence.errors import VmfenceError
from vmfence.protocol.reply import Record, State

Version = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """*node* is fenced by *device* as *port*; "" for no device.

    *how*: by its map, its list, or as the port of another node, which Pacemaker takes for a name of a node too.

    *guest* is what the host shows under that name, None when it does not or was not asked.  *problem*: "" for none.
    """

    node: str
    device: str = ""
    how: str = ""
    port: str = ""
    guest: Record | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return it fit for JSON; what is not known is null."""
        shown = self.guest.as_dict() if self.guest else {}
        return {
            "node": self.node,
            "device": self.device or None,
            "how": self.how or None,
            "port": self.port or None,
            "guest": shown.get("name"),
            "uuid": shown.get("uuid"),
            "state": shown.get("state"),
            "problem": self.problem or None,
        }


def asked_devices(cib: Cib) -> list[Device]:
    """Return the devices whose host can be asked for its guests."""
    return [device for device in cib.devices if device.agent in AGENTS]


def rows(cib: Cib, version: Version, answers: Mapping[str, Sequence[Record] | VmfenceError]) -> list[Row]:
    """Return a row for each node and device that fences it, one without device where none does.

    *answers*: device -> the guests that its host shows, or the VmfenceError that came instead.
    """
    shown: dict[int, Shown] = {}  # devices that ask in the same way have the very same answer
    ways = [_Way(device, version, answers.get(device.id), shown) for device in cib.devices]
    naming: dict[str, list[_Way]] = defaultdict(list)
    for way in ways:
        for name in way.targets:
            naming[name.lower()].append(way)
    known = {node.name.lower(): node.name for node in cib.nodes}
    strangers = {name.lower(): name for way in ways for name in way.ports if name.lower() not in known}
    found = [row for node in known.values() for row in _rows_of(node, naming)]
    for node in strangers.values():  # a misspelt name in a map must not be overlooked
        rows_of = _rows_of(node, naming)
        found += [replace(row, problem="the cluster has no such node") for row in rows_of] if known else rows_of
    return _compared(found, {device.id for device in cib.devices if device.is_disabled})


class _Way:
    """How *device* fences nodes: read once, asked for every node.  *shown*: answers that are in order already."""

    def __init__(
        self,
        device: Device,
        version: Version,
        answer: Sequence[Record] | VmfenceError | None,
        shown: dict[int, Shown],
    ) -> None:
        self.device, self.answer = device, answer
        self.ports, self.targets = ports_of(device, version), targets_of(device, version)
        pairs = parse_host_map(device.options.get("pcmk_host_map", ""), version).pairs
        self.mapped: dict[str, set[str]] = defaultdict(set)  # node in lower case -> all ports that its map gives it
        for node, port in pairs:
            self.mapped[node.lower()].add(port)
        if id(answer) not in shown:
            shown[id(answer)] = Shown(() if answer is None or isinstance(answer, VmfenceError) else answer)
        self.shown = shown[id(answer)]


def _rows_of(node: str, naming: Mapping[str, Sequence[_Way]]) -> list[Row]:
    return [_row(node, way) for way in naming.get(node.lower(), ())] or [Row(node, problem="no device names it")]


def _row(node: str, way: _Way) -> Row:
    device, answer = way.device, way.answer
    given = way.mapped.get(node.lower(), ())
    how = "map" if given else "list" if node in way.ports else "port"
    row = Row(node, device.id, how, way.ports.get(node, node))
    if device.agent not in AGENTS:
        return replace(row, problem=f"not asked: {device.agent} has no host that shows guests")
    if isinstance(answer, VmfenceError):
        return replace(row, problem=f"nothing known from the host: {answer.what}")
    found = way.shown.named(row.port)
    row = replace(row, guest=found[0] if len(found) == 1 else None)
    if how == "port":
        return replace(row, problem="no device names it, and the guest of another node has its name")
    if len(given) > 1:
        return replace(row, problem=f"the map names it {len(given)} times, and only the last one counts")
    if answer is None:
        return row
    if len(found) != 1:
        several = "the host shows several guests of that name: use the UUID"
        return replace(row, problem=several if found else "the host shows no such guest")
    is_off = "" if found[0].state == State.RUNNING else "the guest is not running"
    return replace(row, problem="the device is disabled" if device.is_disabled else is_off)


def _compared(found: Sequence[Row], disabled: Collection[str]) -> list[Row]:
    """Return the rows with the problems that show only when they are held side by side."""
    nodes: dict[str, set[str]] = defaultdict(set)
    guests: dict[str, set[str]] = defaultdict(set)
    for row in found:
        if row.guest:
            nodes[row.guest.uuid].add(row.node.lower())
            guests[row.node.lower()].update({row.guest.uuid} if row.device not in disabled else ())
    return [_beside(row, nodes, guests) for row in found]


def _beside(row: Row, nodes: Mapping[str, set[str]], guests: Mapping[str, set[str]]) -> Row:
    if row.guest is None or row.how == "port":
        return row
    if len(nodes[row.guest.uuid]) > 1:
        return replace(row, problem="another node has the same guest")
    several = len(guests[row.node.lower()]) > 1
    return replace(row, problem="another device leads to another guest") if several else row
