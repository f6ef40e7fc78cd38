"""Checks of what the daemon has turned away lately: call-backs that failed, and packets that it refused.  Pure.

What this host itself has sent, as these checks do, is nobody's fault; nor is what was followed by an answer.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

from vmfence.errors import VmfenceError
from vmfence.findings import NOTE, WARNING, Check, Fault
from vmfence.host.check import scope
from vmfence.host.check.facts import Facts

_RECENT_S = 600.0
_SHOWN_MAX = 5
_UNCALLED, _PLAYED_BACK, _WRONG_KEY = "cannot call back", "repeated packet", "wrong key"
_CLAIMS = "(claims "  # an origin that asks to be called at another address than the one that it sends from
# A guest offers each of its addresses, and one that cannot be called is told after another has had its answer.
_CALL_BACK_S = 10.0
_ON_GUEST = "vmfence guest check there"
# What to do about a refusal, by how its reason begins.
_ANSWERS = (
    ("weak hash", "give its fence agent a stronger hash (-c sha256), or ask for less: hash in the listener's block"),
    (_WRONG_KEY, f"{_ON_GUEST}, and compare sha256sum of both keys"),
    ("wrong answer", f"compare sha256sum of both keys, and auth on both sides: {_ON_GUEST}"),
    ("no proof of the key", f"auth differs, or the program there hung: {_ON_GUEST}"),
    ("the client sends a challenge", "it has auth set, and the listener has none: make them the same"),
    ("the client closed", "it gave up, or has another auth than the listener: " + _ON_GUEST),
    (_PLAYED_BACK, "find out who sent it: somebody plays back what was recorded, or the network doubles packets"),
    ("too many requests", "see what asks so often there"),
)


def _uncalled(facts: Facts) -> Iterator[Fault]:
    for origin, reason, when in _rejected(facts):
        if reason.startswith(_UNCALLED):
            message = "a guest asked, and the daemon could not connect back to it, so it had no answer"
            port = next((one.port for one in facts.multicast), 1229)
            remedy = f"in the guest: firewall-cmd --add-port={port}/tcp --permanent && firewall-cmd --reload"
            yield Fault(WARNING, origin, message, f"{when}: {reason}", remedy)


def _refused(facts: Facts) -> Iterator[Fault]:
    for origin, reason, when in _rejected(facts):
        if reason.startswith(_UNCALLED):
            continue
        message, seen = "the daemon refused what came from there", f"{when}: {reason}"
        remedy = next((answer for begin, answer in _ANSWERS if reason.startswith(begin)), _ON_GUEST)
        if reason.startswith(_WRONG_KEY) and "(multicast)" in origin:
            address = shlex.quote(origin.split()[0])
            tell = f"ip neigh get {address} dev BRIDGE tells its MAC, virsh domiflist GUEST those of guests here"
            remedy = (
                f"for a guest of this host: {remedy}; for one of another host with a key of its own, nothing: {tell}"
            )
        yield Fault(NOTE if _may_be_anothers(facts, origin, reason) else WARNING, origin, message, seen, remedy)


def _may_be_anothers(facts: Facts, origin: str, reason: str) -> bool:
    """Whether a packet with a wrong key is most likely of another host's guest: other hosts are known to be there."""
    if not reason.startswith(_WRONG_KEY) or "(multicast)" not in origin:
        return False
    has_answered = isinstance(facts.probes, tuple) and any(one.others or one.failed_elsewhere for one in facts.probes)
    is_told = not isinstance(facts.settings, VmfenceError) and facts.settings.daemon.unknown_guest == "ignore"
    return has_answered or is_told


def uncalled(facts: Facts) -> list[str]:
    """Return the origins that the daemon could not connect back to lately; none while nobody knows who we are."""
    if isinstance(facts.own, VmfenceError):
        return []
    return [origin for origin, reason, _ in _rejected(facts) if reason.startswith(_UNCALLED)]


def _rejected(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield the latest rejections of each origin, reason and time.

    Not those of this host itself, as of this check, nor those of an origin that had an answer since.
    """
    latest = {}
    for one in facts.status["last_rejected"]:
        if facts.now - float(one["at"]) <= _RECENT_S:
            what = str(one["reason"]).partition(".")[0]
            latest[str(one["origin"]), what] = (str(one["reason"]), float(one["at"]))
    ours = {answer.peer for each in facts.probes for answer in each.ours} if isinstance(facts.probes, tuple) else set()
    ours |= facts.own
    shown = [
        (origin, reason, at)
        for (origin, _), (reason, at) in latest.items()
        if origin.split()[0].partition("%")[0] not in ours and not _is_over(facts, origin, reason, at)
    ]
    for origin, reason, at in shown[-_SHOWN_MAX:]:
        yield origin, reason, time_of_day(at)


def _is_over(facts: Facts, origin: str, reason: str, at: float) -> bool:
    """Whether that origin had an answer since it was rejected; what is played back is never over."""
    answered_at = float(facts.status["last_answered"].get(origin.split()[0], 0.0))
    return answered_at > at - (_CALL_BACK_S if _CLAIMS in origin else 0.0) and not reason.startswith(_PLAYED_BACK)


def time_of_day(at: float) -> str:
    """Return *at*, in seconds of the wall clock, as the logs show it."""
    return time.strftime("%H:%M:%S", time.localtime(at))


CHECKS = (
    Check(
        "host-callback",
        "the daemon can connect back to the guests that asked",
        """A request by multicast is answered by a TCP connection from the host to the guest, port 1229 unless set
        otherwise. A guest's firewall that drops it makes the guest wait in vain. Told are failures of the last ten
        minutes, except of guests that had an answer since.""",
        _uncalled,
        ("settings", "status", "own"),
        doubt=scope.multicast,
    ),
    Check(
        "host-rejected",
        "the daemon has refused nobody lately",
        """Packets with another key, a weaker hash or a wrong form are dropped without an answer, so the guest sees
        silence. Hosts that share a group and have keys of their own refuse each other's guests: then this is as it
        must be, and a note where other hosts are known to be there. Told are the last ten minutes, except of origins
        that had an answer since.""",
        _refused,
        ("status", "own"),
    ),
)
