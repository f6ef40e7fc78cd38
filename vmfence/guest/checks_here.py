"""Checks of what is on this guest: key, options, addresses, call-back port, firewall.  Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from vmfence.errors import DeadlineExceeded, KeyExposed, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotAsked, unread
from vmfence.guest import progress
from vmfence.guest.facts import Facts
from vmfence.packetfilter import lasting
from vmfence.protocol.auth import Hash


def _key(facts: Facts) -> Iterator[Fault]:
    error: object = facts.key
    if isinstance(error, VmfenceError) and not isinstance(error, NotAsked):
        why = "without the key nothing can be asked of a host"
        yield Fault(ERROR, facts.inquiry.key_file, why, _text(error), error.remedy, _closing(error))


def _weak(facts: Facts) -> Iterator[Fault]:
    for weakness in facts.key.weaknesses:
        yield Fault(WARNING, facts.inquiry.key_file, weakness.what, weakness.why, weakness.remedy, _closing(weakness))


def _closing(error: VmfenceError) -> tuple[str, ...] | None:
    """Return the command without risk that closes the key to others, where that is what it lacks."""
    return (error.closing or None) if isinstance(error, KeyExposed) else None


def _unsigned(facts: Facts) -> Iterator[Fault]:
    for what, name in (("hash", facts.inquiry.hash_name), ("auth", facts.inquiry.auth_name)):
        kind = Hash.named(name)
        if kind is Hash.NONE:
            message = "requests are not signed" if what == "hash" else "neither side proves the key"
            yield Fault(
                WARNING, f"{what} none", f"{message}: anybody in this network can fence", "", f"use {what} sha256"
            )
        elif kind is Hash.SHA1:
            yield Fault(NOTE, f"{what} sha1", "it is the weakest there is", "", f"use {what} sha256 on both sides")


def _address(facts: Facts) -> Iterator[Fault]:
    if facts.callable:
        return
    link_local = [one.text for one in facts.addresses if one.is_link_local]
    if link_local:
        message = "this machine has link-local IPv6 addresses alone, and no host can call one back"
        yield Fault(
            ERROR, "addresses", message, ", ".join(link_local), "give it a global or unique local address, or use IPv4"
        )
    else:
        message = "this machine has no address of the family that is asked by, so no host can call it back"
        seen = ", ".join(one.text for one in facts.addresses) or "none"
        yield Fault(ERROR, "addresses", message, seen, "give it one, or choose the other family: --ip-family")


def _addresses(facts: Facts) -> Iterator[Fault]:
    if len(facts.callable) > 1:
        message = "a host calls back at each address, and loses 5 s at every one that it cannot reach"
        seen = ", ".join(f"{one.text} ({one.interface})" for one in facts.callable)
        yield Fault(NOTE, "addresses", f"this machine has {len(facts.callable)}: {message}", seen)


def _link(facts: Facts) -> Iterator[Fault]:
    down = [one for one in facts.callable if one.is_down]
    for one in down:
        severity = ERROR if len(down) == len(facts.callable) else NOTE
        message = "the interface is down, so nothing leaves or arrives there"
        remedy = (
            f"ip link set {shlex.quote(one.interface)} up; on the host, see virsh domiflist and virsh domif-getlink"
        )
        yield Fault(severity, one.interface, message, f"{one.text}, state {one.state}", remedy)


def _port(facts: Facts) -> Iterator[Fault]:
    trial = facts.trial
    if trial.wanted_port and trial.port != trial.wanted_port:
        message = "the call-back port is taken, so another one is used, which a firewall may not admit"
        remedy = f"see who has it: ss -ltnp sport = :{trial.wanted_port}"
        yield Fault(WARNING, f"TCP {trial.wanted_port}", message, f"port {trial.port} was used instead", remedy)


def _firewall(facts: Facts) -> Iterator[Fault]:
    if progress.was_called(facts.trial):
        return  # what came in is not stopped, whatever the rules look like
    opening = f"TCP {facts.inquiry.port if facts.inquiry.callback_port is None else facts.inquiry.callback_port}"
    message = "this machine's firewall stops the host's call-back"
    for command in facts.firewall.commands:
        when = "after the next reload" if "--permanent" in command else "now"
        yield Fault(
            ERROR, opening, f"{message} {when}", f"firewalld zone {', '.join(dict.fromkeys(facts.firewall.zones))}",
            shlex.join(command), command,
        )  # fmt: skip
    for rule in facts.firewall.rules:
        yield Fault(ERROR, opening, message, "rules of nftables or iptables", lasting.rules([rule]))


def _firewall_later(facts: Facts) -> Iterator[Fault]:
    if progress.was_called(facts.trial) and facts.trial.port == facts.trial.wanted_port:
        for command in facts.firewall.commands:
            if "--permanent" in command:
                message = "the call-back port is open now, and will not be after firewalld's next reload"
                seen = f"zone {', '.join(dict.fromkeys(facts.firewall.zones))}"
                yield Fault(WARNING, f"TCP {facts.trial.port}", message, seen, shlex.join(command), command)
        for one in facts.firewall.later:
            message = "the call-back port is open now, and firewalld will, or may, stop it after its next reload"
            yield Fault(WARNING, f"TCP {facts.trial.port}", message, one.what, one.command)


def _firewall_unread(facts: Facts) -> Iterator[Fault]:
    error: object = facts.firewall
    doubts = [_text(error)] if isinstance(error, VmfenceError) else facts.firewall.doubts
    hung = doubts if isinstance(error, DeadlineExceeded) else getattr(error, "hung", ())
    for doubt in doubts:
        if doubt in hung:
            message = "what shows its rules does not end, so nobody knows what it stops, now or later"
            yield Fault(WARNING, "firewall", message, doubt, "see why: firewall-cmd --state; nft list ruleset")
        elif not progress.was_called(facts.trial):
            yield Fault(NOTE, "firewall", "it cannot be seen whether it stops the host's call-back", doubt)


def _text(error: VmfenceError) -> str:
    return ": ".join(filter(None, (error.what, error.why)))


CHECKS = (
    Check(
        "guest-key",
        "the key is there, and for this machine's administrators alone",
        "Host and guest prove to each other that they have the same key. It is made on the host, and copied to every "
        "guest. A key that everybody here may read is not used: whoever has it can fence every guest.",
        _key,
        reads="key",
    ),
    Check(
        "guest-key-weak",
        "the key is a good one",
        "A key that somebody typed, or took from a guide, can be guessed; a short one as well. Whoever knows it can "
        "fence every guest. vmfence host keygen makes a good one. A key that another group than root may read is told "
        "too: who is in it decides whether that is meant.",
        _weak,
        needs=("key",),
    ),
    Check(
        "guest-unsigned",
        "requests are signed, and both sides prove the key",
        "With hash none requests carry no signature, with auth none nobody proves anything.",
        _unsigned,
        doubt=progress.unless_signed,
    ),
    unread(
        "guest-addresses-unread",
        "addresses",
        "the addresses of this machine are known",
        "A request by multicast names an address of this machine, which the host calls back.",
    ),
    Check(
        "guest-address",
        "the host can be told an address to call back",
        "A request names an address in 4 or 16 bytes, without an interface: a link-local address cannot be called.",
        _address,
        needs=("addresses",),
    ),
    Check(
        "guest-addresses",
        "there is one address to call back",
        "Every address is offered to the host. One that it cannot reach costs it seconds before it tries the next.",
        _addresses,
        needs=("addresses",),
        doubt=progress.unless_callable,
    ),
    Check(
        "guest-link",
        "the interfaces with addresses are up",
        "An interface of a guest can be down here, or its link cut on the host.",
        _link,
        needs=("addresses",),
        doubt=progress.unless_callable,
    ),
    Check(
        "guest-port-taken",
        "the call-back port is free",
        "The host calls back at TCP 1229, which firewalls admit. When another program has it vmfence uses another "
        "port; fence_xvm cannot, and fails. A fence agent that runs at this moment is no fault.",
        _port,
        needs=("trial",),
        doubt=progress.unless_port_wanted,
    ),
    Check(
        "guest-firewall",
        "this machine's firewall admits the call-back",
        "The host answers a multicast request by a TCP connection to this machine. Guides often open UDP here: that is "
        "needed on the host. Nothing is said of rules through which a call-back has just come in.",
        _firewall,
        needs=("firewall",),
        doubt=progress.unless_admitted,
    ),
    Check(
        "guest-firewall-later",
        "the firewall will admit the call-back tomorrow too",
        "firewalld keeps what holds now apart from what holds after its next start.",
        _firewall_later,
        needs=("firewall", "trial"),
        doubt=progress.unless_kept,
    ),
    Check(
        "guest-firewall-unread",
        "this machine's firewall can be read",
        "It is read with firewall-cmd, nft and iptables-save, which needs root.",
        _firewall_unread,
        reads="firewall",
        doubt=progress.unless_read,
    ),
)
