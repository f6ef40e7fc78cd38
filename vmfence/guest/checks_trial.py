"""Checks of a real request up to the host's call-back: made, sent, heard, called back.  Pure.

One step fails at most: what comes after it cannot be known.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Callable

from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, Check, Fault, NotAsked
from vmfence.guest.facts import Facts
from vmfence.guest.progress import Step, unless_called_back, unless_connected
from vmfence.guest.trial import Trial
from vmfence.packetfilter import lasting

ON_HOST = "on the host: vmfence host check"


def ungathered(fact: str, what: str = "", remedy: str = "") -> Callable[[Facts], Iterator[Fault]]:
    """Return the rule that *fact* could be gathered; *what*: before its error, *remedy*: where that has none."""

    def rule(facts: Facts) -> Iterator[Fault]:
        error = getattr(facts, fact)
        if isinstance(error, VmfenceError) and not isinstance(error, NotAsked):
            yield Fault(ERROR, str(facts.inquiry), what + error.what, error.why, error.remedy or remedy)

    return rule


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
        f"UDP {facts.inquiry.port}, or TCP {trial.port} on the way out to this guest, or its key is another one, or it "
        "demands another hash"
    )
    signed = "unsigned" if trial.hash_name == "none" else f"with hashes up to {trial.hash_name}"
    seen = f"sent from {', '.join(sent)} for {trial.seconds:.0f} s, {signed}; "
    if trial.knocks is None:
        seen += "no call-back came in (whether one was stopped by this machine's firewall only root can see)"
    else:
        seen += f"nobody knocked at TCP {trial.port} of this machine"
    yield Fault(ERROR, str(facts.inquiry), message, seen, compare(facts))


def compare(facts: Facts) -> str:
    """Return the remedy for keys that may differ."""
    known: object = facts.key
    if isinstance(known, VmfenceError):
        return ON_HOST
    return f"{ON_HOST}; vmfence host keygen --check there must show the key of here: SHA256 {facts.key.fingerprint}"


def _blocked(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    if trial.calls or not trial.knocks or _firewall_explains(facts):
        return
    strict = [one for one in facts.callable if one.rp_filter == 1] if not isinstance(facts.addresses, Exception) else []
    message = "a host calls back and is not let in: this machine's firewall drops the connection"
    remedy = _let_in(facts)
    if strict:
        message += ", or its strict reverse path filter does"
        remedy += f"; or: {lasting.loosened(strict[0].interface)}"
    yield Fault(ERROR, f"TCP {trial.port}", message, f"{', '.join(trial.knocks)} knocked, nothing arrived", remedy)


def _let_in(facts: Facts) -> str:
    """Return the remedy for a firewall of which no rule is known that stops the call-back."""
    port, found = facts.trial.port, facts.firewall
    outside = () if isinstance(facts.addresses, VmfenceError) else facts.callable
    interface = shlex.quote(outside[0].interface if outside else "INTERFACE")
    zones = () if isinstance(found, VmfenceError) else tuple(dict.fromkeys(found.zones))
    if zones:
        words = [
            ("firewall-cmd", *kept, f"--zone={zone}", f"--add-port={port}/tcp")
            for zone in zones
            for kept in ((), ("--permanent",))
        ]
        return " && ".join(map(shlex.join, words))
    zone = f'"$(firewall-cmd --get-zone-of-interface={interface})"'
    return (
        f"let in TCP {port}: see nft list ruleset; with firewalld: "
        f"firewall-cmd --permanent --zone={zone} --add-port={port}/tcp && firewall-cmd --reload"
    )


def _firewall_explains(facts: Facts) -> bool:
    found: object = facts.firewall
    return not isinstance(found, VmfenceError) and bool(facts.firewall.commands or facts.firewall.rules)


CHECKS = (
    Check(
        "guest-untried",
        "a request can be made",
        "A request of the kind that Pacemaker makes to monitor a device. It acts on nothing.",
        ungathered("trial"),
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
)
