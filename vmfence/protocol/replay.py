"""The window of requests that are in flight or were just answered: one wish is carried out once.

Pure and light: time comes in as seconds of a monotonic clock.  A client repeats its request until it is answered, with
the same number and new random bytes; a multihomed one sends a copy for each of its addresses, and some of those cannot
be called back.  So each address is tried, a second copy for one is a repeat, and the first copy whose peer has proven
the key claims the wish: only that one is carried out.  After the answer a copy for the same address is a repeat for
LIFETIME_S (as long as fence_virtd remembers it); one for another address reaches somebody only if he still waits.
Repeats of the very same bytes are another matter: vmfence.host.signatures refuses those for good.
"""

from __future__ import annotations

import enum
from collections import OrderedDict

from vmfence.protocol.request import Request

LIFETIME_S = 10.0


class Verdict(enum.Enum):
    """What the window knows of a request."""

    NEW = "new"
    IN_FLIGHT = "repeated while in flight"
    DONE = "repeated after its answer"


class ReplayWindow:
    """Requests in flight and done; admit() enters a copy, claim() decides for it, forget() or done() must follow."""

    __slots__ = ("_claimed", "_done", "_in_flight", "_spent")

    def __init__(self) -> None:
        self._in_flight: set[tuple[_Wish, str]] = set()
        self._claimed: dict[_Wish, str] = {}
        self._spent: set[tuple[_Wish, str]] = set()
        self._done: OrderedDict[tuple[_Wish, str], float] = OrderedDict()

    def admit(self, request: Request, origin: str, now: float) -> Verdict:
        """Enter the copy of *request* for *origin* (an address in text form) if it is new, and tell whether it was."""
        self._expire(now)
        wish = _wish(request)
        if wish in self._claimed or (wish, origin) in self._in_flight:
            return Verdict.IN_FLIGHT
        if (wish, origin) in self._done:
            return Verdict.DONE
        self._in_flight.add((wish, origin))
        return Verdict.NEW

    def claim(self, request: Request, origin: str) -> bool:
        """Whether this admitted copy is the one to carry out: the first to ask.

        Never one that was on its way while another was answered: who takes its call now may be another client.
        """
        if (_wish(request), origin) in self._spent:
            return False
        return self._claimed.setdefault(_wish(request), origin) == origin

    def forget(self, request: Request, origin: str) -> None:
        """Take back an admitted copy that was not carried out, so that an honest repeat is heard."""
        wish = _wish(request)
        self._in_flight.discard((wish, origin))
        self._spent.discard((wish, origin))
        if self._claimed.get(wish) == origin:
            del self._claimed[wish]

    def done(self, request: Request, origin: str, now: float) -> None:
        """Note that an admitted copy was answered at *now*."""
        self.forget(request, origin)
        self._spent.update(copy for copy in self._in_flight if copy[0] == _wish(request))
        self._done[_wish(request), origin] = now + LIFETIME_S
        self._done.move_to_end((_wish(request), origin))

    def _expire(self, now: float) -> None:
        while self._done and next(iter(self._done.values())) <= now:
            self._done.popitem(last=False)


_Wish = tuple[int, int, bytes]


def _wish(request: Request) -> _Wish:
    """Return what makes two packets the same wish (fence_virtd's rule: code, number, name without regard to case)."""
    return request.action, request.seqno, request.domain.lower()
