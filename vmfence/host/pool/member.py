"""One host as a member of its pool: messages, changes and time go in, effects come out.

Pure: no socket, clock or libvirt.  The daemon (pool.py) and simulations feed it alike and carry its effects out.  *now*
is the monotonic clock, *wall* the wall clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmfence.errors import DeadlineExceeded, Unreachable, VmfenceError
from vmfence.host.pool.directory import GREETING_S, Directory
from vmfence.host.pool.effects import Act, Done, Effect, FindFenced, LookHere, ReadGuests, Send, Token
from vmfence.host.pool.look import PROBE_S, Look, Probe
from vmfence.host.pool.messages import (
    LISTED_MAX,
    Entry,
    Hello,
    Listing,
    Message,
    Order,
    Query,
    Report,
    Result,
)
from vmfence.host.pool.procedure import AskAll, AskFenced, AskReference, Command, Outcome, Steps, serve_reference
from vmfence.protocol.cpg import Reply, Request, Store
from vmfence.protocol.reply import Code
from vmfence.protocol.request import Action

# A request of fence_virtd's has no deadline; its client has long given up then.
REFERENCE_S = 28.0
_SEQNO_MAX = 0x7FFFFFFF
# The answer to an order has to come back, and all hosts are asked once more.
_AFTER_S = 2.0


@dataclass
class _Run:
    """A procedure under way, and what it waits for: a look, or an answer to *seqno* from *node* until *limit*."""

    steps: Steps
    deadline: float
    look: Look | None = None
    seqno: int = 0
    node: int = 0
    limit: float = 0.0
    is_reference: bool = False


class Member:
    """The state of one host.  Take its effects after every input."""

    def __init__(self, directory: Directory, first_seqno: int) -> None:
        """*first_seqno* must differ from those of the run before, whose answers may still come."""
        self.directory = directory
        self.effects: list[Effect] = []
        self._seqno = first_seqno & _SEQNO_MAX
        self._mine: dict[str, Entry] | None = None
        self._number = 0
        self._departed: set[str] = set()
        self._before: dict[str, Entry] = {}
        self._runs: dict[Token, _Run] = {}
        self._by_seqno: dict[int, Token] = {}
        self._probes: dict[int, tuple[Token, Probe]] = {}
        self._retell_at: float | None = None
        self._has_references = False

    def take(self) -> list[Effect]:
        """Return what is to be done, in this order."""
        effects, self.effects = self.effects, []
        return effects

    # What happens outside

    def joined_group(self, me: int) -> None:
        """The group was joined; its members are told by members_changed()."""
        self.directory.me = me
        own = self.directory.hosts.get(me)
        self._before = dict(own.guests) if own is not None else {}
        self._departed |= {uuid for uuid, entry in self._before.items() if entry.moved}
        self._compare_with_before()

    def left_group(self, why: str, now: float, wall: float) -> None:
        """Corosync is gone: nobody can be asked."""
        self.directory.set_members(frozenset(), now, wall)
        self.directory.me = 0
        self.directory.set_quorate(False)
        for token in list(self._runs):
            self._end(token, error=Unreachable("the other hosts of the pool cannot be asked", why))

    def members_changed(self, members: frozenset[int], now: float, wall: float) -> None:
        """Corosync tells who is in the group."""
        left = self.directory.members - members
        joined = self.directory.set_members(members, now, wall)
        if joined:
            self._send(Hello())
            self._tell_all()
            self.effects.append(ReadGuests())
            # Who does not greet by then is fence_virtd, and wants to be told in its own words.
            self._retell_at = now + GREETING_S
        for token, run in list(self._runs.items()):
            if run.look is not None and (joined or left):
                # What was answered before says nothing of a guest that moves between those who come and go.
                self._begin_step(token, run, AskAll(run.look.target, run.look.is_for_start), now)
            elif run.node in left and not run.is_reference:
                self._go_on(token, Outcome(Code.FAILURE, "the host has left the group"), now)
            elif run.node in left:
                self._go_on(token, None, now)
        self.tick(now)

    def quorum_changed(self, is_quorate: bool) -> None:
        """Corosync tells whether this side has the votes to decide."""
        self.directory.set_quorate(is_quorate)

    def received(self, sender: int, message: Message, now: float) -> None:
        """Take a message of the group."""
        if sender not in self.directory.members:
            return  # of who has just left: nobody acts on that any more
        self.directory.deliveries += 1
        if isinstance(message, Store):
            self.directory.stored(sender, message, now)
        elif isinstance(message, Request):
            self._received_request(sender, message, now)
        elif isinstance(message, Reply):
            self._received_reply(sender, message, now)
        else:
            self.directory.greeted(sender)
            self._received_own(sender, message, now)

    def guests_read(self, guests: Iterable[Entry]) -> None:
        """Take the guests of this host as libvirt has them, and tell the others what changed."""
        found = {guest.uuid: self._recall(guest) for guest in guests}
        before, self._mine = self._mine, found
        if not self.directory.me:
            return
        self._compare_with_before()
        if before is None:
            self._tell_all()
            return
        changed = [guest for uuid, guest in found.items() if before.get(uuid) != guest]
        gone = [uuid for uuid in before if uuid not in found]
        for start in range(0, max(len(changed), len(gone)), LISTED_MAX):
            end = start + LISTED_MAX
            self._number += 1
            self._send(Listing(tuple(changed[start:end]), tuple(gone[start:end]), number=self._number))
        if self._retell_at is None and self._has_references:
            self._tell_references(changed)

    def looked(self, effect: LookHere, guests: Sequence[Entry], trouble: str, now: float) -> None:
        """Take the answer to LookHere: what libvirt has, or why that cannot be told."""
        if effect.asker in self.directory.members:
            target = effect.target
            away, last = self.directory.away(target), self.directory.last_active(target)
            found = tuple(map(self._recall, guests))
            self._send(Report(effect.asker, effect.seqno, found, now, trouble, away, last))

    def acted(self, effect: Act, outcome: Outcome) -> None:
        """Take how an Act ended."""
        if effect.asker in self.directory.members:
            self._send(Result(effect.asker, effect.seqno, int(outcome.code), outcome.detail))

    def fenced_found(self, token: Token, fenced: frozenset[int], now: float) -> None:
        """Take the answer to FindFenced."""
        if token in self._runs:
            self._go_on(token, fenced, now)

    def begin(self, token: Token, steps: Steps, deadline: float, now: float) -> None:
        """Start a procedure; Done comes at *deadline* at the latest."""
        if not self.directory.me or self.directory.me not in self.directory.members:
            error = Unreachable("the other hosts of the pool cannot be asked", "this host is not in Corosync's group")
            self.effects.append(Done(token, error=error))
            return
        self._runs[token] = _Run(steps, deadline)
        self._go_on(token, None, now)

    def tick(self, now: float) -> None:
        """Let time pass."""
        if self._retell_at is not None and now >= self._retell_at:
            self._retell_at = None
            self._has_references = bool(self.directory.references(now))
            if self._has_references:
                self._tell_references(list((self._mine or {}).values()))
        for token, run in list(self._runs.items()):
            if run.look is not None:
                self._tick_look(token, run.look, now)
            elif run.is_reference and now >= run.limit:
                self._go_on(token, None, now)
            if self._runs.get(token) is run and now >= run.deadline:
                self._end(token, error=DeadlineExceeded("the pool did not answer in time", "a host is silent"))

    def is_waiting(self) -> bool:
        """Whether tick() is needed soon."""
        return bool(self._runs) or self._retell_at is not None

    # Telling

    def _recall(self, guest: Entry) -> Entry:
        """Return *guest*, migrated away until it is active here again: libvirt forgets that when it restarts."""
        if guest.is_active:
            self._departed.discard(guest.uuid)
        elif guest.moved:
            self._departed.add(guest.uuid)
        elif guest.uuid in self._departed:
            return replace(guest, moved=True)
        return guest

    def _compare_with_before(self) -> None:
        """Look, once, which of the guests of an earlier run are gone: undefined, or migrated away unseen."""
        if self._mine is not None:
            for uuid in self._before.keys() - self._mine.keys():
                self.directory.lost_track(uuid)
            self._before = {}

    def _send(self, message: Message) -> None:
        self.effects.append(Send(message))

    def _tell_all(self) -> None:
        """Tell of all our guests, in our words."""
        if self._mine is None:
            return
        guests = list(self._mine.values())
        for start in range(0, max(1, len(guests)), LISTED_MAX):
            part = tuple(guests[start : start + LISTED_MAX])
            self._send(Listing(part, (), start == 0, start + LISTED_MAX >= len(guests), self._number))

    def _tell_references(self, guests: Iterable[Entry]) -> None:
        for guest in guests:
            self._send(Store(guest.name, guest.uuid, self.directory.me, guest.state))

    # Messages

    def _received_own(self, sender: int, message: Message, now: float) -> None:
        me = self.directory.me
        if isinstance(message, Listing):
            self.directory.listed(sender, message, now)
        elif isinstance(message, Query):
            self.effects.append(LookHere(sender, message.seqno, message.target, message.is_for_start))
        elif isinstance(message, Report) and message.asker == me:
            self._received_report(sender, message, now)
        elif isinstance(message, Order) and message.node == me:
            self._received_order(sender, message)
        elif isinstance(message, Result) and message.asker == me:
            token = self._by_seqno.get(message.seqno, ())
            run = self._runs.get(token)
            if run is not None and run.node == sender and not run.is_reference:
                code = Code.SUCCESS if message.code == Code.SUCCESS else Code.FAILURE
                self._go_on(token, Outcome(code, message.detail), now)

    def _received_report(self, sender: int, report: Report, now: float) -> None:
        token = self._by_seqno.get(report.seqno, ())
        run = self._runs.get(token)
        if run is not None and run.look is not None:
            self.directory.see(sender, report.guests, now)
            run.look.reported(sender, report, now)
            self._tick_look(token, run.look, now)

    def _received_order(self, sender: int, order: Order) -> None:
        if order.action in (Action.OFF, Action.ON, Action.REBOOT):
            action = Action(order.action)
            self.effects.append(Act(sender, order.seqno, action, order.uuid, order.until_s))
        else:
            self._send(Result(sender, order.seqno, Code.FAILURE, f"action {order.action} is not known here"))

    def _received_request(self, sender: int, request: Request, now: float) -> None:
        if sender == self.directory.me:
            if request.seqno in self._probes:
                self._probes[request.seqno][1].stamp = self.directory.deliveries
            return
        # One of ours asks so only because it means fence_virtd.
        if not self.directory.hosts[sender].is_ours and self._is_mine_to_answer(request.target, now):
            token = ("reference", sender, request, self._next_seqno())
            self.begin(token, serve_reference(request.action, request.target), now + REFERENCE_S, now)

    def _is_mine_to_answer(self, target: str, now: float) -> bool:
        """Whether this host is the one of ours that answers fence_virtd: exactly one, or it waits for ever."""
        directory = self.directory
        holders = [node for node in directory.holders(target) if directory.hosts[node].is_ours]
        if holders:
            last = directory.last_active(target)
            return directory.me == (last if last in holders else holders[0])
        owner = directory.owner_told(target)
        if owner is not None:
            return owner == directory.me
        return not directory.holders(target) and directory.me == max(directory.members)

    def _received_reply(self, sender: int, reply: Reply, now: float) -> None:
        if reply.asker != self.directory.me:
            return
        if reply.seqno in self._probes:
            token, probe = self._probes[reply.seqno]
            if probe.node == sender and probe.stamp is not None:
                del self._probes[reply.seqno]
                self._probed(token, probe, now)
            return
        token = self._by_seqno.get(reply.seqno, ())
        run = self._runs.get(token)
        # Another host with fence_virtd answers "off" for guests that it does not know.
        if run is not None and run.is_reference and run.node == sender:
            self._go_on(token, reply.code, now)

    # Procedures

    def _next_seqno(self) -> int:
        self._seqno = self._seqno % _SEQNO_MAX + 1
        return self._seqno

    def _go_on(self, token: Token, answer: Any, now: float) -> None:
        """Give a procedure what it waits for, and begin its next step."""
        run = self._runs[token]
        run.look, run.node, run.is_reference = None, 0, False
        try:
            step = run.steps.send(answer)
        except StopIteration as ended:
            self._end(token, ended.value)
        except VmfenceError as error:
            self._end(token, error=error)
        else:
            self._begin_step(token, run, step, now)

    def _begin_step(self, token: Token, run: _Run, step: Any, now: float) -> None:
        if isinstance(step, AskFenced):
            self.effects.append(FindFenced(token, step.hosts))
            return
        self._by_seqno.pop(run.seqno, None)
        run.seqno = self._next_seqno()
        self._by_seqno[run.seqno] = token
        if isinstance(step, AskAll):
            run.look = Look(step.target, step.is_for_start, now, run.deadline)
            self._send(Query(run.seqno, step.target, step.is_for_start))
            for node in self.directory.members:
                self._probe_or_wait(token, run.look, node, now)
        elif isinstance(step, Command):
            run.node = step.node
            self._send(Order(step.node, run.seqno, step.action, step.uuid, run.deadline - _AFTER_S + step.offset_s))
        elif isinstance(step, AskReference):
            run.node, run.is_reference = step.node, True
            run.limit = run.deadline if step.limit_s is None else min(run.deadline, now + step.limit_s)
            self._send(Request(run.seqno, step.target, step.action))
        if run.node and run.node not in self.directory.members:
            gone = None if run.is_reference else Outcome(Code.FAILURE, "the host has left the group")
            self._go_on(token, gone, now)

    def _end(self, token: Token, result: Any = None, error: VmfenceError | None = None) -> None:
        run = self._runs.pop(token)
        self._by_seqno.pop(run.seqno, None)
        self._probes = {seqno: each for seqno, each in self._probes.items() if each[0] != token}
        run.steps.close()
        if token[0] != "reference":
            self.effects.append(Done(token, result, error))
            return
        _, asker, request, _ = token
        if asker in self.directory.members:
            code = Code.FAILURE if error is not None else result.code
            self._send(Reply(request.seqno, asker, code, request.target, request.action, request.client_seqno))

    # Looks

    def _tick_look(self, token: Token, look: Look, now: float) -> None:
        for node in look.waiting(self.directory) - look.probes.keys():
            self._probe_or_wait(token, look, node, now)
        for probe in list(look.probes.values()):
            if probe.node not in look.told and probe.node not in look.mute and now >= probe.sent_at + PROBE_S:
                self._probe(token, look, probe, now)
        if look.is_over(self.directory, now):
            self._go_on(token, look.view(self.directory, now), now)

    def _probe_or_wait(self, token: Token, look: Look, node: int, now: float) -> None:
        """Ask *node* in fence_virtd's way if it is that; ours have the Query."""
        if node not in look.probes and self.directory.is_reference(node, now):
            look.probes[node] = Probe(node)
            self._probe(token, look, look.probes[node], now)

    def _probe(self, token: Token, look: Look, probe: Probe, now: float) -> None:
        self._probes.pop(probe.seqno, None)
        text = probe.next_text(self.directory.hosts[probe.node], look.target)
        if text is None:
            look.mute[probe.node] = "it runs fence_virtd, and does not answer"
            return
        probe.seqno, probe.sent_at, probe.stamp = self._next_seqno(), now, None
        self._probes[probe.seqno] = token, probe
        self._send(Request(probe.seqno, text, Action.STATUS))

    def _probed(self, token: Token, probe: Probe, now: float) -> None:
        run = self._runs.get(token)
        if run is None or run.look is None or run.look.probes.get(probe.node) is not probe:
            return
        assert probe.stamp is not None
        self.directory.keep_since(probe.node, probe.stamp)
        found = self.directory.hosts[probe.node].find(run.look.target)
        run.look.told[probe.node] = () if found is None else (found,)
        self._tick_look(token, run.look, now)
