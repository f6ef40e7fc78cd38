"""How far a question came: a step that nobody saw is not one that succeeded.  Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

from vmfence.errors import VmfenceError
from vmfence.findings import NotAsked, NotReached
from vmfence.guest.dissection import Call, Stage
from vmfence.guest.facts import Facts
from vmfence.guest.trial import DISSECTED, Trial
from vmfence.protocol.auth import Hash

Doubt = Callable[[Facts], "VmfenceError | None"]
# What our daemon says of a packet whose hash is weaker than it demands, and of one that it could not carry out.
WEAK, FAILED = "weak hash", "failed"
NOT_CALLED_BACK = NotAsked("hosts do not call back this way")
_NO_CONVERSATION = NotAsked("nothing is signed or proven this way")
_NO_AUTH = NotAsked("auth is none")
_NO_ADDRESS = NotReached("there is no address to call back")


class Step(enum.IntEnum):
    """The steps of a question, in their order; each was seen to succeed."""

    BEGUN = 0
    SENT = 1
    HEARD = 2  # a host called back, or tried to
    CONNECTED = 3
    PROVEN = 4  # the host has the key
    ANSWERED = 5  # our request was accepted
    WORKS = 6  # the host can fence


_ENDS_WITH = {
    Step.BEGUN: "the request did not reach any host",
    Step.SENT: "no host reacted to the request",
    Step.HEARD: "the host's call-back did not come in",
    Step.CONNECTED: "the host did not prove the key",
    Step.PROVEN: "the host did not accept the request, or did not answer",
    Step.ANSWERED: "the host answered that it cannot fence",
}


def progress(trial: Trial) -> Step:
    """Return the last step that was seen to succeed, with whichever host came furthest."""
    if trial.calls:
        return max(map(_step, trial.calls))
    if trial.knocks:
        return Step.HEARD
    return Step.SENT if any(not copy.error for copy in trial.copies) else Step.BEGUN


def _step(call: Call) -> Step:
    if call.stage is Stage.ANSWERED:
        if call.code == 0:
            return Step.WORKS
        is_refused = call.reason is not None and call.reason.what != FAILED
        return Step.PROVEN if is_refused else Step.ANSWERED
    return Step.CONNECTED if call.stage is Stage.CONNECTED else Step.PROVEN


def unless(step: Step) -> Doubt:
    """Return the doubt of a check that holds once *step* was seen."""

    def doubt(facts: Facts) -> VmfenceError | None:
        reached = progress(facts.trial)
        return None if reached >= step else NotReached(_ENDS_WITH[reached])

    return doubt


def unless_called_back(step: Step) -> Doubt:
    """Return the doubt of a check of multicast, by which hosts call back, that holds once *step* was seen."""
    return lambda facts: unless(step)(facts) if facts.inquiry.kind == "multicast" else NOT_CALLED_BACK


def unless_dissected(step: Step) -> Doubt:
    """Return the doubt of a check of a conversation, which not every way has, that holds once *step* was seen."""
    return lambda facts: unless(step)(facts) if facts.inquiry.kind in DISSECTED else _NO_CONVERSATION


def unless_proven(facts: Facts) -> VmfenceError | None:
    """Return why it was not seen that the host has the key."""
    return _NO_AUTH if _has_no_auth(facts) else unless_dissected(Step.PROVEN)(facts)


def unless_agreed(facts: Facts) -> VmfenceError | None:
    """Return why it was not seen that the host has our auth setting; without auth its answer alone shows that."""
    return unless_dissected(Step.ANSWERED if _has_no_auth(facts) else Step.PROVEN)(facts)


def _has_no_auth(facts: Facts) -> bool:
    return Hash.named(facts.inquiry.auth_name) is Hash.NONE


def unless_connected(facts: Facts) -> VmfenceError | None:
    """Return why it was not seen that the host is reached."""
    if facts.inquiry.kind == "multicast":
        return NotAsked("no connection is opened to the host this way")
    return unless(Step.CONNECTED)(facts)


def unless_callable(facts: Facts) -> VmfenceError | None:
    """Return why nothing is said of addresses where there is none."""
    return None if facts.callable else _NO_ADDRESS


def was_called(trial: Trial | VmfenceError) -> bool:
    """Whether a host's call-back came in from outside this machine."""
    return isinstance(trial, Trial) and any(not call.peer.startswith("127.") for call in trial.calls)


def unless_admitted(facts: Facts) -> VmfenceError | None:
    """Return why the firewall is not known to admit a call-back: nobody saw one, nor all rules."""
    if was_called(facts.trial):
        return None
    if isinstance(facts.trial, Trial) and facts.trial.knocks and not facts.trial.calls:
        return NotReached(_ENDS_WITH[Step.HEARD])
    return _unread(facts)


def unless_kept(facts: Facts) -> VmfenceError | None:
    """Return why the firewall is not known to admit a call-back later."""
    found = facts.firewall
    if found.commands or found.later or (found.rules and not was_called(facts.trial)):
        return NotReached("the firewall does not admit the call-back port now")
    return _unread(facts)


def _unread(facts: Facts) -> VmfenceError | None:
    if not isinstance(facts.addresses, VmfenceError) and not facts.callable:
        return _NO_ADDRESS
    doubts = facts.firewall.doubts
    return VmfenceError("this machine's firewall cannot be read", "; ".join(doubts)) if doubts else None


def unless_read(facts: Facts) -> VmfenceError | None:
    """Return why it does not matter whether the firewall can be read."""
    error: object = facts.firewall
    if isinstance(error, VmfenceError) or facts.firewall.doubts:
        return NotAsked("a call-back has just come in, whatever the firewall's rules are")
    return _NO_ADDRESS if not isinstance(facts.addresses, VmfenceError) and not facts.callable else None


def unless_signed(facts: Facts) -> VmfenceError | None:
    """Return that there are no signatures where the way has none."""
    return None if facts.inquiry.kind in (*DISSECTED, "auto") else _NO_CONVERSATION


def unless_port_wanted(facts: Facts) -> VmfenceError | None:
    """Return why no port can be taken."""
    if facts.inquiry.kind != "multicast":
        return NOT_CALLED_BACK
    return None if facts.trial.wanted_port else NotAsked("any port will do")
