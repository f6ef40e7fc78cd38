"""A real question, monitor, which acts on nothing, put as the agent puts it and watched step by step."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass, replace

from vmfence.client import direct, multicast
from vmfence.client.addresses import LocalAddress, callable_addresses
from vmfence.errors import VmfenceError
from vmfence.guest.calls import Calls
from vmfence.guest.dissection import Call, End, Stage
from vmfence.guest.guests import CID, Inquiry, put, read_key
from vmfence.guest.knocks import Knocks
from vmfence.protocol.auth import Hash, Key, sign
from vmfence.protocol.reply import Code
from vmfence.protocol.request import FLAG_TELL, RANDOM_BYTES, Action, Request, encode

DISSECTED = ("multicast", "tcp", "vsock")
LIMIT_S = 5.0
_RETRANS_S = 0.5
# Who did not hear us by then may demand a stronger hash than ours; each is tried for a second.
_HARDER_AFTER_S, _HARDER_EVERY_S = 2.0, 1.0


@dataclass(frozen=True)
class Copy:
    """One copy of the question: the address it names, the interface it left by, and why it did not leave, if so."""

    address: str
    interface: str
    error: str = ""


@dataclass(frozen=True)
class Trial:
    """What was seen.  *port*: where hosts were to call back (0: they were not), *wanted_port*: where agents expect it.

    *knocks*: who asked for a connection there, whether it was let in or not; None when that could not be watched.
    *hash_name*: the hash with which we were heard at last.  *failure*: why there was no conversation to take apart.
    """

    hash_name: str
    port: int = 0
    wanted_port: int = 0
    copies: tuple[Copy, ...] = ()
    knocks: tuple[str, ...] | None = None
    calls: tuple[Call, ...] = ()
    failure: VmfenceError | None = None
    seconds: float = 0.0

    @property
    def answers(self) -> tuple[Call, ...]:
        """The answers, one for each host."""
        found = {call.peer: call for call in reversed(self.calls) if call.stage is Stage.ANSWERED}
        return tuple(reversed(found.values()))

    @property
    def is_answered(self) -> bool:
        """Whether a host answered that it is there and works."""
        return any(call.code == Code.SUCCESS for call in self.answers)


def run(inquiry: Inquiry, limit_s: float = LIMIT_S) -> Trial:
    """Put the question of *inquiry* and return what was seen, within *limit_s* seconds.

    Raises KeyFileError, UsageError, ListenError.
    """
    key = read_key(inquiry)
    deadline = time.monotonic() + limit_s
    if inquiry.kind == "multicast":
        return _by_multicast(inquiry, key, deadline)
    if inquiry.kind in DISSECTED:
        return _by_connection(inquiry, key, deadline)
    return _untaken(replace(inquiry, timeout_s=limit_s))


def _untaken(inquiry: Inquiry) -> Trial:
    """Ask by a way without conversation: it answers, or tells why not."""
    try:
        answer = put(inquiry, Action.MONITOR, "")
    except VmfenceError as error:
        return Trial(inquiry.hash_name, failure=error)
    call = Call(answer.peer, Stage.ANSWERED, End.ANSWERED, answer.code)
    return Trial(inquiry.hash_name, calls=(call,))


def _by_connection(inquiry: Inquiry, key: Key | None, deadline: float) -> Trial:
    left_s = deadline - time.monotonic()
    try:
        if inquiry.kind == "vsock":
            cid = CID if inquiry.vsock is None else inquiry.vsock
            peer, sock = f"CID {cid}", direct.connect_vsock(cid, inquiry.port, left_s)
        else:
            peer = inquiry.ipaddr or ""
            sock = direct.connect(peer, inquiry.port, left_s)
    except VmfenceError as error:
        return Trial(inquiry.hash_name, failure=error)
    with Calls(key, Hash.named(inquiry.auth_name)) as calls:
        kind = Hash.named(inquiry.hash_name)
        calls.add(sock, peer, _signed(_question(), kind, key))
        while not calls.ended and time.monotonic() < deadline:
            calls.serve(deadline)
    return Trial(inquiry.hash_name, calls=tuple(calls.ended))


def _by_multicast(inquiry: Inquiry, key: Key | None, deadline: float) -> Trial:
    family, group = multicast.family_of(inquiry.family, inquiry.address)
    wanted = inquiry.port if inquiry.callback_port is None else inquiry.callback_port
    listener = multicast.listen(family, wanted)
    port = int(listener.getsockname()[1])
    sender = _Sender(family, group, inquiry.port, port, key, Hash.named(inquiry.hash_name))
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        calls = stack.enter_context(Calls(key, Hash.named(inquiry.auth_name), listener))
        knocks = None
        with contextlib.suppress(OSError):  # not permitted: then it is not known who knocked
            knocks = stack.enter_context(Knocks(family, port))
            calls.watch(knocks)
        end, next_copies = deadline, began
        while (now := time.monotonic()) < end:
            if now >= next_copies:
                if not calls.is_heard:
                    sender.harden(now - began)
                sender.send()
                next_copies = now + _RETRANS_S
            calls.serve(min(end, next_copies))
            end = min(deadline, calls.end(end))
    return Trial(
        str(sender.kind),
        port,
        wanted,
        tuple(sender.copies.values()),
        None if knocks is None else tuple(calls.knockers),
        tuple(calls.ended),
        seconds=time.monotonic() - began,
    )


def _question() -> Request:
    """Return a new question; our daemons tell why they refuse it."""
    return Request(Action.MONITOR, seqno=int.from_bytes(os.urandom(4), "little"), flags=FLAG_TELL)


def _signed(request: Request, kind: Hash, key: Key | None) -> bytes:
    request.random = os.urandom(RANDOM_BYTES) if kind is not Hash.NONE else bytes(RANDOM_BYTES)
    return sign(encode(request), key or Key(b""), kind)


class _Sender:
    """Sends copies of a question from every address; *kind* is the hash that signs them, harder and harder."""

    def __init__(self, family: int, group: str, port: int, callback_port: int, key: Key | None, kind: Hash) -> None:
        self._family, self._group, self._port, self._callback_port = family, group, port, callback_port
        self._key, self.kind, self._first = key, kind, kind
        self._question = _question()
        self.copies: dict[str, Copy] = {}

    def harden(self, waited_s: float) -> None:
        """Take the next stronger hash when nobody was heard for so long; with none to begin with there is no key."""
        if waited_s < _HARDER_AFTER_S or self._first is Hash.NONE:
            return
        steps = 1 + int((waited_s - _HARDER_AFTER_S) / _HARDER_EVERY_S)
        kind = Hash(min(self._first + steps, Hash.SHA512))
        if kind is not self.kind:
            self.kind, self._question = kind, _question()

    def send(self) -> None:
        """Send one copy from each address that a host could call back.  Raises VmfenceError."""
        try:
            addresses = callable_addresses(self._family)
        except OSError as refused:
            why = refused.strerror or str(refused)
            raise VmfenceError("cannot list the addresses of this machine", why) from refused
        for address in addresses:
            request = self._question
            request.address, request.port, request.family = address.packed, self._callback_port, self._family
            error = ""
            try:
                packet = _signed(request, self.kind, self._key)
                multicast.send(packet, address, self._family, self._group, self._port)
            except OSError as failed:
                error = failed.strerror or str(failed)
            self.copies[address.text()] = Copy(address.text(), _interface(address), error)


def _interface(address: LocalAddress) -> str:
    try:
        return socket.if_indextoname(address.index)
    except OSError:
        return str(address.index)
