"""Who had each guest active last: what one host knows of that, and how it becomes one with what others know.

Pure.  Each time that a guest executes somewhere without a break, a *stay*, has a number of its own; a sighting of a new
one makes those known before past.  So of two opinions the older can be told without any clock: its stays are past in
the other.  Where neither is older, both count.  A negative number, at NOBODY_KNOWS, stands for what came after that
stay: the guest left from there.  It is past with the stay.
"""

from __future__ import annotations

import random
import time
from collections.abc import Container, Iterable, Iterator, Mapping

from vmfence.host.pool.messages import Last

# In the place of a node: the guest went from the one that had it last to where nobody has seen it.
NOBODY_KNOWS = 0
# Of more stays the lowest, so the first, are forgotten; who comes back with one of those then contradicts, and nothing
# is certain.
PAST_MAX = 16
_RANDOM_BITS = 27


def new_stay() -> int:
    """Return a number that no other stay has.

    Later ones are higher as far as clocks agree; by that alone it goes what is forgotten, and nothing else.
    """
    return (int(time.time() * 16) << _RANDOM_BITS) + random.SystemRandom().randrange(1, 1 << _RANDOM_BITS)


def merge(one: Last, other: Last) -> Last:
    """Return what is known by both opinions together."""
    if one == other:
        return one
    stays = [each for each in one.stays if each in other.stays or not _is_past(each[0], other)]
    stays += [each for each in other.stays if each not in stays and not _is_past(each[0], one)]
    over = {*one.past, *other.past, *dict(one.stays), *dict(other.stays)} - dict(stays).keys()
    return Last(one.uuid, tuple(sorted(stays)), _kept(over))


def _kept(past: Iterable[int]) -> tuple[int, ...]:
    """Return what is remembered of the past.

    The same for all, in whatever order they heard: else two who tell each other would each time know something new.
    """
    return tuple(sorted(past)[-PAST_MAX:])


def _again(stay: int, before: int) -> int:
    """Return the number that all give to the stay that was called past by mistake when the one *before* began."""
    low = (1 << _RANDOM_BITS) - 1
    return max(stay, before) & ~low | (stay + before) & low


def _is_past(stay: int, last: Last) -> bool:
    return stay in last.past or (stay < 0 and -stay in last.past)


class Lasts:
    """What one host knows, by the guests' UUIDs.  *changes* counts."""

    def __init__(self, remembered: Iterable[Last] = ()) -> None:
        self._by_uuid = {last.uuid: last for last in remembered}
        self.changes = 0

    def __iter__(self) -> Iterator[Last]:
        return iter(list(self._by_uuid.values()))

    def __len__(self) -> int:
        return len(self._by_uuid)

    def get(self, uuid: str) -> Last | None:
        """Return what is known of a guest."""
        return self._by_uuid.get(uuid)

    def nodes(self, uuid: str) -> frozenset[int]:
        """Return who may have had the guest last."""
        last = self._by_uuid.get(uuid)
        return frozenset(node for _, node in last.stays) if last is not None else frozenset()

    def executes(self, uuid: str, node: int, stay: int, at: Container[int]) -> None:
        """Note that the guest executes at *node*; *at* are the hosts of the group that say so of themselves."""
        last = self._by_uuid.get(uuid)
        if last is not None and (stay in last.past or last.stays == ((stay, node),)):
            return
        before = last.stays if last is not None else ()
        # One that is in two places must be found ended in both.
        kept = [each for each in before if each[1] in at and each[1] != node]
        self._put(uuid, [*kept, (stay, node)], before, last)

    def left(self, uuid: str, node: int, at: Mapping[int, int]) -> None:
        """Note that the guest left *node*; *at*: hosts of the group where it executes, with the stays."""
        last = self._by_uuid.get(uuid)
        if last is None or node not in self.nodes(uuid):
            return
        over = [stay for stay, where in last.stays if where == node]
        stays = [each for each in last.stays if each[1] != node]
        if not any(where in at for _, where in stays):
            # Its stay there may have been called past when this one began: it came back before its host looked.
            again = [(_again(stay, over[0]), where) for where, stay in at.items() if where != node]
            stays += again or [(-stay, NOBODY_KNOWS) for stay in over]
        self._put(uuid, stays, last.stays, last)

    def ended(self, uuid: str, node: int, at: Mapping[int, int]) -> None:
        """Note that the guest ended at *node*, or is not there; *at* as in left()."""
        last = self._by_uuid.get(uuid)
        if last is not None and any(where in at and where != node for _, where in last.stays):
            self._put(uuid, [each for each in last.stays if each[1] != node], last.stays, last)

    def is_over(self, uuid: str, node: int) -> None:
        """Note that the guest ended at *node*, and then was undefined there: that needs no more proof."""
        last = self._by_uuid.get(uuid)
        if last is not None:
            self._put(uuid, [each for each in last.stays if each[1] != node], last.stays, last)

    def lost_track(self, uuid: str, node: int, number: int) -> None:
        """Note that the guest went, or may have gone, from *node* to where nobody knows, while nobody looked there.

        *number* is a new one, for where no stay of it is known.
        """
        last = self._by_uuid.get(uuid)
        before = last.stays if last is not None else ()
        # Who has seen it elsewhere after its last stay there knows where to.
        left = [(-stay, NOBODY_KNOWS) for stay, where in before if where == node]
        others = [each for each in before if each[1] != node]
        if not left:  # a stay that nobody saw, later than all that is known: it takes the place of earlier doubts
            left, others = [(-number, NOBODY_KNOWS)], [each for each in others if each[1] != NOBODY_KNOWS]
        self._put(uuid, [*left, *others], before, last)

    def hear(self, told: Last) -> bool:
        """Take what another host knows; return whether that was new."""
        mine = self._by_uuid.get(told.uuid)
        merged = merge(mine, told) if mine is not None else told
        if merged == mine:
            return False
        self._by_uuid[told.uuid] = merged
        self.changes += 1
        return True

    def forget(self, uuid: str) -> None:
        """Forget a guest."""
        if self._by_uuid.pop(uuid, None) is not None:
            self.changes += 1

    def _put(
        self, uuid: str, stays: Iterable[tuple[int, int]], before: Iterable[tuple[int, int]], last: Last | None
    ) -> None:
        stays = sorted(stays)
        past = {*(last.past if last is not None else ()), *dict(before)} - dict(stays).keys()
        now = Last(uuid, tuple(stays), _kept(past))
        if now != last:
            self._by_uuid[uuid] = now
            self.changes += 1
