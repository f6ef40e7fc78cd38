"""What the cluster is doing now, from the XML of crm_mon.  Pure.

Source: Pacemaker's schema api/crm_mon (2.0.3 and later, root ``pacemaker-result``), and ``crm_mon --as-xml`` of 1.1
(root ``crm_mon``), whose elements below the root are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmfence import xmldoc
from vmfence.errors import ClusterUnreachable, VmfenceError

_WHAT = "the cluster's status"


@dataclass(frozen=True)
class NodeStatus:
    """A node as the cluster sees it.  *is_unclean*: to be fenced; *is_pending*: on its way in."""

    name: str
    is_online: bool = False
    is_unclean: bool = False
    is_standby: bool = False
    is_pending: bool = False
    is_maintenance: bool = False
    is_dc: bool = False
    is_remote: bool = False


@dataclass(frozen=True)
class DeviceStatus:
    """A stonith resource as the cluster runs it.  *agent* without ``stonith:``, *nodes*: where it is started."""

    id: str
    agent: str
    role: str
    is_active: bool = False
    is_failed: bool = False
    nodes: tuple[str, ...] = ()

    @property
    def is_started(self) -> bool:
        """Whether it runs somewhere, and well."""
        return self.is_active and not self.is_failed and bool(self.nodes) and self.role.lower() == "started"


@dataclass(frozen=True)
class Status:
    """The state of the cluster.  *dc*: the node that decides, "" while there is none.

    *with_quorum*, *is_fencing_enabled*: None where crm_mon does not tell.
    """

    nodes: tuple[NodeStatus, ...]
    devices: tuple[DeviceStatus, ...]
    with_quorum: bool | None = None
    dc: str = ""
    is_fencing_enabled: bool | None = None
    dc_version: str = ""

    def node(self, name: str) -> NodeStatus | None:
        """Return the node of that name, in any case."""
        return next((one for one in self.nodes if one.name.lower() == name.lower()), None)

    def device(self, name: str) -> DeviceStatus | None:
        """Return the first device of that id; a clone has several."""
        return next((one for one in self.devices if one.id == name), None)


def parse(text: str) -> Status:
    """Return the status in the XML of crm_mon.

    Raises ClusterUnreachable while Pacemaker is still starting or stopping, VmfenceError for what is not that XML.
    """
    root = xmldoc.parse(text, _WHAT)
    if root.tag not in ("pacemaker-result", "crm_mon"):
        raise VmfenceError(f"cannot read {_WHAT}", f"its root is {root.tag!r}")
    if root.find("summary") is None or root.find("nodes") is None:
        daemon = root.find("pacemakerd")
        state = "not ready" if daemon is None else daemon.get("state", "not ready")
        raise ClusterUnreachable("the cluster has no status yet", f"Pacemaker is {state}", "try again in a moment")
    dc = root.find("summary/current_dc")
    options = root.find("summary/cluster_options")
    has_dc = dc is not None and dc.get("present") == "true"
    return Status(
        nodes=tuple(_node(node) for node in root.iterfind("nodes/node") if node.get("type") != "ping"),
        devices=tuple(
            _device(one) for one in root.iter("resource") if one.get("resource_agent", "").startswith("stonith:")
        ),
        with_quorum=_flag(dc, "with_quorum") if has_dc else None,
        dc=dc.get("name", "") if has_dc and dc is not None else "",
        is_fencing_enabled=_first(_flag(options, "fencing-enabled"), _flag(options, "stonith-enabled")),
        dc_version=dc.get("version", "") if dc is not None else "",
    )


def _node(element: xmldoc.Element) -> NodeStatus:
    return NodeStatus(
        name=element.get("name", ""),
        is_online=element.get("online") == "true",
        is_unclean=element.get("unclean") == "true",
        is_standby=element.get("standby") == "true",
        is_pending=element.get("pending") == "true",
        is_maintenance=element.get("maintenance") == "true",
        is_dc=element.get("is_dc") == "true",
        is_remote=element.get("type") == "remote",
    )


def _device(element: xmldoc.Element) -> DeviceStatus:
    return DeviceStatus(
        id=element.get("id", "").partition(":")[0],  # an instance of a clone is "id:0"
        agent=element.get("resource_agent", "").partition(":")[2],
        role=element.get("role", ""),
        is_active=element.get("active") == "true",
        is_failed=element.get("failed") == "true",
        nodes=tuple(node.get("name", "") for node in element.iterfind("node")),
    )


def _flag(element: xmldoc.Element | None, name: str) -> bool | None:
    value = None if element is None else element.get(name)
    return None if value is None else value == "true"


def _first(*values: bool | None) -> bool | None:
    return next((value for value in values if value is not None), None)
