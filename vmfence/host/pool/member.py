"""One host as a member of its pool: messages, changes and time go in, effects come out.

Pure: no socket, clock or libvirt.  The daemon (pool.py) and simulations feed it alike and carry its effects out.  *now*
is the monotonic clock, *wall* the wall clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmfence.errors import Unreachable, VmfenceError
from vmfence.host.pool.bridge import Requests, Unanswered
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.effects import Act, Done, Effect, LookHere, NoteFences, ReadGuests, Send, Token
from vmfence.host.pool.messages import (
    LISTED_MAX,
    Entry,
    Hello,
    Lasts,
    Listing,
    Message,
    Missing,
    Order,
    Query,
    Report,
    Result,
    Sight,
    Start,
)
from vmfence.host.pool.own import OwnGuests
from vmfence.host.pool.procedure import Outcome, Steps, serve_reference
from vmfence.host.pool.runs import Runs
from vmfence.host.pool.verdict import EXECUTING
from vmfence.protocol.cpg import Reply, Request, Store
from vmfence.protocol.reply import Code
from vmfence.protocol.request import Action

# For so long after a start was ordered, nobody else is to start the same guest: who ordered that had asked before.
START_S = 30.0


class Member:
    """The state of one host.  Take its effects after every input."""

    def __init__(self, directory: Directory, first_seqno: int) -> None:
        """*first_seqno* must differ from those of the run before, whose answers may still come."""
        self.directory = directory
        self._effects: list[Effect] = []
        self._starts: dict[str, tuple[int, float]] = {}  # by UUID: who was to start it, 0 for several, and when
        self._requests = Requests(directory)
        self._own = OwnGuests(directory, self._send)
        self._runs = Runs(directory, self._effects, self._ended, first_seqno)

    def take(self) -> list[Effect]:
        """Return what is to be done, in this order."""
        effects = list(self._effects)
        self._effects.clear()
        return effects

    # What happens outside

    def joined_group(self, me: int) -> None:
        """The group was joined; its members are told by members_changed()."""
        self.directory.me = me
        self._own.joined()

    def left_group(self, why: str, now: float, wall: float) -> None:
        """Corosync is gone: nobody can be asked."""
        self.directory.set_members(frozenset(), now, wall)
        self.directory.me = 0
        self.directory.set_quorate(False, wall)
        self.directory.set_view(None, wall)
        self._requests.clear()
        self._runs.end_all(Unreachable("the other hosts of the pool cannot be asked", why))

    def leaves(self) -> None:
        """This host is about to leave the group: what nobody else will answer fails."""
        for each in self._requests.orphans():
            self._reply(each.asker, each.request, Code.FAILURE)

    def members_changed(self, members: frozenset[int], now: float, wall: float) -> None:
        """Corosync tells who is in the group."""
        before = self.directory.members
        joined = self.directory.set_members(members, now, wall)
        left = before - members
        if joined:
            self._greet(now)
            self._own.somebody_joined(now)
            self._tell_what_was(before & members)
            self._effects.append(ReadGuests())
        self._note_fences(joined, left)
        self._runs.group_changed(bool(joined), left, now)
        for each in self._requests.left(left):
            self._serve(each, now)
        self.tick(now)

    def quorum_changed(self, is_quorate: bool, wall: float) -> None:
        """Corosync tells whether this side has the votes to decide."""
        self.directory.set_quorate(is_quorate, wall)

    def view_changed(self, nodes: frozenset[int], wall: float) -> None:
        """Corosync tells which nodes are up on this side, with a daemon of the pool or without."""
        awoken = self.directory.set_view(nodes, wall) - {self.directory.me}
        if awoken:
            self._effects.append(NoteFences(tuple(sorted(awoken))))

    def received(self, sender: int, message: Message, now: float) -> None:
        """Take a message of the group."""
        if sender not in self.directory.members:
            return  # of who has just left: nobody acts on that any more
        self.directory.deliveries += 1
        if isinstance(message, Store):
            self.directory.stored(sender, message, now)
        elif isinstance(message, Request):
            self.directory.requested(sender, message.seqno)
            mine = self._requests.take(sender, message, now)
            if mine is not None:
                self._serve(mine, now)
        elif isinstance(message, Reply):
            self._requests.answered(message.asker, message.seqno)
            if self.directory.is_reference(sender, now):
                self.directory.replied(sender, message.asker, message.seqno)
            if message.asker == self.directory.me:
                self._runs.replied(sender, message, now)
        else:
            self.directory.greeted(sender)
            if isinstance(message, Hello):
                self._take_starts(message.starts, now)
            self._received_own(sender, message, now)

    def guests_read(self, guests: Iterable[Entry]) -> None:
        """Take the guests of this host as libvirt has them, and tell the others what changed."""
        self._own.read(guests)

    def sight_changed(self, is_blind: bool) -> None:
        """Take whether the guests of this host cannot be read, all or some."""
        self._own.set_blind(is_blind)

    def looked(self, effect: LookHere, guests: Sequence[Entry], trouble: str, now: float) -> None:
        """Take the answer to LookHere: what libvirt has, or why that cannot be told."""
        if effect.asker in self.directory.members:
            target = effect.target
            away, lasts = self.directory.away(target), self.directory.lasts_of(target)
            found = tuple(map(self._own.recall, guests))
            self._send(Report(effect.asker, effect.seqno, found, now, trouble, away, lasts))

    def acted(self, effect: Act, outcome: Outcome) -> None:
        """Take how an Act ended."""
        if outcome.ended:
            self._own.ended(effect.uuid, outcome.ended in EXECUTING)
        if effect.asker in self.directory.members:
            self._send(Result(effect.asker, effect.seqno, int(outcome.code), outcome.detail, outcome.ended))

    def fenced_found(self, token: Token, fenced: frozenset[int], now: float) -> None:
        """Take the answer to FindFenced."""
        self._runs.fenced_found(token, fenced, now)

    def fences_noted(self, newest: Mapping[int, float]) -> None:
        """Take an answer to NoteFences: when hosts were fenced last, by the fencer's clock, 0.0 for never."""
        self.directory.note_fences(newest)

    def begin(self, token: Token, steps: Steps, deadline: float, now: float) -> None:
        """Start a procedure; Done comes at *deadline* at the latest."""
        if not self.directory.me or self.directory.me not in self.directory.members:
            error = Unreachable("the other hosts of the pool cannot be asked", "this host is not in Corosync's group")
            self._ended(token, None, error)
            return
        self._runs.begin(token, steps, deadline, now)

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._own.tick(now)
        self._runs.tick(now)
        self.directory.sweep(now)

    def is_waiting(self) -> bool:
        """Whether tick() is needed soon."""
        return bool(self._runs) or self._own.is_waiting()

    # What becomes of it

    def _send(self, message: Message) -> None:
        self._effects.append(Send(message))

    def _greet(self, now: float) -> None:
        """Greet, and tell newcomers of the starts that they have not heard of."""
        until = {uuid: at + START_S for uuid, (_, at) in self._starts.items()}
        starts = [Start(uuid, node, until[uuid] - now) for uuid, (node, _) in self._starts.items() if now < until[uuid]]
        for start in range(0, max(1, len(starts)), LISTED_MAX):
            self._send(Hello(starts=tuple(starts[start : start + LISTED_MAX])))

    def _take_starts(self, starts: Iterable[Start], now: float) -> None:
        """Take what another host has heard of starts; where both heard of a different one, nobody else may start."""
        for told in starts:
            at = now + min(max(told.left_s, 0.0), START_S) - START_S
            node, since = self._starts.get(told.uuid, (told.node, at))
            if now >= since + START_S:
                node = told.node
            self._starts[told.uuid] = node if node == told.node else 0, max(at, since)

    def _tell_what_was(self, stayed: frozenset[int]) -> None:
        """Tell newcomers of those who are away, and of who had which guest: one does that for all who *stayed*."""
        me, hosts = self.directory.me, self.directory.hosts
        if me == min((node for node in stayed if hosts[node].is_ours or node == me), default=me):
            for missing in self.directory.missing():
                self._send(missing)
            self._own.tell_lasts(self.directory.untold_lasts(not stayed))

    def _note_fences(self, joined: frozenset[int], left: frozenset[int]) -> None:
        """Have it found out when hosts were fenced last, while they are here, or at least before they are asked for."""
        directory = self.directory
        nodes = set(joined)
        if directory.me in joined:
            nodes |= directory.absent()
        nodes |= {node for node in left if directory.hosts[node].fence_before is None}
        nodes.discard(directory.me)
        if nodes:
            self._effects.append(NoteFences(tuple(sorted(nodes))))

    def _received_own(self, sender: int, message: Message, now: float) -> None:
        me = self.directory.me
        if isinstance(message, Listing):
            self.directory.listed(sender, message, now)
            for guest in message.guests:
                if guest.is_executing and self._starts.get(guest.uuid, (0, 0.0))[0] == sender:
                    del self._starts[guest.uuid]  # from now on what it tells says where it runs
        elif isinstance(message, Sight):
            self.directory.told_sight(sender, message)
        elif isinstance(message, Missing):
            self.directory.take_missing(sender, message, now)
        elif isinstance(message, Lasts):
            self.directory.take_lasts(message.lasts)
        elif isinstance(message, Query):
            self._effects.append(LookHere(sender, message.seqno, message.target, message.is_for_start))
        elif isinstance(message, Report) and message.asker == me:
            self._runs.reported(sender, message, now)
        elif isinstance(message, Order):
            self._received_order(sender, message, now)
        elif isinstance(message, Result) and message.asker == me:
            self._runs.resulted(sender, message, now)

    def _received_order(self, sender: int, order: Order, now: float) -> None:
        """Take an order to any host: all get them in the same order, so that of two starts the first alone counts."""
        refusal = ""
        if order.action not in (Action.OFF, Action.ON, Action.REBOOT):
            refusal = f"action {order.action} is not known here"
        elif order.action != Action.OFF:
            self._starts = {uuid: each for uuid, each in self._starts.items() if now < each[1] + START_S}
            untold = self._ungreeted(now)
            first, _ = self._starts.setdefault(order.uuid, (order.node, now))
            if first != order.node:
                refusal = f"{f'host {first}' if first else 'another host'} was told to start it a moment ago"
            elif untold:
                refusal = f"host {min(untold)} has not told what was started, since it or this one joined a moment ago"
            elif others := self.directory.executing_at(order.uuid).keys() - {order.node}:
                refusal = f"host {min(others)} has told that it runs there"
        if order.node != self.directory.me:
            return
        if refusal:
            self._send(Result(sender, order.seqno, Code.FAILURE, refusal))
        else:
            self._effects.append(Act(sender, order.seqno, Action(order.action), order.uuid, order.until_s))

    def _ungreeted(self, now: float) -> list[int]:
        """Return the members of which it is not known yet whether they are fence_virtd; the others told of starts."""
        directory = self.directory
        return [
            node
            for node in directory.members - {directory.me}
            if not directory.hosts[node].is_ours and not directory.is_reference(node, now)
        ]

    def _serve(self, found: Unanswered, now: float) -> None:
        """Answer a request of fence_virtd's."""
        request = found.request
        token = ("reference", found.asker, request, self._runs.next_seqno())
        self.begin(token, serve_reference(request.action, request.target), found.deadline, now)

    def _reply(self, asker: int, request: Request, code: int) -> None:
        self._send(Reply(request.seqno, asker, code, request.target, request.action, request.client_seqno))

    def _ended(self, token: Token, result: Any, error: VmfenceError | None) -> None:
        """Give the end of a procedure to who asked for it."""
        if token[0] != "reference":
            self._effects.append(Done(token, result, error))
            return
        _, asker, request, _ = token
        if asker in self.directory.members:
            code = Code.FAILURE if error is not None else result.code
            self._reply(asker, request, code)
