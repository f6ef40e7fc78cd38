"""Bring a pipe into order before a request is written: what comes afterwards must be the answer to this request.

Light module (standard library only; the agent loads it for serial lines, virtio ports and VM channels).

An answer does not say which request it is for, and answers of clients that have given up may still come: from the
daemon, or out of the hypervisor's socket.  So a few requests that do nothing are written first, which every daemon
answers at once with 1, failure (fence_virtd 4.12.1 too), and in their turn.  Once that many failures were read in a row
and nothing follows them, what was asked before has been answered.  What might be misread after that is one of these
failures, never a success.
"""

from __future__ import annotations

import os
import time

from vmfence.client.failures import NoAnswer, NotAccepted
from vmfence.errors import PacketError
from vmfence.protocol.reply import Code, Record, RecordReader, guest_count
from vmfence.protocol.request import Action, Request
from vmfence.protocol.serial import RESPONSE_BYTES, FrameReader, encode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    Receive = Callable[[float], bytes]  # bytes that come until a monotonic time; raises NoAnswer, NotAccepted
    Send = Callable[[bytes, float], None]

LOG = "see the daemon's log on the host, and that its serial listener has the mode of this channel"
NULLS = 4
QUIET_S = 0.2
# No request is written with less time left: the daemon takes what comes within a second for requests sent together.
LEFT_S = 1.0
# Nulls that are not answered were lost, behind half a request of somebody else's or while the daemon started.
_FIRST_ROUND_S = 2.0
# Not empty: half of another client's request followed by a null must not read as a request (check_plausible).
_DOMAIN = b"-"


class Answers:
    """The answers that come through the pipe *name*, in their order."""

    __slots__ = ("_frames", "_name", "_receive")

    def __init__(self, name: str, receive: Receive) -> None:
        self._name, self._receive = name, receive
        self._frames = FrameReader(RESPONSE_BYTES)

    def next(self, until: float) -> tuple[int, list[Record]]:
        """Return the next answer's code, with the records of a list, read to the frame that ends it.

        Raises NoAnswer at *until* (monotonic), NotAccepted when the pipe is cut, PacketError for a list that is.
        """
        code = self._code(until)
        return code, self._list(until) if code == Code.LIST else []

    def is_within_one(self) -> bool:
        """Whether something has come that may be the beginning of an answer."""
        return self._frames.pending()

    def _code(self, until: float) -> int:
        found = self._frames.feed(b"", 1)
        while not found:
            found = self._frames.feed(self._receive(until), 1)
        return found[0][-1]

    def _list(self, until: float) -> list[Record]:
        reader = RecordReader()
        records = reader.feed(self._frames.take_rest())
        try:
            while not reader.ended:
                records += reader.feed(self._receive(until))
            self._frames.feed(reader.rest(), 0)
            self._code(until)
        except (NoAnswer, NotAccepted) as error:
            what = f"{self._name}: the list of guests was cut off"
            raise PacketError(what, f"after {guest_count(len(records))}", LOG) from error
        return records


def bring_to_order(name: str, send: Send, receive: Receive, deadline: float) -> Answers:
    """Return the answers of the pipe *name*, of which the next is that to the next request.

    Raises NoAnswer when that is not so LEFT_S before *deadline* (monotonic): no request may be written then.
    """
    end, round_s = deadline - LEFT_S, _FIRST_ROUND_S
    what, why = f"there was no time to ask through {name}", f"a request is sent with {LEFT_S:.0f} s left, at least"
    while time.monotonic() + QUIET_S < end:
        until = min(end, time.monotonic() + round_s)
        round_s *= 2
        send(b"".join(_null() for _ in range(NULLS)), until)
        answers = Answers(name, receive)
        found = _settles(answers, until)
        if found:
            return answers
        what, why = f"nobody answered through {name} in time", "nothing was sent"
        if found is not None:
            what, why = f"{name} was not in order in time", "answers of other requests kept coming; nothing was sent"
    raise NoAnswer(what, why, LOG)


def _settles(answers: Answers, until: float) -> bool | None:
    """Read answers; return whether the nulls' were the last of them, None when nothing came at all."""
    in_a_row, has_heard = 0, False
    while True:
        is_quiet_enough = in_a_row >= NULLS and time.monotonic() + QUIET_S <= until
        try:
            code, _ = answers.next(time.monotonic() + QUIET_S if is_quiet_enough else until)
        except NoAnswer:
            return (is_quiet_enough and not answers.is_within_one()) if has_heard else None
        except PacketError:
            return False
        has_heard = True
        in_a_row = in_a_row + 1 if code == Code.FAILURE else 0


def _null() -> bytes:
    return numbered(Request(Action.NULL, _DOMAIN, seqno=int.from_bytes(os.urandom(4), "little")))


def numbered(request: Request) -> bytes:
    """Return the frame of *request* with a number that cannot be taken for the beginning of another frame.

    Frames that end so are distrusted, see vmfence.protocol.serial.check_plausible.
    """
    number = request.seqno | 0x80000000
    return encode_request(Request(request.action, request.domain, seqno=number, flags=request.flags))
