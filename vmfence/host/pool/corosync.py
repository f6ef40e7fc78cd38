"""Corosync's libraries: the group of processes (libcpg), the votes (libquorum) and the list of nodes (libcmap).

The only user of ctypes for them.  Calls are those of cpg_initialize(3), quorum_initialize(3) and cmap_initialize(3);
layouts of structures from the headers of Corosync 3.1 (corosync/cpg.h, quorum.h, corotypes.h), unchanged since 2.0.

A call that asks Corosync something waits for its answer, without limit if Corosync hangs: connect() and close() belong
into a thread.  dispatch() and send() do not wait.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Union

from vmfence.errors import ToolMissing, Unreachable

OK = 1
TRY_AGAIN = 6
_NO_CONNECTION = 2  # nobody is at its socket, or the connection has broken
_START_IT = "systemctl start corosync, and see: journalctl -u corosync"
_NO_SECTIONS = 27  # the end of an iteration (corotypes.h)
ERRORS = {
    2: "the connection to Corosync is gone",
    3: "Corosync speaks another version of its protocol",
    4: "Corosync is not ready",
    5: "Corosync did not answer in time",
    6: "Corosync is busy, or is not running",
    7: "invalid parameter",
    8: "out of memory",
    9: "invalid handle",
    10: "busy",
    11: "this user may not use Corosync",
    12: "not found",
    13: "name too long",
    14: "exists already",
    15: "no space",
    16: "interrupted",
    17: "name not found",
    18: "no resources",
    19: "not supported",
    20: "this operation is not possible now",
    21: "the operation failed",
    22: "message error",
    23: "queue full",
    24: "queue not available",
    25: "bad flags",
    26: "too big",
    27: "no sections",
    28: "context not found",
    30: "too many groups",
    100: "security error",
}
_LIBRARIES = {"cpg": "libcpg.so.4", "quorum": "libquorum.so.5", "cmap": "libcmap.so.4"}
_DISPATCH_ALL = 2
_TRACK_CURRENT_AND_CHANGES = 0x01 | 0x02
_AGREED = 2
_QUORUM_SET = 1
_NAME_BYTES = 128
_NUMBER_BYTES = 4
_KEY_BYTES = 256  # CMAP_KEYNAME_MAXLEN, and a zero
_NODE_KEY = re.compile(r"nodelist\.node\.(\d+)\.(nodeid|name)")


class _Address(ctypes.Structure):
    _fields_ = [("nodeid", c_uint32), ("pid", c_uint32), ("reason", c_uint32)]


class _Name(ctypes.Structure):
    _fields_ = [("length", c_uint32), ("value", c_char * _NAME_BYTES)]


class _Iovec(ctypes.Structure):
    _fields_ = [("base", c_char_p), ("length", c_size_t)]


_Deliver = CFUNCTYPE(None, c_uint64, POINTER(_Name), c_uint32, c_uint32, c_void_p, c_size_t)
_Addresses = POINTER(_Address)
_Changed = CFUNCTYPE(
    None, c_uint64, POINTER(_Name), _Addresses, c_size_t, _Addresses, c_size_t, _Addresses, c_size_t
)  # fmt: skip
_Notify = CFUNCTYPE(None, c_uint64, c_uint32, c_uint64, c_uint32, POINTER(c_uint32))


class _CpgCallbacks(ctypes.Structure):
    _fields_ = [("deliver", _Deliver), ("changed", _Changed)]


class _QuorumCallbacks(ctypes.Structure):
    _fields_ = [("notify", _Notify)]


@dataclass(frozen=True)
class Members:
    """The nodes that have a process in the group."""

    nodes: frozenset[int]


@dataclass(frozen=True)
class Up:
    """The nodes whose Corosync is together with ours, with a process in the group or without."""

    nodes: frozenset[int]


@dataclass(frozen=True)
class Delivery:
    """A message of *node*."""

    node: int
    data: bytes


Event = Union[Members, Up, Delivery]


@dataclass(frozen=True)
class Sight:
    """What Corosync tells who only looks: the number of this node, its votes, its list of nodes with their names.

    *has_votes*: it counts votes; where it does not, it calls every part of a split cluster quorate.  *nodes* None: its
    configuration has no list, or it cannot be read.
    """

    me: int
    has_votes: bool
    is_quorate: bool
    nodes: dict[int, str] | None


class Corosync:
    """One connection; dead after the first Unreachable."""

    def __init__(self, group: bytes) -> None:
        self._group = _Name(len(group), group)
        self._libraries: dict[str, Any] = {}
        self._cpg, self._quorum = c_uint64(), c_uint64()
        self._events: list[Event] = []
        self.me = 0
        self.is_quorate = False
        # Corosync keeps pointers to these: they must live as long as the connection.
        self._cpg_callbacks = _CpgCallbacks(_Deliver(self._delivered), _Changed(self._changed))
        self._quorum_callbacks = _QuorumCallbacks(_Notify(self._notified))

    def connect(self) -> tuple[int, int]:
        """Join the group and follow the votes; return the descriptors to watch, of cpg and of quorum.

        Raises ToolMissing without the libraries, Unreachable.
        """
        cpg, quorum = self._library("cpg"), self._library("quorum")
        self._initialize()
        _check("follow the quorum", quorum.quorum_trackstart(self._quorum, c_uint32(_TRACK_CURRENT_AND_CHANGES)))
        _check("join the group of hosts", cpg.cpg_join(self._cpg, byref(self._group)))
        return _descriptor(cpg.cpg_fd_get, self._cpg), _descriptor(quorum.quorum_fd_get, self._quorum)

    def look(self) -> Sight:
        """Return what Corosync tells, without joining the group.  Raises ToolMissing, Unreachable; may hang."""
        quorum, is_quorate = self._library("quorum"), c_int()
        try:
            self._initialize()
            _check("ask Corosync for its quorum", quorum.quorum_getquorate(self._quorum, byref(is_quorate)))
            return Sight(self.me, self._has_votes, self._has_votes and bool(is_quorate.value), self.nodes())
        finally:
            self.close()

    def _initialize(self) -> None:
        cpg, quorum = self._library("cpg"), self._library("quorum")
        kind, node = c_uint32(), c_uint32()
        status = cpg.cpg_initialize(byref(self._cpg), byref(self._cpg_callbacks))
        if status == _NO_CONNECTION:
            raise Unreachable("cannot connect to Corosync", "it is not running on this host", _START_IT)
        _check("connect to Corosync", status)
        _check(
            "ask Corosync for its quorum",
            quorum.quorum_initialize(byref(self._quorum), byref(self._quorum_callbacks), byref(kind)),
        )
        # Without a provider Corosync calls every part of a split cluster quorate.
        self._has_votes = kind.value == _QUORUM_SET
        _check("ask Corosync for this node's number", cpg.cpg_local_get(self._cpg, byref(node)))
        self.me = node.value

    def dispatch(self) -> list[Event]:
        """Return what has happened in the group, in its order, and take the votes.  Raises Unreachable."""
        _check("hear Corosync", self._library("quorum").quorum_dispatch(self._quorum, c_int(_DISPATCH_ALL)), TRY_AGAIN)
        _check("hear Corosync", self._library("cpg").cpg_dispatch(self._cpg, c_int(_DISPATCH_ALL)), TRY_AGAIN)
        events, self._events = self._events, []
        return events

    def send(self, data: bytes) -> bool:
        """Multicast *data* in agreed order; return False when Corosync takes nothing now.  Raises Unreachable."""
        vector = _Iovec(data, len(data))
        status = self._library("cpg").cpg_mcast_joined(self._cpg, c_int(_AGREED), byref(vector), c_uint32(1))
        _check("send to the other hosts", status, TRY_AGAIN)
        return bool(status == OK)

    def nodes(self) -> dict[int, str] | None:
        """Return the nodes of the cluster's configuration and their names; None when they cannot be read as a whole."""
        cmap, handle = self._library("cmap"), c_uint64()
        if cmap.cmap_initialize(byref(handle)) != OK:
            return None
        try:
            found = _read_nodes(cmap, handle)
        finally:
            cmap.cmap_finalize(handle)
        return found or None

    def close(self) -> None:
        """Leave the group at once."""
        if self._cpg.value:
            self._library("cpg").cpg_finalize(self._cpg)
        if self._quorum.value:
            self._library("quorum").quorum_finalize(self._quorum)
        self._cpg, self._quorum = c_uint64(), c_uint64()

    def _library(self, name: str) -> Any:
        if name not in self._libraries:
            try:
                self._libraries[name] = ctypes.CDLL(_LIBRARIES[name])
            except OSError as error:
                remedy = "install Corosync (Debian: libcpg4 libquorum5 libcmap4; RHEL: corosynclib)"
                raise ToolMissing(f"the library {_LIBRARIES[name]} cannot be loaded", str(error), remedy) from error
        return self._libraries[name]

    # Called by the libraries, during dispatch(): no exception may leave them.

    def _delivered(self, _: int, __: Any, node: int, ___: int, data: int | None, length: int) -> None:
        self._events.append(Delivery(node, ctypes.string_at(data, length) if data else b""))

    def _changed(self, _: int, __: Any, members: Any, count: int, *___: Any) -> None:
        self._events.append(Members(frozenset(members[place].nodeid for place in range(count))))

    def _notified(self, _: int, is_quorate: int, __: int, count: int, nodes: Any) -> None:
        self.is_quorate = bool(is_quorate) and self._has_votes
        self._events.append(Up(frozenset(nodes[place] for place in range(count))))


def _check(what: str, status: int, *besides: int) -> None:
    """Raise Unreachable unless *status* is success, or one of *besides*."""
    if status != OK and status not in besides:
        raise Unreachable(f"cannot {what}", ERRORS.get(status, f"error {status}"), "see: systemctl status corosync")


def _descriptor(get: Callable[..., int], handle: c_uint64) -> int:
    found = c_int()
    _check("watch Corosync", get(handle, byref(found)))
    return found.value


def _read_nodes(cmap: Any, handle: c_uint64) -> dict[int, str] | None:
    """Return the nodes; None when anything but the end of the list is met, or a node has no number."""
    iteration = c_uint64()
    if cmap.cmap_iter_init(handle, b"nodelist.node.", byref(iteration)) != OK:
        return None
    values: dict[str, dict[str, bytes]] = {}  # by place in the list, which may have gaps
    try:
        while True:
            key, length, kind = ctypes.create_string_buffer(_KEY_BYTES), c_size_t(), c_int()
            status = cmap.cmap_iter_next(handle, iteration, key, byref(length), byref(kind))
            if status != OK:
                break
            place = values.setdefault(key.value.split(b".")[2].decode("ascii", "replace"), {})
            if wanted := _NODE_KEY.fullmatch(key.value.decode("ascii", "replace")):
                value = _read(cmap, handle, key.value, length.value)
                if value is None:
                    return None
                place[wanted[2]] = value
    finally:
        cmap.cmap_iter_finalize(handle, iteration)
    if status != _NO_SECTIONS or any(len(each.get("nodeid", b"")) != _NUMBER_BYTES for each in values.values()):
        return None
    return {
        int.from_bytes(each["nodeid"], sys.byteorder): each.get("name", b"")
        .partition(b"\0")[0]
        .decode("utf-8", "replace")
        for each in values.values()
    }


def _read(cmap: Any, handle: c_uint64, key: bytes, size: int) -> bytes | None:
    """Return the value of a key, *size* bytes long when it was last seen; None when it cannot be read."""
    value, length, kind = ctypes.create_string_buffer(size + 1), c_size_t(size + 1), c_int()
    if cmap.cmap_get(handle, key, value, byref(length), byref(kind)) != OK:
        return None
    return value.raw[: length.value]
