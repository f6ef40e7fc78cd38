"""What all listeners share: from a verified request to one reply, one log line, and nothing else delayed.

A listener hands over a request and a connected stream; the reception refuses repeats, drives the exchange, asks the
service, and writes the reply.  Requests that are not yet authenticated are cheap, few and short-lived.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Callable

from vmfence.errors import AuthenticationError, PacketError, SignatureError, VmfenceError
from vmfence.host.backends.base import Guest
from vmfence.host.disk import Disk, DiskSlow
from vmfence.host.history import Event, History
from vmfence.host.refusals import RefusalLimit
from vmfence.host.rejects import RejectLog
from vmfence.host.security import Security, Verified
from vmfence.host.service import Caller, OriginGone, Reply, Service, time_allowed_s
from vmfence.host.signatures import SignatureMemory
from vmfence.host.streams import read_to_end, send
from vmfence.policy import Origin
from vmfence.protocol.auth import CHALLENGE_BYTES, Hash
from vmfence.protocol.exchange import ChallengeBook, DaemonExchange
from vmfence.protocol.reason import encode_reason
from vmfence.protocol.replay import ReplayWindow, Verdict
from vmfence.protocol.reply import Code, encode_list
from vmfence.protocol.request import GUEST_ACTIONS, POWER_ACTIONS, Action, Request

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
# A client with auth set sends its challenge as soon as it is connected.  A listener without auth looks that long for
# one, before it acts on a request whose result the client could only misread.
MISMATCH_LOOK_S = 0.1
SESSIONS_MAX = 512
SESSIONS_PER_ORIGIN_MAX = 64
REJECTS_SHOWN = FAILURES_SHOWN = 20
ORIGINS_MAX = 256
RECENT_MAX = 65536


@dataclass
class Admission:
    """A verified request that is no repeat.

    *claim* tells, once its peer is proven, whether it is to be carried out.
    """

    verified: Verified
    claim: Callable[[], bool]
    answered: bool = False


def printable(text: str) -> str:
    """Return *text* fit for a line of a log, whatever a client put into it; with blanks it is quoted."""
    return text if text.isprintable() and text and " " not in text else ascii(text)


class Reception:
    """The state that all listeners of a process share."""

    def __init__(self, service: Service, signatures: SignatureMemory, history: History) -> None:
        self.service = service
        self.signatures = signatures
        self.history = history
        service.on_late_failure = self._note_late_failure
        self.is_silent_about_unknown = False
        self.rejects = RejectLog()
        self.last_rejects: deque[tuple[float, str, str]] = deque(maxlen=REJECTS_SHOWN)
        self._last_failed: deque[tuple[float, str, str, str]] = deque(maxlen=FAILURES_SHOWN)
        self._answered: OrderedDict[str, float] = OrderedDict()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._refusals = RefusalLimit()
        self._book = ChallengeBook()
        self._sessions: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._recent: OrderedDict[bytes, None] = OrderedDict()
        self._windows: dict[str, ReplayWindow] = {}
        self._signature_disk = Disk("signatures")
        self._signature_delay = ""  # why the newest signature may not be kept
        self._history_disk = Disk("history")
        self._history_lost, self._history_trouble = 0, ""
        self._expiry = Disk("expiry of signatures")

    def reject(self, origin: str, error: VmfenceError) -> None:
        """Count and log a packet or connection that is dropped without an answer."""
        self.last_rejects.append((time.time(), origin, str(error)))
        line = self.rejects.note(origin, error, time.monotonic())
        if line:
            log.warning("%s", line)

    def refuse_recent(self, verified: Verified) -> None:
        """Raise SignatureError for the very bytes of a packet that was accepted lately: cheap, for a flood of them."""
        if verified.request.hash_type != Hash.NONE and verified.request.signature in self._recent:
            raise _recording()

    def spawn(self, origin: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Run *work* for a verified packet of *origin*, unless too many are under way; return whether it runs."""
        if self._sessions[origin] >= SESSIONS_PER_ORIGIN_MAX or len(self._tasks) >= SESSIONS_MAX:
            self.reject(origin, PacketError("too many requests at once"))
            return False
        self._sessions[origin] += 1
        task = asyncio.ensure_future(self._run(origin, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def drain(self, limit_s: float) -> None:
        """Wait for the requests under way, at most *limit_s*."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=limit_s)

    def describe(self) -> dict[str, Any]:
        """Return counts, requests under way, and what was last rejected, failed, answered, fit for JSON."""
        return {
            "in_flight": len(self._tasks),
            "requests": [
                {"action": action, "result": result, "count": count}
                for (action, result), count in sorted(self.counts.items())
            ],
            "rejected": dict(sorted(self.rejects.counts.items())),
            "signatures": {"trouble": self._signature_delay or self.signatures.trouble},
            "history": {"lost": self._history_lost, "trouble": self._history_trouble},
            "last_rejected": [{"at": at, "origin": origin, "reason": why} for at, origin, why in self.last_rejects],
            "last_failed": [
                {"at": at, "origin": origin, "action": action, "reason": why}
                for at, origin, action, why in self._last_failed
            ],
            "last_answered": dict(self._answered),
        }

    async def expire_signatures(self, key_ids: set[str]) -> None:
        """Let the memory of signatures forget what it may."""
        with contextlib.suppress(DiskSlow):  # it goes on in its thread
            await self._expiry.run(self.signatures.expire, key_ids, time.time())

    def is_busy(self) -> bool:
        """Whether the disk still has something to write."""
        return any(disk.is_busy() for disk in (self._signature_disk, self._history_disk, self._expiry))

    def close(self) -> None:
        """Close the files once all is written; a disk that hangs is not waited for."""
        self._signature_disk.close(self.signatures.close)
        self._history_disk.close(self.history.close)
        self._expiry.close(lambda: None)

    @contextlib.asynccontextmanager
    async def admitted(
        self, verified: Verified, origin: str, window: ReplayWindow | None = None, is_shared: bool = False
    ) -> AsyncIterator[Admission]:
        """Enter a verified request; the block notes in its admission that it was answered.

        *window* remembers the requests of this kind of origin; without one it is that of the key.  *is_shared*: other
        hosts may have heard the request as well.

        Raises SignatureError for a recording played back, Ignored for a repeat of one in flight or just answered and
        for a guest that only other hosts may know.  Left unanswered, the request is forgotten, so that an honest
        repeat is heard.
        """
        request = verified.request
        self.refuse_recent(verified)
        await self._refuse_recording(verified)
        # A window for each key: who holds another group's must not claim a wish whose number he overheard.
        window = window or self._windows.setdefault(verified.entry.key.fingerprint(), ReplayWindow())
        verdict = window.admit(request, origin, time.monotonic())
        if verdict is not Verdict.NEW:
            raise Ignored(verdict.value)
        admission = Admission(verified, lambda: window.claim(request, origin))
        try:
            await self._ignore_unknown(verified, is_shared)
            yield admission
        finally:
            if admission.answered:
                window.done(request, origin, time.monotonic())
            else:
                window.forget(request, origin)

    async def converse(
        self,
        admission: Admission,
        security: Security,
        origin: Origin,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Authenticate the peer on the stream, carry out its request, and answer.

        Raises AuthenticationError, OSError; Ignored when another copy of the request got there first.
        """
        verified = admission.verified
        await self._prove(verified, security, reader, writer)
        if not admission.claim():
            raise Ignored("another copy is being carried out")
        may_tell = verified.request.wants_reason and security.auth is not Hash.NONE

        def encoded(reply: Reply) -> bytes:
            is_told = may_tell and reply.code is Code.FAILURE
            return _encoded(reply) + (encode_reason(VmfenceError("failed", reply.detail)) if is_told else b"")

        watch = asyncio.ensure_future(read_to_end(reader))
        try:
            caller = Caller(origin, verified.entry.group_key, watch.done)
            admission.answered = await self.answer(verified, caller, lambda reply: send(encoded(reply), writer))
        finally:
            watch.cancel()

    async def refuse_repeat(self, verified: Verified) -> None:
        """Raise SignatureError if the very bytes of a packet were here before; remember them."""
        self.refuse_recent(verified)
        await self._refuse_recording(verified)

    async def tell(
        self,
        verified: Verified,
        why: VmfenceError,
        security: Security,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Tell the peer on the stream why its request is refused, once it has proven the key of *verified*.

        Raises AuthenticationError, OSError.
        """
        await self._prove(verified, security, reader, writer)
        await send(bytes((Code.FAILURE,)) + encode_reason(why), writer)

    async def _prove(
        self, verified: Verified, security: Security, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Hold both challenges with the peer.  Raises AuthenticationError, OSError."""
        exchange = DaemonExchange(verified.entry.key, security.auth, os.urandom(CHALLENGE_BYTES), self._book)
        try:
            await asyncio.wait_for(_authenticate(exchange, reader, writer), HANDSHAKE_S)
        except asyncio.TimeoutError:
            raise AuthenticationError(
                "no proof of the key", f"the client did not send {exchange.waits_for()}"
            ) from None

    async def answer(self, verified: Verified, caller: Caller, deliver: Callable[[Reply], Awaitable[str]]) -> bool:
        """Carry out a request and note it; return whether it was answered, False when its client had left.

        *deliver* brings the reply to the client and returns what went wrong, or nothing.
        """
        deadline = verified.received + time_allowed_s(verified.request.action)
        try:
            reply = await self.service.handle(verified.request, caller, deadline)
        except OriginGone as error:
            await self._note(verified, caller.origin, "dropped", str(error))
            return False
        trouble = await deliver(reply)
        detail = "; ".join(filter(None, (reply.detail, trouble)))
        if not trouble:
            self._note_answered(_who(caller.origin))
        if reply.code is Code.FAILURE and verified.request.action != Action.NULL:
            action = verified.request.action_name()
            self._last_failed.append((time.time(), _who(caller.origin), action, reply.detail))
        await self._note(verified, caller.origin, reply.result, detail, reply.guest)
        return True

    def _note_answered(self, who: str) -> None:
        self._answered.pop(who, None)
        self._answered[who] = time.time()
        if len(self._answered) > ORIGINS_MAX:
            self._answered.popitem(last=False)

    async def _note(
        self, verified: Verified, origin: Origin, result: str, detail: str, guest: Guest | None = None
    ) -> None:
        """Count and log a request; a power action goes into the history as well."""
        request = verified.request
        ms = (time.monotonic() - verified.received) * 1000
        self.counts[request.action_name(), result] += 1
        who = _who(origin)
        if guest is None and request.action in POWER_ACTIONS:  # nothing was done: denied, unknown, or its client left
            held_back = self._refusals.note(who, time.monotonic())
            if held_back is None:
                return
            detail += f" ({held_back} more like it were not kept)" if held_back else ""
        _log_request(request, origin, result, ms, detail)
        if request.action in POWER_ACTIONS:
            name, uuid = (guest.name, guest.uuid) if guest else (printable(request.target), "")
            await self._keep(
                Event(time.time(), request.action_name(), name, uuid, who, origin.kind, result, round(ms), detail)
            )

    async def _keep(self, event: Event) -> None:
        try:
            await self._history_disk.run(self.history.add, event)
            self._history_trouble = ""
        except DiskSlow as error:
            self._history_lost, self._history_trouble = self._history_lost + 1, str(error)
            log.error("the history may lack a record: %s", error)
        except OSError as error:
            self._history_lost, self._history_trouble = self._history_lost + 1, error.strerror or str(error)
            log.error("cannot write the history: %s", self._history_trouble)

    def _note_late_failure(self, guest: Guest, detail: str) -> None:
        event = Event(time.time(), "on", guest.name, guest.uuid, "-", "reboot", "failed", 0, detail)
        task = asyncio.ensure_future(self._keep(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ignore_unknown(self, verified: Verified, is_shared: bool) -> None:
        """Raise Ignored for a guest that is another host's to answer for, if others hear the same requests."""
        request = verified.request
        if not self.is_silent_about_unknown or request.action not in GUEST_ACTIONS:
            return
        if not await self.service.knows(request.target, verified.received + time_allowed_s(request.action), is_shared):
            log.info(
                "request action=%s guest=%s ignored: unknown here, or another host answers",
                request.action_name(),
                printable(request.target),
            )
            raise Ignored("unknown guest")

    async def _run(self, origin: str, work: Callable[[], Awaitable[None]]) -> None:
        with self._counting(origin):
            try:
                await work()
            except Ignored as error:
                log.debug("from %s: %s", origin, error)
            except VmfenceError as error:
                self.reject(origin, error)
            except OSError as error:
                self.reject(origin, PacketError("the connection broke", error.strerror or str(error)))
            except Exception:
                # The process keeps serving: a defect of ours fails one request, aloud.
                log.exception("request from %s failed", origin)

    @contextlib.contextmanager
    def _counting(self, origin: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._sessions[origin] -= 1
            if not self._sessions[origin]:
                del self._sessions[origin]

    async def _refuse_recording(self, verified: Verified) -> None:
        """Remember the signature; raise SignatureError if it was known.

        A disk that does not answer delays a fence by DISK_S and does not stop it: until it does, what was accepted
        before the newest RECENT_MAX packets is not recognised.
        """
        request = verified.request
        if request.hash_type == Hash.NONE:
            return
        self._recent[request.signature] = None
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        key_id, is_power = verified.entry.key.fingerprint(), request.action in POWER_ACTIONS
        try:
            run = self._signature_disk.run
            is_new = await run(self.signatures.accept, request.signature, key_id, is_power, time.time())
            self._signature_delay = ""
        except DiskSlow as error:
            self._signature_delay = str(error)
            self.reject("the disk of state_dir", error)
            return
        if not is_new:
            raise _recording()


def _who(origin: Origin) -> str:
    return str(origin.address or origin.guest_uuid or origin.cid)


def _recording() -> SignatureError:
    return SignatureError("repeated packet", "these very bytes were accepted before", "a recording played back?")


class Ignored(VmfenceError):
    """A request that is honest and not to be answered: a repeat, or another host's."""


async def _authenticate(exchange: DaemonExchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if exchange.proven:
        with contextlib.suppress(asyncio.TimeoutError):
            data = await asyncio.wait_for(reader.read(CHALLENGE_BYTES), MISMATCH_LOOK_S)
            exchange.receive(data)
            raise AuthenticationError("the client closed the connection", "before it had an answer")
        return
    while not exchange.proven:
        data = await reader.read(4096)
        if not data:
            raise AuthenticationError("the client closed the connection", f"instead of sending {exchange.waits_for()}")
        out = exchange.receive(data)
        if out:
            writer.write(out)
            await writer.drain()


def _log_request(request: Request, origin: Origin, result: str, ms: float, detail: str) -> None:
    """Write the one line of a request."""
    level = logging.INFO if result in ("ok", "off") else logging.WARNING
    if request.action == Action.NULL:
        level = logging.DEBUG  # agents send some before each request on a channel; failure is the right answer
    target = printable(request.target) if request.target else "-"
    asked = f"request action={request.action_name()} guest={target} origin={_who(origin)} via={origin.kind}"
    line = f"{asked} result={result} ms={ms:.0f}"
    log.log(level, "%s", f"{line} {detail if detail.isprintable() else ascii(detail)}" if detail else line)


def _encoded(reply: Reply) -> bytes:
    return bytes((reply.code,)) if reply.records is None else encode_list(list(reply.records))
