"""What is made of the answers of Corosync's libraries, which stand-ins give here: nodes, votes, who is up."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from vmfence.errors import Unreachable
from vmfence.host.pool.corosync import Corosync, Delivery, Up

OK, TRY_AGAIN, LIBRARY, NOT_FOUND, END = 1, 6, 2, 12, 27
NODES = {1: "h1", 2: "h2", 3: "h3"}


class Cmap:
    """libcmap with these keys.  *errors*: what reading a key, or the iteration once it comes to one, answers."""

    def __init__(self, keys: dict[str, bytes], errors: dict[str, int] | None = None) -> None:
        self.keys, self.errors, self.open = keys, errors or {}, 0
        self._rest: list[str] = []

    def cmap_initialize(self, handle: Any) -> int:
        self.open += 1
        return self.errors.get("initialize", OK)

    def cmap_finalize(self, handle: Any) -> int:
        self.open -= 1
        return OK

    def cmap_iter_init(self, handle: Any, prefix: bytes, iteration: Any) -> int:
        self._rest = [key for key in self.keys if key.startswith(prefix.decode())]
        return self.errors.get("iter_init", OK)

    def cmap_iter_next(self, handle: Any, iteration: Any, key: Any, length: Any, kind: Any) -> int:
        if not self._rest:
            return END
        name = self._rest.pop(0)
        key.value, length._obj.value = name.encode(), len(self.keys[name])
        return self.errors.get(f"next {name}", OK)

    def cmap_iter_finalize(self, handle: Any, iteration: Any) -> int:
        return OK

    def cmap_get(self, handle: Any, key: bytes, value: Any, length: Any, kind: Any) -> int:
        if key.decode() in self.errors or key.decode() not in self.keys:
            return self.errors.get(key.decode(), NOT_FOUND)
        found = self.keys[key.decode()]
        assert length._obj.value >= len(found)
        ctypes.memmove(value, found, len(found))
        length._obj.value = len(found)
        return OK


def keys(*places: tuple[int, int]) -> dict[str, bytes]:
    """Return the keys of a list: the numbers of the nodes by their places in it."""
    found = {}
    for place, node in places:
        found[f"nodelist.node.{place}.ring0_addr"] = b"10.0.0.1\0"
        found[f"nodelist.node.{place}.nodeid"] = node.to_bytes(4, "little")
        found[f"nodelist.node.{place}.name"] = b"h%d\0" % node
    return found


def read(cmap: Cmap) -> dict[int, str] | None:
    corosync = Corosync(b"group")
    corosync._libraries["cmap"] = cmap
    found = corosync.nodes()
    assert cmap.open == 0 or cmap.errors.get("initialize")
    return found


ALL = keys((0, 1), (1, 2), (2, 3))


def test_the_list_of_nodes() -> None:
    assert read(Cmap(ALL)) == NODES
    nameless = {key: value for key, value in ALL.items() if key != "nodelist.node.2.name"}
    assert read(Cmap(nameless)) == {**NODES, 3: ""}
    long = {**ALL, "nodelist.node.2.name": b"h" * 300 + b"\0"}
    assert read(Cmap(long)) == {**NODES, 3: "h" * 300}


def test_a_gap_is_not_the_end() -> None:
    assert read(Cmap(keys((0, 1), (2, 3), (12, 2)))) == NODES


@pytest.mark.parametrize("status", [LIBRARY, TRY_AGAIN, NOT_FOUND])
@pytest.mark.parametrize(
    "call",
    [
        "initialize",
        "iter_init",
        "next nodelist.node.1.ring0_addr",
        "next nodelist.node.2.nodeid",
        "nodelist.node.2.nodeid",
        "nodelist.node.1.name",
    ],
)
def test_a_part_of_the_list_is_no_list(call: str, status: int) -> None:
    """Corosync is busy, ends, or loads its configuration anew meanwhile."""
    assert read(Cmap(ALL, {call: status})) is None


def test_a_node_without_a_number_is_not_left_out() -> None:
    without = {key: value for key, value in ALL.items() if key != "nodelist.node.1.nodeid"}
    assert read(Cmap(without)) is None
    assert read(Cmap({**ALL, "nodelist.node.1.nodeid": b"\1"})) is None
    assert read(Cmap({})) is None


class Group:
    """libcpg and libquorum.  *told* are called, with the callbacks' own arguments, by the next dispatch."""

    def __init__(self, counts_votes: bool = True) -> None:
        self.counts_votes, self.calls = counts_votes, list[str]()
        self.answers: dict[str, int] = {}
        self.cpg: Any = None
        self.quorum: Any = None
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("cpg_", "quorum_")):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return self.answers.get(name, getattr(self, f"_{name}", lambda *_: OK)(*arguments))

        return call

    def _cpg_initialize(self, handle: Any, callbacks: Any) -> int:
        handle._obj.value, self.cpg = 7, callbacks._obj
        return OK

    def _quorum_initialize(self, handle: Any, callbacks: Any, kind: Any) -> int:
        handle._obj.value, self.quorum, kind._obj.value = 8, callbacks._obj, int(self.counts_votes)
        return OK

    def _cpg_local_get(self, handle: Any, node: Any) -> int:
        node._obj.value = 1
        return OK

    def _quorum_dispatch(self, handle: Any, how: Any) -> int:
        for _, (is_quorate, nodes) in [each for each in self.told if each[0] == "quorum"]:
            view = (ctypes.c_uint32 * len(nodes))(*nodes)
            self.quorum.notify(8, is_quorate, 1, len(nodes), view)
        return OK

    def _cpg_dispatch(self, handle: Any, how: Any) -> int:
        for _, (node, data) in [each for each in self.told if each[0] == "message"]:
            self.cpg.deliver(7, None, node, 99, data, len(data))
        self.told = []
        return OK


def connected(group: Group) -> Corosync:
    corosync = Corosync(b"group")
    corosync._libraries.update(cpg=group, quorum=group, cmap=Cmap(ALL))
    corosync.connect()
    return corosync


def test_who_is_up_and_quorate_and_what_they_say() -> None:
    group = Group()
    corosync = connected(group)
    group.told = [("message", (2, b"hello")), ("quorum", (1, (1, 2, 3)))]
    assert corosync.dispatch() == [Up(frozenset({1, 2, 3})), Delivery(2, b"hello")]
    assert (corosync.me, corosync.is_quorate) == (1, True)
    group.told = [("quorum", (0, (1,)))]
    assert corosync.dispatch() == [Up(frozenset({1}))]
    assert not corosync.is_quorate


def test_without_votes_no_part_is_quorate() -> None:
    """Corosync calls each quorate then."""
    group = Group(counts_votes=False)
    corosync = connected(group)
    group.told = [("quorum", (1, (1,)))]
    corosync.dispatch()
    assert not corosync.is_quorate
    assert not corosync.look().is_quorate


@pytest.mark.parametrize("call", ["cpg_initialize", "quorum_initialize", "quorum_trackstart", "cpg_join", "cpg_fd_get"])
def test_what_fails_is_told(call: str) -> None:
    group = Group()
    group.answers[call] = LIBRARY
    with pytest.raises(Unreachable, match="Corosync"):
        connected(group)


def test_a_busy_corosync_is_not_a_lost_one() -> None:
    group = Group()
    corosync = connected(group)
    group.answers["cpg_mcast_joined"] = TRY_AGAIN
    assert corosync.send(b"x") is False
    group.answers["cpg_mcast_joined"] = OK
    assert corosync.send(b"x") is True
    group.answers["cpg_mcast_joined"] = LIBRARY
    with pytest.raises(Unreachable):
        corosync.send(b"x")
    group.answers["cpg_dispatch"] = LIBRARY
    with pytest.raises(Unreachable):
        corosync.dispatch()


def test_it_leaves_by_closing_both() -> None:
    group = Group()
    corosync = connected(group)
    corosync.close()
    corosync.close()
    assert [call for call in group.calls if call.endswith("finalize")] == ["cpg_finalize", "quorum_finalize"]
