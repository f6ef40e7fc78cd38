"""Procedures under way: their steps become messages, and what is answered goes to the one that waits for it.

Pure.  A run waits for a look at all members, for one host's answer to an order or to a request of fence_virtd's, or for
who was fenced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Union

from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.effects import Effect, FindFenced, Send, Standing, Token
from vmfence.host.pool.look import PROBE_S, Look, Probe, situation, standing
from vmfence.host.pool.messages import Message, Order, Query, Report, Result
from vmfence.host.pool.procedure import AskAll, AskFenced, AskReference, Command, Outcome, Step, Steps
from vmfence.protocol.cpg import Reply, Request
from vmfence.protocol.reply import Code
from vmfence.protocol.request import Action

_SEQNO_MAX = 0x7FFFFFFF
# The answer to an order has to come back, and all hosts are asked once more.
_AFTER_S = 2.0
_LEFT = Outcome(Code.FAILURE, "the host has left the group")
Ended = Callable[[Token, Any, Union[VmfenceError, None]], None]


@dataclass
class Run:
    """A procedure, and what it waits for: a look, or an answer to *seqno* from *node* until *limit*.

    *is_stale*: the group has changed since it began to ask who was fenced.
    """

    steps: Steps
    deadline: float
    look: Look | None = None
    seqno: int = 0
    node: int = 0
    uuid: str = ""
    limit: float = 0.0
    is_reference: bool = False
    is_asking_fenced: bool = False
    is_stale: bool = False


class Runs:
    """All runs of one member."""

    def __init__(self, directory: Directory, effects: list[Effect], ended: Ended, first_seqno: int) -> None:
        """*ended* is told the result of each or its error; *first_seqno* must differ from those of the run before."""
        self._directory, self._effects, self._ended = directory, effects, ended
        self._seqno = first_seqno & _SEQNO_MAX
        self._runs: dict[Token, Run] = {}
        self._by_seqno: dict[int, Token] = {}
        self._probes: dict[int, tuple[Token, Probe]] = {}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def begin(self, token: Token, steps: Steps, deadline: float, now: float) -> None:
        """Start a procedure; it ends at *deadline* at the latest."""
        self._runs[token] = Run(steps, deadline)
        self._go_on(token, None, now)

    def next_seqno(self) -> int:
        """Return a number that no message of ours had."""
        self._seqno = self._seqno % _SEQNO_MAX + 1
        return self._seqno

    # What is answered

    def reported(self, sender: int, report: Report, now: float) -> None:
        """Take an answer to one of our questions."""
        token = self._by_seqno.get(report.seqno, ())
        run = self._runs.get(token)
        if run is not None and run.look is not None:
            self._directory.see(sender, report.guests, now)
            self._directory.take_lasts(report.lasts)
            run.look.reported(sender, report, now)
            self._tick_look(token, run.look, now)

    def resulted(self, sender: int, result: Result, now: float) -> None:
        """Take an answer to one of our orders."""
        token = self._by_seqno.get(result.seqno, ())
        run = self._runs.get(token)
        if run is not None and run.node == sender and not run.is_reference:
            code = Code.SUCCESS if result.code == Code.SUCCESS else Code.FAILURE
            self._go_on(token, Outcome(code, result.detail, result.ended), now)

    def replied(self, sender: int, reply: Reply, now: float) -> None:
        """Take an answer of fence_virtd to one of our requests."""
        if reply.seqno in self._probes:
            token, probe = self._probes[reply.seqno]
            if probe.node == sender and self._directory.is_asked(self._directory.me, reply.seqno):
                del self._probes[reply.seqno]
                self._probed(token, probe, now)
            return
        token = self._by_seqno.get(reply.seqno, ())
        run = self._runs.get(token)
        # Another host with fence_virtd answers "off" for guests that it does not know.
        if run is not None and run.is_reference and run.node == sender:
            code = {int(Code.SUCCESS): Code.SUCCESS, int(Code.OFF): Code.OFF}.get(reply.code, Code.FAILURE)
            told = self._directory.told_since(sender, run.uuid, self._directory.me, reply.seqno)
            self._go_on(token, Outcome(code, "", told.state if told is not None else 0), now)

    def fenced_found(self, token: Token, fenced: frozenset[int], now: float) -> None:
        """Take who was fenced since it left: who is up again is not down by that."""
        run = self._runs.get(token)
        if run is not None and run.is_asking_fenced:
            is_down = fenced - self._directory.awake() - self._directory.members
            self._go_on(token, None if run.is_stale else is_down, now)

    # What happens

    def group_changed(self, has_joined: bool, left: frozenset[int], now: float) -> None:
        """Members came or went."""
        for token, run in list(self._runs.items()):
            if run.look is not None and (has_joined or left):
                # What was answered before says nothing of a guest that moves between those who come and go.
                self._begin_step(token, run, AskAll(run.look.target, run.look.is_for_start), now)
            elif run.is_asking_fenced:
                run.is_stale = run.is_stale or has_joined or bool(left)
            elif run.node in left:
                self._go_on(token, None if run.is_reference else _LEFT, now)

    def end_all(self, error: VmfenceError) -> None:
        """End all with *error*."""
        for token in list(self._runs):
            self._end(token, error=error)

    def tick(self, now: float) -> None:
        """Let time pass."""
        for token, run in list(self._runs.items()):
            if run.look is not None:
                self._tick_look(token, run.look, now)
            elif run.is_reference and now >= run.limit:
                self._go_on(token, None, now)
            if self._runs.get(token) is run and now >= run.deadline:
                self._end(token, error=DeadlineExceeded("the pool did not answer in time", "a host is silent"))

    # Steps

    def _go_on(self, token: Token, answer: Any, now: float) -> None:
        """Give a procedure what it waits for, and begin its next step."""
        run = self._runs[token]
        run.look, run.node, run.is_reference = None, 0, False
        run.is_asking_fenced = run.is_stale = False
        try:
            step = run.steps.send(answer)
        except StopIteration as ended:
            self._end(token, ended.value)
        except VmfenceError as error:
            self._end(token, error=error)
        else:
            self._begin_step(token, run, step, now)

    def _begin_step(self, token: Token, run: Run, step: Step, now: float) -> None:
        if isinstance(step, (AskFenced, Command, AskReference)) and self._is_outdated(step.standing):
            self._go_on(token, None, now)
            return
        if isinstance(step, AskFenced):
            run.is_asking_fenced = True
            self._effects.append(FindFenced(token, step.hosts))
            return
        self._by_seqno.pop(run.seqno, None)
        run.seqno = self.next_seqno()
        self._by_seqno[run.seqno] = token
        if isinstance(step, AskAll):
            before = situation(self._directory, step.target)
            run.look = Look(step.target, step.is_for_start, now, run.deadline, before=before)
            self._send(Query(run.seqno, step.target, step.is_for_start), run.deadline)
            for node in self._directory.members:
                self._probe_or_wait(token, run.look, node, now)
        elif isinstance(step, Command):
            run.node = step.node
            until_s = run.deadline - _AFTER_S
            self._send(Order(step.node, run.seqno, step.action, step.uuid, until_s + step.offset_s), until_s)
        elif isinstance(step, AskReference):
            run.node, run.uuid, run.is_reference = step.node, step.uuid, True
            run.limit = run.deadline if step.limit_s is None else min(run.deadline, now + step.limit_s)
            self._send(Request(run.seqno, step.target, step.action), run.limit)
        if run.node and run.node not in self._directory.members:
            self._go_on(token, None if run.is_reference else _LEFT, now)

    def _is_outdated(self, known: Standing | None) -> bool:
        return known is not None and known != standing(self._directory, known.target)

    def _end(self, token: Token, result: Any = None, error: VmfenceError | None = None) -> None:
        run = self._runs.pop(token)
        self._by_seqno.pop(run.seqno, None)
        self._probes = {seqno: each for seqno, each in self._probes.items() if each[0] != token}
        run.steps.close()
        self._ended(token, result, error)

    def _send(self, message: Message, until_s: float) -> None:
        self._effects.append(Send(message, until_s))

    # Looks

    def _tick_look(self, token: Token, look: Look, now: float) -> None:
        for node in look.waiting(self._directory) - look.probes.keys():
            self._probe_or_wait(token, look, node, now)
        for probe in list(look.probes.values()):
            if probe.node not in look.told and probe.node not in look.mute and now >= probe.sent_at + PROBE_S:
                self._probe(token, look, probe, now)
        if look.is_over(self._directory, now):
            self._go_on(token, look.view(self._directory), now)

    def _probe_or_wait(self, token: Token, look: Look, node: int, now: float) -> None:
        """Ask *node* in fence_virtd's way if it is that; ours have the Query."""
        if node not in look.probes and self._directory.is_reference(node, now):
            look.probes[node] = Probe(node)
            self._probe(token, look, look.probes[node], now)

    def _probe(self, token: Token, look: Look, probe: Probe, now: float) -> None:
        self._probes.pop(probe.seqno, None)
        text = probe.next_text(self._directory.hosts[probe.node], look.target)
        if text is None:
            look.mute[probe.node] = "it runs fence_virtd, and does not answer"
            return
        probe.seqno, probe.sent_at = self.next_seqno(), now
        self._probes[probe.seqno] = token, probe
        self._send(Request(probe.seqno, text, Action.STATUS), look.deadline)

    def _probed(self, token: Token, probe: Probe, now: float) -> None:
        run = self._runs.get(token)
        if run is None or run.look is None or run.look.probes.get(probe.node) is not probe:
            return
        found = self._directory.hosts[probe.node].find(run.look.target)
        run.look.told[probe.node] = () if found is None else (found,)
        self._tick_look(token, run.look, now)
