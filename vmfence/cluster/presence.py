"""Whether a node has left the cluster and come back, as crm_mon and corosync tell it."""

from __future__ import annotations

from vmfence.cluster.means import Means
from vmfence.cluster.status import NodeStatus
from vmfence.errors import VmfenceError

_PAUSE_S = 0.5


def is_member(node: NodeStatus) -> bool:
    """Whether the cluster can count on *node*."""
    return node.is_online and not (node.is_unclean or node.is_pending or node.is_maintenance)


def condition(node: NodeStatus) -> str:
    """Return in words what the cluster says of *node*."""
    words = {"online" if node.is_online else "offline": True, "unclean": node.is_unclean, "pending": node.is_pending}
    words["in maintenance"] = node.is_maintenance
    return ", ".join(word for word, holds in words.items() if holds)


class Presence:
    """Whether a node has left the cluster since, and come back; asked not more often than is good for the cluster.

    A guest may start so fast that crm_mon never shows it missing, but corosync counts how often each node joins.
    """

    def __init__(self, node: str, node_id: int, means: Means) -> None:
        self._node, self._node_id, self._means = node, node_id, means
        self._next = means.clock()
        self._has_left = self._is_back = False
        self.last = "not asked"
        self._joins = self._count_joins()

    def has_left(self) -> bool:
        """Whether it was seen offline or on its way in, or has joined anew."""
        self._ask()
        return self._has_left

    def is_back(self) -> bool:
        """Whether it was seen as a member after that."""
        self._ask()
        return self._is_back

    def has_rejoined(self) -> bool:
        """Whether it is a member again, and corosync counts one more join of it than at the beginning."""
        return self.is_back() and self._has_joined_anew()

    def _ask(self) -> None:
        if self._means.clock() < self._next:
            return
        had_left = self._has_left
        try:
            found = self._means.pacemaker.load_status().node(self._node)
        except VmfenceError as error:
            self.last = str(error).rstrip(".")
        else:
            is_away = found is None or not found.is_online or found.is_pending
            self._has_left = had_left or is_away or self._has_joined_anew()
            self._is_back = had_left and found is not None and is_member(found)
            self.last = "gone from crm_mon" if found is None else condition(found)
        self._next = self._means.clock() + _PAUSE_S

    def _has_joined_anew(self) -> bool:
        joins = self._count_joins()
        return joins is not None and self._joins is not None and joins > self._joins

    def _count_joins(self) -> int | None:
        try:
            return self._means.count_joins().get(self._node_id)
        except VmfenceError:
            return None  # crm_mon alone decides then
