"""Which guest each node is by the devices that there are, and what is wrong with that.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vmfence.cluster.cib import Cib, Device
from vmfence.cluster.hostmap import ByNode, parse_host_map, ports_of
from vmfence.cluster.inquiry import AGENTS
from vmfence.cluster.matching import is_same
from vmfence.errors import VmfenceError
from vmfence.protocol.reply import Record, State

Version = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """*node* is fenced by *device* as *port*; *how*: map, list, or "" for no device.

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
    found = [row for node in _names(cib, version) for row in _rows_of(node, cib, version, answers)]
    shared = Counter(uuid for uuid, _ in {(row.guest.uuid, row.node.lower()) for row in found if row.guest})
    return [_with_rival(row) if row.guest and shared[row.guest.uuid] > 1 else row for row in found]


def _names(cib: Cib, version: Version) -> list[str]:
    """Return the nodes, and what devices take for nodes: a misspelt name in a map must not be overlooked."""
    known = [node.name for node in cib.nodes]
    mapped = [node for device in cib.devices for node in ports_of(device, version)]
    strangers = {name.lower(): name for name in mapped if not any(is_same(name, node) for node in known)}
    return [*known, *strangers.values()]


def _rows_of(
    node: str, cib: Cib, version: Version, answers: Mapping[str, Sequence[Record] | VmfenceError]
) -> Iterator[Row]:
    is_known = not cib.nodes or any(is_same(node, one.name) for one in cib.nodes)
    covering = [(device, ports_of(device, version)) for device in cib.devices]
    covering = [(device, ports) for device, ports in covering if node in ports]
    if not covering:
        yield Row(node, problem="no device names it")
    for device, ports in covering:
        row = _row(node, device, ports, version, answers.get(device.id))
        yield row if is_known else replace(row, problem="the cluster has no such node")


def _row(
    node: str, device: Device, ports: ByNode, version: Version, answer: Sequence[Record] | VmfenceError | None
) -> Row:
    mapped = parse_host_map(device.options.get("pcmk_host_map", ""), version)
    row = Row(node, device.id, "map" if node in mapped.ports() else "list", ports[node])
    if device.agent not in AGENTS:
        return replace(row, problem=f"not asked: {device.agent} has no host that shows guests")
    if isinstance(answer, VmfenceError):
        return replace(row, problem=f"nothing known from the host: {answer.what}")
    if answer is None:
        return row
    found = [guest for guest in answer if row.port == guest.name or is_same(row.port, guest.uuid)]
    if len(found) != 1:
        several = "the host shows several guests of that name: use the UUID"
        return replace(row, problem=several if found else "the host shows no such guest")
    state = found[0].state
    is_off = "" if state == State.RUNNING else "the guest is not running"
    return replace(row, guest=found[0], problem="the device is disabled" if device.is_disabled else is_off)


def _with_rival(row: Row) -> Row:
    return replace(row, problem="another node has the same guest")
