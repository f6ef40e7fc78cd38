"""Checks of the conversation that should have brought the answer: proofs of the key, and what the host says.  Pure.

Of several conversations the one that came furthest tells why there is no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

from vmfence.findings import ERROR, WARNING, Check, Fault
from vmfence.guest.checks_trial import ON_HOST, compare
from vmfence.guest.dissection import Call, End, Stage
from vmfence.guest.facts import Facts
from vmfence.guest.progress import (
    FAILED,
    WEAK,
    Doubt,
    Step,
    unless,
    unless_agreed,
    unless_called_back,
    unless_dissected,
    unless_proven,
)
from vmfence.guest.trial import Trial
from vmfence.protocol.auth import Hash
from vmfence.protocol.reply import Code


def _hash_weak(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    ours = facts.inquiry.hash_name
    told = [call for call in trial.answers if call.reason is not None and call.reason.what == WEAK]
    is_harder = Hash.named(trial.hash_name) is not Hash.named(ours) and bool(trial.calls or trial.knocks)
    if is_harder and not told:
        message = f"the host does not hear requests signed with {ours}, and hears {trial.hash_name}"
        yield Fault(ERROR, _peers(trial), message, "", f"set hash={trial.hash_name} in the fence device")
    elif told and not trial.is_answered:
        reason = told[0].reason
        assert reason is not None
        stronger = next((str(one) for one in Hash if f"at least {one} " in f"{reason.why} "), "sha256")
        message = "the host demands a stronger hash than ours"
        yield Fault(ERROR, told[0].peer, message, reason.why, f"set hash={stronger} in the fence device")


def _peers(trial: Trial) -> str:
    return ", ".join(dict.fromkeys([*(call.peer for call in trial.calls), *(trial.knocks or ())]))


def _furthest(trial: Trial) -> Call | None:
    """Return the conversation that tells why there is no answer: that which came furthest; None when there is one."""
    if trial.is_answered or not trial.calls:
        return None
    order = [End.SILENT, End.CLOSED, End.UNPROVEN, End.ANSWERED]
    return max(trial.calls, key=lambda call: (call.stage, bool(call.host_auth), order.index(call.end)))


def _auth_differs(facts: Facts, call: Call) -> Iterator[Fault]:
    if call.host_auth:
        message = f"host and guest differ in auth: the host has {call.host_auth}, this guest {facts.inquiry.auth_name}"
        theirs = "sha256" if call.host_auth == "not none" else call.host_auth
        remedy = f'set auth={theirs} in the fence device, or auth = "{facts.inquiry.auth_name}" on the host'
        yield Fault(ERROR, call.peer, message, _seen(call), remedy)


def _unproven(facts: Facts, call: Call) -> Iterator[Fault]:
    if call.end is End.UNPROVEN and not call.host_auth:
        message = "the host could not prove our key: it has another one"
        yield Fault(ERROR, call.peer, message, _seen(call), compare(facts))


def _refused(facts: Facts, call: Call) -> Iterator[Fault]:
    reason = call.reason
    if reason is not None and reason.what not in (WEAK, FAILED):
        yield Fault(ERROR, call.peer, f"the host refuses our request: {reason.what}", reason.why, reason.remedy)
    elif call.end is End.CLOSED and not call.host_auth:
        step = "after our proof of the key" if call.stage > Stage.CONNECTED else "instead of proving the key"
        message = "the host refuses our request without a word: another key, a stronger hash demanded, or auth"
        yield Fault(ERROR, call.peer, message, f"it closed the connection {step}", compare(facts))


def _unanswered(facts: Facts, call: Call) -> Iterator[Fault]:
    if call.end is End.SILENT and not call.host_auth:
        if call.stage is Stage.WE_PROVEN:
            message = "the host has proven the key, and then said nothing: its hypervisor may not answer it"
        else:
            message = "somebody connected, and did not go on with the conversation"
        yield Fault(ERROR, call.peer, message, _seen(call), ON_HOST)


def _failed(facts: Facts, call: Call) -> Iterator[Fault]:
    is_told = call.reason is not None and call.reason.what != FAILED
    if call.end is End.ANSWERED and not is_told:
        why = call.reason.why if call.reason is not None else f"it answered {call.code}"
        yield Fault(ERROR, call.peer, "the host hears us, and says that it cannot fence", why, ON_HOST)


def _seen(call: Call) -> str:
    steps = {
        Stage.CONNECTED: "it did not prove the key",
        Stage.HOST_PROVEN: "it proved the key",
        Stage.WE_PROVEN: "both sides proved the key",
        Stage.ANSWERED: "it answered",
    }
    return f"{steps[call.stage]}; the conversation ended: {call.end.value}"


def _partly(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    if trial.is_answered:
        for call in trial.answers:
            if call.code != Code.SUCCESS:
                why = call.reason.why if call.reason is not None else f"it answered {call.code}"
                message = "one host hears us and cannot fence, while another can: whoever is first decides"
                yield Fault(WARNING, call.peer, message, why, ON_HOST)


def _check(code: str, title: str, story: str, judge: Callable[[Facts, Call], Iterator[Fault]], doubt: Doubt) -> Check:
    """Return the check that lets *judge* look at the conversation that should have brought the answer."""

    def rule(facts: Facts) -> Iterator[Fault]:
        call = _furthest(facts.trial)
        if call is not None:
            yield from judge(facts, call)

    return Check(code, title, story, rule, needs=("trial",), doubt=doubt)


CHECKS = (
    Check(
        "guest-hash-weak",
        "the host accepts our hash",
        "A host demands a least strength of the signature and is silent otherwise. Daemons of vmfence tell who has "
        "the key; of others it is known by trying stronger ones.",
        _hash_weak,
        needs=("trial",),
        doubt=unless_dissected(Step.ANSWERED),
    ),
    _check(
        "guest-auth-differs",
        "host and guest have the same auth setting",
        "It is never sent, so both sides must be set alike. A daemon without auth carries out a request whose answer "
        "this side cannot read.",
        _auth_differs,
        unless_agreed,
    ),
    _check(
        "guest-host-unproven",
        "the host proves that it has our key",
        "Its answer to our challenge is made with the key. A wrong one means another key.",
        _unproven,
        unless_proven,
    ),
    _check(
        "guest-refused",
        "the host accepts our request",
        "Daemons of vmfence tell the reason to who has proven the key; others only close the connection.",
        _refused,
        unless(Step.ANSWERED),
    ),
    _check(
        "guest-not-answered",
        "the host answers",
        "After both proofs the daemon asks its hypervisor. When libvirt hangs it cannot answer in time.",
        _unanswered,
        unless(Step.ANSWERED),
    ),
    _check(
        "guest-failed",
        "the host says that it can fence",
        "Daemons of vmfence answer a monitor request by asking their hypervisor. A failure means that they cannot "
        "reach it; fence_virtd does not ask.",
        _failed,
        unless(Step.WORKS),
    ),
    Check(
        "guest-one-host-failed",
        "every host that answers can fence",
        "Of several hosts the fastest answer counts, also when it is a failure.",
        _partly,
        needs=("trial",),
        doubt=unless_called_back(Step.WORKS),
    ),
)
