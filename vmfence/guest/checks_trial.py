"""Checks of a real request, step by step: sent, heard, called back, both proofs, answered.  Pure.

One step fails at most: what comes after it cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotAsked
from vmfence.guest.dissection import Call, End, Stage
from vmfence.guest.facts import Facts
from vmfence.guest.progress import (
    FAILED,
    WEAK,
    Step,
    unless,
    unless_agreed,
    unless_called_back,
    unless_connected,
    unless_dissected,
    unless_proven,
)
from vmfence.guest.trial import Trial
from vmfence.protocol.auth import Hash
from vmfence.protocol.reply import Code

_ON_HOST = "on the host: vmfence host check"


def _untried(facts: Facts) -> Iterator[Fault]:
    error: object = facts.trial
    if isinstance(error, VmfenceError) and not isinstance(error, NotAsked):
        yield Fault(ERROR, str(facts.inquiry), error.what, error.why, error.remedy)


def _unsent(facts: Facts) -> Iterator[Fault]:
    copies = facts.trial.copies
    failed = [one for one in copies if one.error]
    severity = ERROR if len(failed) == len(copies) or not _outside(copies_sent(facts.trial)) else NOTE
    for one in failed:
        message = f"a request cannot be sent by {one.interface}"
        remedy = f"see ip route, and whether a firewall stops what leaves: UDP {facts.inquiry.port}"
        if not facts.trial.is_answered or severity is NOTE:
            yield Fault(severity, one.address, message, one.error, remedy)


def copies_sent(trial: Trial) -> list[str]:
    """Return the addresses from which a copy of the request left."""
    return [one.address for one in trial.copies if not one.error]


def _outside(addresses: list[str]) -> list[str]:
    return [one for one in addresses if not one.startswith("127.")]


def _unreachable(facts: Facts) -> Iterator[Fault]:
    error = facts.trial.failure
    if error is not None:
        yield Fault(ERROR, str(facts.inquiry), f"the host is not reached: {error.what}", error.why, error.remedy)


def _unheard(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    sent = _outside(copies_sent(trial))
    if trial.calls or trial.knocks or not sent:
        return
    message = (
        "no host reacted: its daemon does not run or not on this guest's bridge, or its firewall stops "
        f"UDP {facts.inquiry.port}, or its key is another one, or it demands another hash"
    )
    seen = f"sent from {', '.join(sent)} for {trial.seconds:.0f} s, with hashes up to {trial.hash_name}; "
    if trial.knocks is None:
        seen += "no call-back came in (whether one was stopped by this machine's firewall only root can see)"
    else:
        seen += f"nobody knocked at TCP {trial.port} of this machine"
    yield Fault(ERROR, str(facts.inquiry), message, seen, _compare(facts))


def _compare(facts: Facts) -> str:
    known: object = facts.key
    if isinstance(known, VmfenceError):
        return _ON_HOST
    return f"{_ON_HOST}; compare its key with the one here: sha256 {facts.key.fingerprint}"


def _blocked(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    if trial.calls or not trial.knocks or _firewall_explains(facts):
        return
    strict = [one for one in facts.callable if one.rp_filter == 1] if not isinstance(facts.addresses, Exception) else []
    message = "a host calls back and is not let in: this machine's firewall drops the connection"
    remedy = f"let in TCP {trial.port}: firewall-cmd --permanent --add-port={trial.port}/tcp && firewall-cmd --reload"
    if strict:
        message += ", or its strict reverse path filter does"
        remedy += f"; or sysctl net.ipv4.conf.{strict[0].interface}.rp_filter=2"
    yield Fault(ERROR, f"TCP {trial.port}", message, f"{', '.join(trial.knocks)} knocked, nothing arrived", remedy)


def _firewall_explains(facts: Facts) -> bool:
    found: object = facts.firewall
    return not isinstance(found, VmfenceError) and bool(facts.firewall.commands or facts.firewall.rules)


def _furthest(trial: Trial) -> Call | None:
    """Return the conversation that tells why there is no answer: that which came furthest; None when there is one."""
    if trial.is_answered or not trial.calls:
        return None
    order = [End.SILENT, End.CLOSED, End.UNPROVEN, End.ANSWERED]
    return max(trial.calls, key=lambda call: (call.stage, bool(call.host_auth), order.index(call.end)))


def _failing(judge: Callable[[Facts, Call], Iterator[Fault]]) -> Callable[[Facts], Iterator[Fault]]:
    """Return the rule that lets *judge* look at the conversation that should have brought the answer."""

    def rule(facts: Facts) -> Iterator[Fault]:
        call = _furthest(facts.trial)
        if call is not None:
            yield from judge(facts, call)

    return rule


def _auth_differs(facts: Facts, call: Call) -> Iterator[Fault]:
    if call.host_auth:
        message = f"host and guest differ in auth: the host has {call.host_auth}, this guest {facts.inquiry.auth_name}"
        theirs = "sha256" if call.host_auth == "not none" else call.host_auth
        remedy = f'set auth={theirs} in the fence device, or auth = "{facts.inquiry.auth_name}" on the host'
        yield Fault(ERROR, call.peer, message, _seen(call), remedy)


def _unproven(facts: Facts, call: Call) -> Iterator[Fault]:
    if call.end is End.UNPROVEN and not call.host_auth:
        message = "the host could not prove our key: it has another one"
        yield Fault(ERROR, call.peer, message, _seen(call), _compare(facts))


def _refused(facts: Facts, call: Call) -> Iterator[Fault]:
    reason = call.reason
    if reason is not None and reason.what not in (WEAK, FAILED):
        yield Fault(ERROR, call.peer, f"the host refuses our request: {reason.what}", reason.why, reason.remedy)
    elif call.end is End.CLOSED and not call.host_auth:
        step = "after our proof of the key" if call.stage > Stage.CONNECTED else "instead of proving the key"
        message = "the host refuses our request without a word: another key, a stronger hash demanded, or auth"
        yield Fault(ERROR, call.peer, message, f"it closed the connection {step}", _compare(facts))


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


def _unanswered(facts: Facts, call: Call) -> Iterator[Fault]:
    if call.end is End.SILENT and not call.host_auth:
        if call.stage is Stage.WE_PROVEN:
            message = "the host has proven the key, and then said nothing: its hypervisor may not answer it"
        else:
            message = "somebody connected, and did not go on with the conversation"
        yield Fault(ERROR, call.peer, message, _seen(call), _ON_HOST)


def _failed(facts: Facts, call: Call) -> Iterator[Fault]:
    is_told = call.reason is not None and call.reason.what != FAILED
    if call.end is End.ANSWERED and not is_told:
        why = call.reason.why if call.reason is not None else f"it answered {call.code}"
        yield Fault(ERROR, call.peer, "the host hears us, and says that it cannot fence", why, _ON_HOST)


def _seen(call: Call) -> str:
    steps = {
        Stage.CONNECTED: "it did not prove the key",
        Stage.HOST_PROVEN: "it proved the key",
        Stage.WE_PROVEN: "both sides proved the key",
        Stage.ANSWERED: "it answered",
    }
    return f"{steps[call.stage]}; the conversation ended: {call.end.value}"


def _peers(trial: Trial) -> str:
    return ", ".join(dict.fromkeys([*(call.peer for call in trial.calls), *(trial.knocks or ())]))


def _partly(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    if trial.is_answered:
        for call in trial.answers:
            if call.code != Code.SUCCESS:
                why = call.reason.why if call.reason is not None else f"it answered {call.code}"
                message = "one host hears us and cannot fence, while another can: whoever is first decides"
                yield Fault(WARNING, call.peer, message, why, _ON_HOST)


def _hosts_unread(facts: Facts) -> Iterator[Fault]:
    error: object = facts.hosts
    if isinstance(error, VmfenceError) and not isinstance(error, NotAsked):
        message = f"the host answers, and does not list its guests: {error.what}"
        yield Fault(ERROR, str(facts.inquiry), message, error.why, error.remedy or _ON_HOST)


def _hosts_differ(facts: Facts) -> Iterator[Fault]:
    shown = {frozenset(guest.uuid for guest in host.guests) for host in facts.hosts}
    if len(shown) > 1:
        message = (
            "several hosts answer, with different guests: the first to call back decides, and may not have the one"
        )
        seen = "; ".join(f"{host.peer}: {len(host.guests)} guests" for host in facts.hosts)
        remedy = "give each host an address, a port or a key of its own, or join them with the cpg backend"
        yield Fault(ERROR, f"{len(facts.hosts)} hosts", message, seen, remedy)


def _no_guests(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        if not host.guests:
            message = "the host shows this machine no guest at all, so nothing could be fenced"
            remedy = f"{_ON_HOST}: its access rules may not name this machine, or its libvirt URI has no guests"
            yield Fault(ERROR, host.peer, message, "an empty list", remedy)


CHECKS = (
    Check(
        "guest-untried",
        "a request can be made",
        "A request of the kind that Pacemaker makes to monitor a device. It acts on nothing.",
        _untried,
        reads="trial",
    ),
    Check(
        "guest-not-sent",
        "the request leaves this machine",
        "By multicast one copy leaves from every address. No multicast route is needed for that.",
        _unsent,
        needs=("trial",),
        doubt=unless_called_back(Step.SENT),
    ),
    Check(
        "guest-unreachable",
        "the host is reached",
        "By TCP and vsock this machine connects to the daemon; serial lines and channels lead to it.",
        _unreachable,
        needs=("trial",),
        doubt=unless_connected,
    ),
    Check(
        "guest-not-heard",
        "a host hears the request and calls back",
        "A host that accepts a request connects to this machine by TCP. One that does not accept it stays silent by "
        "design, so from here several causes look the same; vmfence host check tells them apart. When nobody is heard "
        "the request is also made with stronger hashes.",
        _unheard,
        needs=("trial",),
        doubt=unless_called_back(Step.HEARD),
    ),
    Check(
        "guest-call-back-blocked",
        "the host's call-back comes in",
        "The call-back is watched for below this machine's firewall, which needs root. It was seen to arrive, and no "
        "connection came of it.",
        _blocked,
        needs=("trial",),
        doubt=unless_called_back(Step.CONNECTED),
    ),
    Check(
        "guest-hash-weak",
        "the host accepts our hash",
        "A host demands a least strength of the signature and is silent otherwise. Daemons of vmfence tell who has "
        "the key; of others it is known by trying stronger ones.",
        _hash_weak,
        needs=("trial",),
        doubt=unless_dissected(Step.ANSWERED),
    ),
    Check(
        "guest-auth-differs",
        "host and guest have the same auth setting",
        "It is never sent, so both sides must be set alike. A daemon without auth carries out a request whose answer "
        "this side cannot read.",
        _failing(_auth_differs),
        needs=("trial",),
        doubt=unless_agreed,
    ),
    Check(
        "guest-host-unproven",
        "the host proves that it has our key",
        "Its answer to our challenge is made with the key. A wrong one means another key.",
        _failing(_unproven),
        needs=("trial",),
        doubt=unless_proven,
    ),
    Check(
        "guest-refused",
        "the host accepts our request",
        "Daemons of vmfence tell the reason to who has proven the key; others only close the connection.",
        _failing(_refused),
        needs=("trial",),
        doubt=unless(Step.ANSWERED),
    ),
    Check(
        "guest-not-answered",
        "the host answers",
        "After both proofs the daemon asks its hypervisor. When libvirt hangs it cannot answer in time.",
        _failing(_unanswered),
        needs=("trial",),
        doubt=unless(Step.ANSWERED),
    ),
    Check(
        "guest-failed",
        "the host says that it can fence",
        "Daemons of vmfence answer a monitor request by asking their hypervisor. A failure means that they cannot "
        "reach it; fence_virtd does not ask.",
        _failing(_failed),
        needs=("trial",),
        doubt=unless(Step.WORKS),
    ),
    Check(
        "guest-one-host-failed",
        "every host that answers can fence",
        "Of several hosts the fastest answer counts, also when it is a failure.",
        _partly,
        needs=("trial",),
        doubt=unless_called_back(Step.WORKS),
    ),
    Check(
        "guest-hosts-unread",
        "hosts list their guests",
        "After monitor they are asked for their guests, which needs their libvirt.",
        _hosts_unread,
        reads="hosts",
    ),
    Check(
        "guest-hosts-differ",
        "one host answers, or several that agree",
        "With the libvirt backend each host knows its own guests alone, hears the requests for all, and may be first "
        "to answer that it could not do it, or that a guest is off.",
        _hosts_differ,
        needs=("hosts",),
    ),
    Check(
        "guest-no-guests",
        "the host shows this machine guests",
        "Access rules that name another address, a libvirt URI without guests, or guests of a user's session.",
        _no_guests,
        needs=("hosts",),
    ),
)
