"""The window of requests that are in flight or were just answered: one wish is carried out once.

Pure and light: time comes in as seconds of a monotonic clock.  A client repeats its request until it is answered, with
the same number and new random bytes; a multihomed one sends a copy for each of its addresses.  While one copy is in
flight every other is a repeat, whatever address it names; after the answer the same copy is, for LIFETIME_S (the time
that fence_virtd remembers it).  Another address's copy is then heard: it reaches nobody unless somebody still waits.
Repeats of the very same bytes are another matter: vmfence.host.memory refuses those for good.
"""

from __future__ import annotations

import enum
from collections import OrderedDict

from vmfence.protocol.request import Request

LIFETIME_S = 10.0
IN_FLIGHT_MAX = 10_000


class Verdict(enum.Enum):
    """What the window knows of a request."""

    NEW = "new"
    IN_FLIGHT = "repeated while in flight"
    DONE = "repeated after its answer"


class ReplayWindow:
    """Requests in flight and done; admit() enters one, forget() or done() must follow."""

    __slots__ = ("_done", "_in_flight")

    def __init__(self) -> None:
        self._in_flight: set[tuple[int, int, bytes]] = set()
        self._done: OrderedDict[tuple[tuple[int, int, bytes], str], float] = OrderedDict()

    def admit(self, request: Request, origin: str, now: float) -> Verdict:
        """Enter *request* of *origin* (an address in text form) if it is new, and tell whether it was."""
        self._expire(now)
        wish = _wish(request)
        if wish in self._in_flight:
            return Verdict.IN_FLIGHT
        if (wish, origin) in self._done:
            return Verdict.DONE
        self._in_flight.add(wish)
        return Verdict.NEW

    def forget(self, request: Request) -> None:
        """Take back an admitted request that was not carried out, so that an honest repeat is heard."""
        self._in_flight.discard(_wish(request))

    def done(self, request: Request, origin: str, now: float) -> None:
        """Note that an admitted request was answered at *now*."""
        self.forget(request)
        self._done[_wish(request), origin] = now + LIFETIME_S
        self._done.move_to_end((_wish(request), origin))

    def is_full(self) -> bool:
        """Whether so many requests are in flight that no more should be admitted."""
        return len(self._in_flight) >= IN_FLIGHT_MAX

    def in_flight(self) -> int:
        """Return how many requests are in flight."""
        return len(self._in_flight)

    def _expire(self, now: float) -> None:
        while self._done and next(iter(self._done.values())) <= now:
            self._done.popitem(last=False)


def _wish(request: Request) -> tuple[int, int, bytes]:
    """Return what makes two packets the same wish (fence_virtd's rule: code, number, name without regard to case)."""
    return request.action, request.seqno, request.domain.lower()
