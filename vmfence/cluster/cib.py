"""The cluster's configuration (CIB) as small frozen objects, read only.

Source of the paths: Pacemaker's schemas, and CIBs of 1.1 to 3.0.  Values are kept as written; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vmfence import xmldoc
from vmfence.cluster import placement
from vmfence.errors import VmfenceError
from vmfence.xmldoc import Element

_WHAT = "the CIB"
_FIRST_SET = "cib-bootstrap-options"


@dataclass(frozen=True)
class Node:
    """A cluster node.  *is_remote*: runs pacemaker_remote, without corosync."""

    name: str
    id: str
    is_remote: bool = False


@dataclass(frozen=True)
class Operation:
    """A recurring operation of a device, times as written ("60s", "")."""

    name: str
    interval: str = ""
    timeout: str = ""


@dataclass(frozen=True)
class Device:
    """A stonith resource.  *options* are its instance attributes (agent's parameters and pcmk_*), *meta* its own
    meta attributes.  *is_disabled*: target-role=Stopped on it, on its group or clone, or in the resource defaults."""

    id: str
    agent: str
    options: Mapping[str, str]
    meta: Mapping[str, str]
    operations: tuple[Operation, ...]
    is_disabled: bool = False
    container: str = ""

    def operation(self, name: str) -> Operation | None:
        """Return the first operation of that name."""
        return next((one for one in self.operations if one.name == name), None)


@dataclass(frozen=True)
class Level:
    """One fencing level.  *kind*: node, pattern or attribute; *target* as written ("name=value" for attribute)."""

    index: int
    kind: str
    target: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Cib:
    """The parts of a CIB that matter to fencing.

    *properties*: by name as written, the set that wins first (old and new names side by side).
    *bans*: device id -> nodes where location constraints forbid it: a negative score in all keeps the fencer off it.
    *resources*: ids of primitives that are no devices.  *ids*: every id in the file, none may be used twice.
    *conditional*: ids of attribute sets that hold only when a rule says so; their values are not taken up here.
    """

    nodes: tuple[Node, ...]
    devices: tuple[Device, ...]
    levels: tuple[Level, ...]
    properties: Mapping[str, str]
    bans: Mapping[str, frozenset[str]]
    resources: tuple[str, ...]
    ids: frozenset[str]
    feature_set: str = ""
    have_quorum: bool | None = None
    operation_defaults: Mapping[str, str] = field(default_factory=dict)
    conditional: tuple[str, ...] = ()

    def device(self, name: str) -> Device | None:
        """Return the device of that id."""
        return next((one for one in self.devices if one.id == name), None)


def parse(text: str | bytes, what: str = _WHAT) -> Cib:
    """Return the CIB in *text*, called *what* in messages.

    Raises VmfenceError for what is no CIB, or has no configuration or ids where due.
    """
    root = xmldoc.parse(text, what)
    configuration = root.find("configuration")
    if root.tag != "cib" or configuration is None:
        raise VmfenceError(f"cannot read {what}", f"its root is {root.tag!r}, or it has no configuration")
    try:
        return _Reader(root, configuration).read()
    except _Fault as fault:
        raise VmfenceError(f"cannot read {what}", str(fault)) from fault


class _Fault(Exception):
    """What is wrong in a CIB."""


class _Reader:
    """Reads one CIB; what is shared by reference is looked up by id."""

    def __init__(self, root: Element, configuration: Element) -> None:
        self._root, self._configuration = root, configuration
        self._by_id = {element.get("id"): element for element in configuration.iter() if element.get("id")}
        self._conditional: list[str] = []

    def read(self) -> Cib:
        primitives = list(self._configuration.iterfind("resources//primitive"))
        devices = [one for one in primitives if self._word(one, "class") == "stonith"]
        others = [one for one in primitives if self._word(one, "class") != "stonith"]
        quorum = self._root.get("have-quorum")
        return Cib(
            nodes=tuple(self._nodes(others)),
            devices=tuple(self._device(one) for one in devices),
            levels=tuple(_level(one) for one in self._configuration.iterfind("fencing-topology/fencing-level")),
            properties=self._values(self._configuration, "crm_config/cluster_property_set"),
            bans=placement.bans(self._configuration),
            resources=tuple(_required(one, "id") for one in others),
            ids=frozenset(element.get("id", "") for element in self._configuration.iter() if element.get("id")),
            feature_set=self._root.get("crm_feature_set", ""),
            have_quorum=None if quorum is None else quorum in ("1", "true"),
            operation_defaults=self._values(self._configuration, "op_defaults/meta_attributes"),
            conditional=tuple(dict.fromkeys(self._conditional)),
        )

    def _nodes(self, primitives: list[Element]) -> Iterator[Node]:
        """Yield the nodes, then those that a resource makes: Pacemaker Remote, and its guest nodes."""
        seen: set[str] = set()
        for element in self._configuration.iterfind("nodes/node"):
            kind = element.get("type", "")
            if kind != "ping":
                seen.add(_required(element, "uname").lower())
                yield Node(element.get("uname", ""), element.get("id", ""), kind == "remote")
        for primitive in primitives:
            is_remote = (self._word(primitive, "provider"), self._word(primitive, "type")) == ("pacemaker", "remote")
            name = primitive.get("id") if is_remote else self._values(primitive, "meta_attributes").get("remote-node")
            if name and name.lower() not in seen:
                seen.add(name.lower())
                yield Node(name, name, True)

    def _sources(self, element: Element) -> list[Element]:
        """Return what a primitive is made from: itself, then its template."""
        template = self._by_id.get(element.get("template", ""))
        return [element] if template is None else [element, template]

    def _word(self, element: Element, name: str) -> str:
        """Return an attribute of a primitive, or else that of its template."""
        return next((one.get(name, "") for one in self._sources(element) if one.get(name)), "")

    def _device(self, element: Element) -> Device:
        sources = self._sources(element)
        parent = element.getparent()
        container = parent if parent is not None and parent.tag in ("group", "clone", "master", "bundle") else None
        meta = self._merged(sources, "meta_attributes")
        return Device(
            id=_required(element, "id"),
            agent=self._word(element, "type"),
            options=self._merged(sources, "instance_attributes"),
            meta=meta,
            operations=tuple(self._operations(sources)),
            is_disabled=self._target_role(meta, container).lower() == "stopped",
            container="" if container is None else container.get("id", ""),
        )

    def _target_role(self, meta: Mapping[str, str], container: Element | None) -> str:
        """Return the role wanted: the resource's own word, else its containers' from within, else the default."""
        while container is not None and "target-role" not in meta:
            meta = self._values(container, "meta_attributes")
            container = container.getparent()
        defaults = self._values(self._configuration, "rsc_defaults/meta_attributes")
        return meta.get("target-role", defaults.get("target-role", ""))

    def _operations(self, sources: list[Element]) -> Iterator[Operation]:
        seen: set[tuple[str, str]] = set()
        for source in sources:
            for operations in map(self._resolved, source.iterfind("operations")):
                for op in map(self._resolved, operations.iterfind("op")):
                    own: dict[str, str] = {name: op.get(name, "") for name in map(str, op.keys())}
                    own = {**self._values(op, "instance_attributes"), **self._values(op, "meta_attributes"), **own}
                    key = (own.get("name", ""), own.get("interval", ""))
                    if key not in seen and own.get("enabled", "true").lower() not in ("false", "off", "no", "n", "0"):
                        yield Operation(*key, own.get("timeout", ""))
                    seen.add(key)

    def _merged(self, sources: Iterable[Element], path: str) -> dict[str, str]:
        """Return the values of all *sources*, the first that has one counts."""
        merged: dict[str, str] = {}
        for source in sources:
            merged = {**self._values(source, path), **merged}
        return merged

    def _values(self, element: Element, path: str) -> dict[str, str]:
        """Return the values of the sets at *path*, by name.

        The first that has a value counts: the set of Pacemaker's own properties, then by score, then as they stand
        (Pacemaker Explained, "Rules" and "Cluster Options").  A set with a rule is remembered as conditional instead.
        """
        sets = [self._resolved(one) for one in element.iterfind(path)]
        sets.sort(key=lambda one: (one.get("id") != _FIRST_SET, -placement.score(one.get("score", ""))))
        values: dict[str, str] = {}
        for one in sets:
            if one.find("rule") is not None:
                self._conditional.append(one.get("id", ""))
                continue
            for pair in map(self._resolved, one.iterfind("nvpair")):
                values.setdefault(_required(pair, "name"), pair.get("value", ""))
        return values

    def _resolved(self, element: Element) -> Element:
        """Return *element*, or the one that it refers to.  Raises _Fault when there is none."""
        reference = element.get("id-ref")
        if reference is None:
            return element
        target = self._by_id.get(reference)
        if target is None or target.tag != element.tag:
            raise _Fault(f"a {element.tag} refers to {reference!r}, which is not there")
        return target


def _level(element: Element) -> Level:
    devices = tuple(name.strip() for name in _required(element, "devices").split(",") if name.strip())
    index = element.get("index", "")
    number = int(index) if index.isascii() and index.isdigit() and len(index) < 10 else 0
    if element.get("target-pattern") is not None:
        return Level(number, "pattern", element.get("target-pattern", ""), devices)
    if element.get("target-attribute") is not None:
        target = f"{element.get('target-attribute')}={element.get('target-value', '')}"
        return Level(number, "attribute", target, devices)
    return Level(number, "node", _required(element, "target"), devices)


def _required(element: Element, name: str) -> str:
    value = element.get(name)
    if not value:
        raise _Fault(f"a {element.tag} has no {name}")
    return value
