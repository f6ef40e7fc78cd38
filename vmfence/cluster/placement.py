"""Where location constraints forbid a resource.  Pure.

A device that a constraint forbids on a node is not used by the fencer of that node (Pacemaker Explained, "Fencing").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vmfence.xmldoc import Element

_INFINITY = 1_000_000


def bans(configuration: Element) -> dict[str, frozenset[str]]:
    """Return resource id -> nodes where the scores of its location constraints add up to less than zero.

    Rules are read when they name one node (#uname eq NODE), as pcs writes them; patterns and other rules are not.
    """
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for constraint in configuration.iterfind("constraints/rsc_location"):
        ids = [
            constraint.get("rsc", ""),
            *(one.get("id", "") for one in constraint.iterfind("resource_set/resource_ref")),
        ]
        for node, text in _placements(constraint):
            for resource in filter(None, ids):
                sums[resource, node] += score(text)
    banned: dict[str, set[str]] = defaultdict(set)
    for (resource, node), total in sums.items():
        if total < 0:
            banned[resource].add(node)
    return {resource: frozenset(nodes) for resource, nodes in banned.items()}


def _placements(constraint: Element) -> Iterator[tuple[str, str]]:
    if constraint.get("node"):
        yield constraint.get("node", ""), constraint.get("score", "")
    for rule in constraint.iterfind("rule"):
        conditions = list(rule)
        if len(conditions) == 1 and conditions[0].tag == "expression":
            about = tuple(conditions[0].get(name, "") for name in ("attribute", "operation", "value"))
            if about[:2] == ("#uname", "eq") and about[2]:
                yield about[2], rule.get("score", "")


def score(text: str) -> int:
    """Return a score; infinity is a million, what is no score counts as 0, both as in Pacemaker."""
    word = text.strip().lower()
    if word.lstrip("+-") in ("infinity", "inf"):
        return -_INFINITY if word.startswith("-") else _INFINITY
    try:
        return max(-_INFINITY, min(_INFINITY, int(word[:20])))
    except ValueError:
        return 0
