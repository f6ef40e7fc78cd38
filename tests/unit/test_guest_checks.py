"""The rules of ``guest check`` over facts, a conversation taken apart, who knocks, and the reason on the wire."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from vmfence import diagnose
from vmfence.cli import guest_check
from vmfence.cli.main import vmfence
from vmfence.errors import DeadlineExceeded, KeyExposed, KeyFileError, NotPermitted, VmfenceError
from vmfence.findings import NotAsked, Severity
from vmfence.guest import answers, survey
from vmfence.guest.agreement import Agreement, agreement
from vmfence.guest.answers import HostAnswer
from vmfence.guest.checks import CHECKS
from vmfence.guest.dissection import Call, Dissection, End, Stage
from vmfence.guest.facts import Address, Facts, KeyFacts
from vmfence.guest.guests import Inquiry
from vmfence.guest.knocks import knocker
from vmfence.guest.survey import Survey
from vmfence.guest.trial import Copy, Trial
from vmfence.host.security import KeyEntry, Security, asks_why
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.kept import Later
from vmfence.protocol.auth import Hash, Key, respond, sign
from vmfence.protocol.reason import REASON_BYTES_MAX, decode_reason, encode_reason
from vmfence.protocol.reply import Record
from vmfence.protocol.request import FLAG_TELL, FLAG_UUID, Action, Request, encode

KEY = Key(b"k" * 32)
HOST, OTHER, GUEST = "10.88.0.1", "10.88.0.2", "10.88.0.11"
ALPHA = Record("alpha", "11111111-2222-3333-4444-555555555501", 1)
SHARED = Record("shared", "11111111-2222-3333-4444-555555555505", 1)
OMEGA = Record("omega", "11111111-2222-3333-4444-555555555509", 1)
ANSWER = Call(HOST, Stage.ANSWERED, End.ANSWERED, 0)
HEARD = Trial("sha256", 1229, 1229, (Copy(GUEST, "eth0"),), (HOST,), (ANSWER,))
UNHEARD = replace(HEARD, knocks=(), calls=())
HEALTHY = Facts(
    Inquiry(),
    KeyFacts("ab" * 32),
    (Address("127.0.0.1", "lo"), Address(GUEST, "eth0")),
    Firewall(),
    HEARD,
    Survey((HostAnswer(HOST, (ALPHA,)),)),
)
NOBODY = NotAsked("no host answers")
OPEN_NOW = ("firewall-cmd", "--zone=public", "--add-port=1229/tcp")
OPEN_LATER = ("firewall-cmd", "--permanent", "--zone=public", "--add-port=1229/tcp")
KEPT = Later("zone public has the rich rule: rule drop", "firewall-cmd --permanent --zone=public x")


def facts(**changes: Any) -> Facts:
    """Return what a healthy guest has, changed."""
    return replace(HEALTHY, **changes)


def judged(**changes: Any) -> dict[str, str]:
    """Return code -> severity of what is found when a healthy guest is changed."""
    report = diagnose.judge(CHECKS, facts(**changes))
    return {one.code: str(one.fault.severity) for one in report.findings}


def held(**changes: Any) -> set[str]:
    """Return the codes that are said to be well when a healthy guest is changed."""
    report = diagnose.judge(CHECKS, facts(**changes))
    return {one.check.code for one in report.outcomes if not one.faults and one.missing is None}


def ended(*calls: Call) -> dict[str, Any]:
    return {"trial": replace(HEARD, calls=calls), "hosts": NOBODY}


def told(what: str, why: str = "") -> dict[str, Any]:
    return ended(replace(ANSWER, code=1, reason=VmfenceError(what, why)))


def answering(other: HostAnswer, speakers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return that another host answers too, and who speaks for the guest of the first."""
    return {"hosts": Survey((*HEALTHY.hosts.hosts, other), ALPHA.name if speakers else "", speakers)}


def watched(monkeypatch: pytest.MonkeyPatch, *words: str, **changes: Any) -> tuple[int, str]:
    """Return the exit code and the line of a watch that looks once, without its time."""
    monkeypatch.setattr(guest_check, "gather", lambda inquiry, limit_s: facts(**changes))
    done = CliRunner().invoke(vmfence, ["guest", "check", "--watch", "--count", "1", *words])
    return done.exit_code, done.stdout.partition("  ")[2].rstrip("\n")


def test_a_watch_says_ok_only_where_everything_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch) == (0, "ok")
    unread: dict[str, Any] = {"firewall": Firewall(doubts=("nft: not permitted",))}
    code, line = watched(monkeypatch, **unread)
    assert code == 4 and re.fullmatch(r"unknown guest-\S+: not judged, this machine's firewall cannot be read", line)
    assert watched(monkeypatch, "--strict", **unread)[0] == 4
    code, line = watched(monkeypatch, trial=UNHEARD, hosts=NOBODY)
    assert code == 1 and line.startswith("error guest-not-heard: ") and "unknown" not in line


UNREAD: dict[str, Any] = {"firewall": Firewall(doubts=("nft: cannot be run",))}
UNSEEN: dict[str, Any] = {"key": NotPermitted("this user may not read the key")}
FAILED: dict[str, Any] = {"trial": UNHEARD, "hosts": NOBODY}


@pytest.mark.parametrize(
    ("rounds", "code"),
    [
        ((FAILED, UNREAD, {}), 1),
        ((UNREAD, FAILED), 1),
        ((UNSEEN, FAILED), 1),
        ((UNSEEN, UNREAD), 3),
        ((UNREAD, UNSEEN), 3),
        ((UNREAD, {}), 4),
        (({}, {}), 0),
    ],
)
def test_a_watch_ends_with_the_worst_of_its_rounds(
    monkeypatch: pytest.MonkeyPatch, rounds: tuple[dict[str, Any], ...], code: int
) -> None:
    """An error before what this user may not see, that before what could not be judged."""
    coming = iter(rounds)
    monkeypatch.setattr(guest_check, "gather", lambda inquiry, limit_s: facts(**next(coming)))
    words = ["guest", "check", "--watch", "--interval", "0", "--count", str(len(rounds))]
    assert CliRunner().invoke(vmfence, words).exit_code == code


def test_a_healthy_guest_has_no_finding_at_all() -> None:
    assert judged() == {}


@pytest.mark.parametrize(
    ("changes", "code", "severity"),
    [
        ({"key": KeyFileError("gone")}, "guest-key", "error"),
        ({"key": KeyFacts("", (KeyFileError("short"),))}, "guest-key-weak", "warning"),
        ({"inquiry": Inquiry(hash_name="none"), "trial": replace(HEARD, hash_name="none")}, "guest-unsigned",
         "warning"),
        ({"inquiry": Inquiry(auth_name="SHA1")}, "guest-unsigned", "note"),
        ({"addresses": VmfenceError("no")}, "guest-addresses-unread", "error"),
        ({"addresses": ()}, "guest-address", "error"),
        ({"addresses": (Address("fe80::1", "eth0"), Address("::1", "lo"))}, "guest-address", "error"),
        ({"addresses": (Address(GUEST, "eth0"), Address("10.1.0.2", "eth1"))}, "guest-addresses", "note"),
        ({"addresses": (Address(GUEST, "eth0", "down"),)}, "guest-link", "error"),
        ({"trial": replace(HEARD, port=40000)}, "guest-port-taken", "warning"),
        ({"firewall": Firewall(("public",), (OPEN_LATER,))}, "guest-firewall-later", "warning"),
        ({"firewall": Firewall(("public",), later=(KEPT,))}, "guest-firewall-later", "warning"),
        ({"trial": VmfenceError("broken")}, "guest-untried", "error"),
        ({"trial": replace(UNHEARD, copies=(Copy(GUEST, "eth0", "denied"),))}, "guest-not-sent", "error"),
        (
            {"trial": replace(UNHEARD, copies=(Copy("127.0.0.1", "lo"), Copy(GUEST, "eth0", "denied")))},
            "guest-not-sent",
            "error",
        ),
        ({"trial": Trial("sha256", failure=VmfenceError("refused"))}, "guest-unreachable", "error"),
        ({"trial": UNHEARD}, "guest-not-heard", "error"),
        ({"trial": replace(UNHEARD, knocks=None)}, "guest-not-heard", "error"),
        ({"trial": replace(UNHEARD, knocks=(HOST,))}, "guest-call-back-blocked", "error"),
        ({"trial": replace(UNHEARD, knocks=(HOST,)), "firewall": NOBODY}, "guest-call-back-blocked", "error"),
        ({"trial": replace(UNHEARD, knocks=(HOST,)), "addresses": NOBODY}, "guest-call-back-blocked", "error"),
        ({"trial": replace(UNHEARD, knocks=(HOST,)), "firewall": Firewall(rules=("nft",))}, "guest-firewall", "error"),
        ({"trial": replace(HEARD, hash_name="sha512")}, "guest-hash-weak", "error"),
        (told("weak hash", "signed with sha256, at least sha512 is required"), "guest-hash-weak", "error"),
        (told("another address than the sender's"), "guest-refused", "error"),
        (told("failed", "cannot reach libvirt"), "guest-failed", "error"),
        (ended(replace(ANSWER, code=1)), "guest-failed", "error"),
        (ended(Call(HOST, Stage.CONNECTED, End.UNPROVEN)), "guest-host-unproven", "error"),
        (ended(Call(HOST, Stage.CONNECTED, End.UNPROVEN, host_auth="sha1")), "guest-auth-differs", "error"),
        (ended(Call(HOST, Stage.CONNECTED, End.CLOSED)), "guest-refused", "error"),
        (ended(Call(HOST, Stage.WE_PROVEN, End.CLOSED)), "guest-refused", "error"),
        (ended(Call(HOST, Stage.WE_PROVEN, End.SILENT)), "guest-not-answered", "error"),
        (ended(Call(HOST, Stage.CONNECTED, End.SILENT)), "guest-not-answered", "error"),
        ({"trial": replace(HEARD, calls=(ANSWER, replace(ANSWER, peer="10.88.0.2", code=1)))},
         "guest-one-host-failed", "warning"),
        ({"hosts": VmfenceError("no list")}, "guest-hosts-unread", "error"),
        (answering(HostAnswer(OTHER, (OMEGA,)), speakers=(HOST, OTHER)), "guest-hosts-differ", "error"),
        (answering(HostAnswer(OTHER, (OMEGA,)), speakers=(OTHER,)), "guest-hosts-differ", "error"),
        (answering(HostAnswer(OTHER, (OMEGA,)), speakers=(HOST,)), "guest-hosts-differ", "note"),
        (answering(HostAnswer(OTHER, (ALPHA,))), "guest-hosts-differ", "note"),
        (answering(HostAnswer(OTHER, (OMEGA,))), "guest-hosts-differ", "warning"),
        ({"hosts": Survey((HostAnswer(HOST, ()),))}, "guest-no-guests", "error"),
    ],
)  # fmt: skip
def test_each_fault_has_its_code_and_no_other(changes: dict[str, Any], code: str, severity: str) -> None:
    if isinstance(changes.get("trial"), Trial) and not changes["trial"].is_answered:
        changes = {"hosts": NOBODY, **changes}
    assert judged(**changes) == {code: severity}


def test_every_check_is_tested_above_or_is_the_note_on_what_cannot_be_read() -> None:
    mark = next(one for one in test_each_fault_has_its_code_and_no_other.pytestmark)
    assert {check.code for check in CHECKS} - {row[1] for row in mark.args[1]} == {"guest-firewall-unread"}
    assert len({check.code for check in CHECKS}) == len(CHECKS)


def test_rules_that_stop_and_a_silent_host_are_both_told_and_doubts_are_notes() -> None:
    found = judged(trial=UNHEARD, hosts=NOBODY, firewall=Firewall(rules=("nft",), doubts=("iptables",)))
    assert found == {"guest-firewall": "error", "guest-not-heard": "error", "guest-firewall-unread": "note"}


def test_a_firewall_that_cannot_be_read_is_told() -> None:
    found = judged(trial=replace(UNHEARD, knocks=(HOST,)), hosts=NOBODY, firewall=VmfenceError("no"))
    assert found == {"guest-call-back-blocked": "error", "guest-firewall-unread": "note"}


def test_a_call_back_outweighs_every_rule() -> None:
    assert judged(firewall=Firewall(("public",), (OPEN_NOW,), ("nft",), ("iptables",))) == {}


def test_firewalld_is_opened_by_fix_and_rules_of_others_are_not() -> None:
    firewall = Firewall(("public",), (OPEN_LATER, OPEN_NOW), ("nft insert",))
    report = diagnose.judge(CHECKS, facts(trial=UNHEARD, hosts=NOBODY, firewall=firewall))
    fixes = [one.fault.fix for one in report.findings if one.code == "guest-firewall"]
    assert fixes == [OPEN_LATER, OPEN_NOW, None]


def test_a_key_is_closed_by_fix_and_never_made() -> None:
    closing = ("chmod", "0600", "/etc/my key")
    for error, fix in ((KeyExposed("open", "", "chmod", closing), closing), (KeyFileError("gone", "", "chmod"), None)):
        report = diagnose.judge(CHECKS, facts(key=error), only=["guest-key"])
        assert [one.fault.fix for one in report.findings] == [fix]


def test_an_empty_host_beside_one_with_guests_is_a_note_and_two_empty_ones_are_errors() -> None:
    assert judged(**answering(HostAnswer(OTHER, ()), speakers=(HOST,))) == {
        "guest-hosts-differ": "note",
        "guest-no-guests": "note",
    }
    found = judged(hosts=Survey((HostAnswer(HOST, ()), HostAnswer(OTHER, ()))))
    assert found == {"guest-hosts-differ": "note", "guest-no-guests": "error"}


@pytest.mark.parametrize(
    ("loud", "asked", "speakers", "how"),
    [
        ((), "omega", (OTHER,), Agreement.DISCREET),
        ((HOST,), "omega", (HOST, OTHER), Agreement.RIVALS),
        ((OTHER,), "alpha", (HOST, OTHER), Agreement.RIVALS),
        ((HOST, OTHER), "alpha", (HOST, OTHER), Agreement.RIVALS),
    ],
)
def test_each_host_is_asked_about_a_guest_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, loud: tuple[str, ...], asked: str, speakers: tuple[str, ...], how: Agreement
) -> None:
    """*loud* hosts answer for guests that they do not have; one that is silent about them may be the first."""
    both = HostAnswer(HOST, (SHARED, ALPHA)), HostAnswer(OTHER, (SHARED, OMEGA))

    def speak(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
        return tuple(one.peer for one in both if one.peer in loud or guest in [each.name for each in one.guests])

    monkeypatch.setattr(answers, "list_hosts", lambda inquiry: both)
    monkeypatch.setattr(answers, "speakers", speak)
    found = survey.survey(Inquiry())
    assert (found.asked, found.speakers) == (asked, speakers)
    assert agreement(found.hosts, found.asked, found.speakers) is how


def test_hosts_that_show_the_same_are_asked_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        answers, "list_hosts", lambda inquiry: (HostAnswer(HOST, (ALPHA,)), HostAnswer(OTHER, (ALPHA,)))
    )
    monkeypatch.setattr(answers, "speakers", lambda inquiry, guest: pytest.fail("asked"))
    assert survey.survey(Inquiry()).asked == ""


@pytest.mark.parametrize("timeout_s", [0.5, 3.0])
def test_hosts_that_could_not_be_asked_who_speaks_are_not_taken_for_discreet(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float
) -> None:
    """For lack of time, or of an answer."""

    def speak(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
        assert timeout_s == 3.0 and inquiry.timeout_s < timeout_s
        raise DeadlineExceeded("no host answered")

    both = HostAnswer(HOST, (ALPHA,)), HostAnswer(OTHER, (OMEGA,))
    monkeypatch.setattr(answers, "list_hosts", lambda inquiry: both)
    monkeypatch.setattr(answers, "speakers", speak)
    found = survey.survey(Inquiry(timeout_s=timeout_s))
    assert found == Survey(both) and judged(hosts=found) == {"guest-hosts-differ": "warning"}


def remedies(code: str, **changes: Any) -> list[str]:
    report = diagnose.judge(CHECKS, facts(**{"hosts": NOBODY, **changes}))
    return [one.fault.remedy for one in report.findings if one.code == code]


def test_remedies_can_be_pasted_whatever_an_interface_is_called() -> None:
    odd = "eth0.5;x"
    blocked = {"trial": replace(UNHEARD, knocks=(HOST,)), "addresses": (Address(GUEST, odd, "up", 1),)}
    [filtered] = remedies("guest-call-back-blocked", **blocked)
    assert f"firewall-cmd --get-zone-of-interface='{odd}'" in filtered
    assert f"sysctl -w 'net/ipv4/conf/{odd}/rp_filter=2'" in filtered and "until the next boot" in filtered
    [down] = remedies("guest-link", addresses=(Address(GUEST, odd, "down"),), hosts=HEALTHY.hosts)
    assert down.startswith(f"ip link set '{odd}' up;")


def test_a_remedy_for_firewalld_names_the_zone() -> None:
    trial = replace(UNHEARD, knocks=(HOST,))
    [remedy] = remedies("guest-call-back-blocked", trial=trial, firewall=Firewall(("my zone",)))
    assert remedy == (
        "firewall-cmd '--zone=my zone' --add-port=1229/tcp && "
        "firewall-cmd --permanent '--zone=my zone' --add-port=1229/tcp"
    )


def test_a_rule_tells_how_long_it_holds_and_ufw_keeps_its_own() -> None:
    rules = ("nft insert rule inet t c tcp dport 1229 accept", "ufw allow to any port 1229 proto tcp")
    kernel, ufw = remedies("guest-firewall", trial=UNHEARD, firewall=Firewall(rules=rules))
    assert kernel.startswith(f"{rules[0]}   # until the next boot; to keep it, ") and ufw == rules[1]


def test_who_is_not_heard_is_told_with_what_to_compare_the_key() -> None:
    report = diagnose.judge(CHECKS, facts(trial=UNHEARD, hosts=NOBODY), only=["guest-not-heard"])
    [fault] = [one.fault for one in report.findings]
    assert f"vmfence host keygen --check there must show the key of here: SHA256 {'ab' * 32}" in fault.remedy
    assert "TCP 1229 on the way out" in fault.message


def test_without_a_key_there_is_one_error() -> None:
    report = diagnose.judge(CHECKS, facts(key=KeyFileError("gone"), trial=NOBODY, hosts=NOBODY))
    assert [one.code for one in report.findings if one.fault.severity is Severity.ERROR] == ["guest-key"]
    assert not {one.check.code for one in report.outcomes if one.missing is None} & {"guest-untried", "guest-refused"}


def test_copies_for_several_addresses_count_as_one_host() -> None:
    """Our daemon answers one copy and closes the others."""
    trial = replace(HEARD, calls=(Call(HOST, Stage.WE_PROVEN, End.CLOSED), ANSWER, ANSWER))
    assert len(trial.answers) == 1 and judged(trial=trial) == {}


STEPS = (
    "guest-not-sent",
    "guest-not-heard",
    "guest-call-back-blocked",
    "guest-auth-differs",
    "guest-host-unproven",
    "guest-hash-weak",
    "guest-refused",
    "guest-not-answered",
    "guest-failed",
    "guest-one-host-failed",
)


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"trial": HEARD, "hosts": HEALTHY.hosts}, "guest-one-host-failed"),
        (ended(replace(ANSWER, code=1)), "guest-not-answered"),
        (told("another address than the sender's"), "guest-host-unproven"),
        (told("weak hash"), "guest-host-unproven"),
        (ended(Call(HOST, Stage.WE_PROVEN, End.SILENT)), "guest-host-unproven"),
        (ended(Call(HOST, Stage.CONNECTED, End.UNPROVEN)), "guest-call-back-blocked"),
        (ended(Call(HOST, Stage.CONNECTED, End.SILENT)), "guest-call-back-blocked"),
        ({"trial": replace(UNHEARD, knocks=(HOST,))}, "guest-not-heard"),
        ({"trial": replace(UNHEARD, knocks=(HOST,)), "firewall": Firewall(rules=("nft",))}, "guest-not-heard"),
        ({"trial": UNHEARD}, "guest-not-sent"),
        ({"trial": replace(UNHEARD, copies=(Copy(GUEST, "eth0", "denied"),))}, ""),
        ({"trial": replace(UNHEARD, copies=())}, ""),
        ({"trial": NOBODY}, ""),
    ],
)
def test_only_steps_that_were_seen_are_well(changes: dict[str, Any], last: str) -> None:
    reached = STEPS[: STEPS.index(last) + 1] if last else ()
    assert held(**{"hosts": NOBODY, **changes}) & set(STEPS) == set(reached)


CALL_BACK = {"guest-not-sent", "guest-not-heard", "guest-call-back-blocked", "guest-one-host-failed"}
PROOF_STEPS = {"guest-hash-weak", "guest-auth-differs", "guest-host-unproven"}


@pytest.mark.parametrize(
    ("inquiry", "absent"),
    [
        (Inquiry(), {"guest-unreachable"}),
        (Inquiry(ipaddr=HOST), {*CALL_BACK, "guest-port-taken"}),
        (Inquiry(ipaddr=HOST, auth_name="none"), {*CALL_BACK, "guest-port-taken", "guest-host-unproven"}),
        (Inquiry(transport="serial"), {*CALL_BACK, *PROOF_STEPS, "guest-port-taken", "guest-unsigned"}),
    ],
)
def test_a_way_is_not_praised_for_steps_that_it_does_not_have(inquiry: Inquiry, absent: set[str]) -> None:
    report = diagnose.judge(CHECKS, facts(inquiry=inquiry))
    assert {one.check.code for one in report.unasked} == absent and report.unjudged == ()


def test_without_auth_an_answer_alone_shows_that_both_have_none() -> None:
    silent = Call(HOST, Stage.WE_PROVEN, End.SILENT)
    inquiry = Inquiry(auth_name="none")
    assert "guest-auth-differs" not in held(inquiry=inquiry, **ended(silent))
    assert "guest-auth-differs" in held(inquiry=inquiry)


FIREWALL = {"guest-firewall", "guest-firewall-later"}


@pytest.mark.parametrize(
    ("changes", "well"),
    [
        ({}, {*FIREWALL, "guest-firewall-unread"}),
        ({"trial": UNHEARD}, {*FIREWALL, "guest-firewall-unread"}),
        ({"trial": UNHEARD, "firewall": Firewall(doubts=("only root may",))}, set()),
        ({"firewall": Firewall(doubts=("only root may",))}, {"guest-firewall"}),
        ({"firewall": VmfenceError("only root may")}, set()),
        ({"trial": UNHEARD, "firewall": Firewall(rules=("nft",))}, {"guest-firewall-unread"}),
        ({"trial": UNHEARD, "firewall": Firewall(("public",), (OPEN_NOW,))}, {"guest-firewall-unread"}),
        ({"trial": replace(UNHEARD, knocks=(HOST,))}, {"guest-firewall-later", "guest-firewall-unread"}),
        (
            {"trial": UNHEARD, "firewall": Firewall(("public",), later=(KEPT,))},
            {"guest-firewall", "guest-firewall-unread"},
        ),
        ({"trial": UNHEARD, "addresses": ()}, set()),
    ],
)
def test_a_firewall_is_well_only_where_it_was_read_or_passed(changes: dict[str, Any], well: set[str]) -> None:
    found = held(**{"hosts": NOBODY, **changes})
    assert {code for code in found if code.startswith("guest-firewall")} == well


def test_nothing_is_said_of_addresses_that_are_not_there() -> None:
    assert not {"guest-address", "guest-addresses", "guest-link"} & held(addresses=(Address("127.0.0.1", "lo"),))


# A conversation taken apart


def dissected(*pieces: bytes, auth: Hash = Hash.SHA256, end: End = End.CLOSED, challenge: bytes = b"c" * 64) -> Call:
    dissection = Dissection(HOST, KEY, auth, challenge)
    for piece in pieces:
        dissection.receive(piece)
    return dissection.close(end)


PROOF = respond(b"c" * 64, KEY, Hash.SHA256)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Call(HOST, Stage.CONNECTED, End.CLOSED)),
        (b"\0", Call(HOST, Stage.CONNECTED, End.CLOSED, host_auth="none")),
        (b"x" * 64, Call(HOST, Stage.CONNECTED, End.UNPROVEN)),
        (respond(b"c" * 64, KEY, Hash.SHA512), Call(HOST, Stage.CONNECTED, End.UNPROVEN, host_auth="sha512")),
        (PROOF, Call(HOST, Stage.HOST_PROVEN, End.CLOSED)),
        (PROOF + b"h" * 64, Call(HOST, Stage.WE_PROVEN, End.CLOSED)),
        (PROOF + b"h" * 64 + b"\0", ANSWER),
        (PROOF + b"h" * 64 + b"\1", replace(ANSWER, code=1)),
        (PROOF + b"c" * 64, Call(HOST, Stage.CONNECTED, End.UNPROVEN)),
    ],
)
def test_how_far_it_came(data: bytes, expected: Call) -> None:
    whole = dissected(data)
    if data == PROOF + b"c" * 64:  # our own challenge sent back: whoever does that has no key, whatever came before
        assert whole.end is End.UNPROVEN
        return
    assert whole == expected == dissected(*(bytes((one,)) for one in data))


def test_a_reason_follows_a_failure_in_pieces_of_any_size() -> None:
    data = PROOF + b"h" * 64 + b"\1" + encode_reason(VmfenceError("what", "why", "remedy"))
    for cut in range(len(data)):
        dissection = Dissection(HOST, KEY, Hash.SHA256, b"c" * 64)
        dissection.receive(data[:cut])
        assert not dissection.is_over
        dissection.receive(data[cut:])
        assert dissection.is_over
        call = dissection.close(End.CLOSED)
        assert call.reason is not None and (call.code, str(call.reason)) == (1, "what. why. remedy.")


def test_without_auth_the_silence_of_a_host_is_its_waiting() -> None:
    assert dissected(auth=Hash.NONE, end=End.SILENT).host_auth == "not none"
    assert dissected(b"\0", auth=Hash.NONE).code == 0


def test_a_flood_of_bytes_is_not_kept() -> None:
    dissection = Dissection(HOST, KEY, Hash.SHA256, b"c" * 64)
    for _ in range(1000):
        dissection.receive(os.urandom(4096))
    assert len(dissection._received) < 3 * 4096


# The reason


@pytest.mark.parametrize("text", ["", "plain", "naïve", "x" * 5000, "é" * 1000, "two\nlines\0and \x1b[31m"])
def test_reasons_arrive(text: str) -> None:
    data = encode_reason(VmfenceError("what", text, "remedy"))
    assert len(data) <= REASON_BYTES_MAX
    found = decode_reason(data)
    assert found is not None and found.what == "what" and " ".join(text.split())[:400] in found.why


def test_nothing_else_is_a_reason() -> None:
    whole = encode_reason(VmfenceError("what", "why", "remedy"))
    assert all(decode_reason(whole[:cut]) is None for cut in range(len(whole)))
    noise = random.Random(7)
    for _ in range(2000):
        data = bytearray(whole)
        data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
        decode_reason(bytes(data))
        decode_reason(noise.randbytes(noise.randrange(64)))


# Whom a daemon tells


def question(key: Key = KEY, kind: Hash = Hash.SHA1, flags: int = FLAG_TELL, action: Action = Action.MONITOR) -> bytes:
    return sign(encode(Request(action, seqno=1, flags=flags)), key, kind)


@pytest.mark.parametrize(
    ("packet", "auth", "is_told"),
    [
        (question(), Hash.SHA256, True),
        (question(kind=Hash.SHA512, flags=FLAG_TELL | FLAG_UUID), Hash.SHA1, True),
        (question(), Hash.NONE, False),
        (question(kind=Hash.NONE), Hash.SHA256, False),
        (question(Key(b"x" * 32)), Hash.SHA256, False),
        (question(flags=0), Hash.SHA256, False),
        (question(flags=FLAG_UUID), Hash.SHA256, False),
        *((question(action=action), Hash.SHA256, False) for action in Action if action is not Action.MONITOR),
        (question()[:-1], Hash.SHA256, False),
        (b"", Hash.SHA256, False),
        (question()[:1] + b"\xff" + question()[2:], Hash.SHA256, False),
    ],
)
def test_who_is_told_why(packet: bytes, auth: Hash, is_told: bool) -> None:
    security = Security(Hash.SHA512, auth, (KeyEntry(Key(b"first" * 8), None), KeyEntry(KEY, None)))
    found = asks_why(packet, security, 1.0)
    assert (found is not None) == is_told
    assert found is None or found.entry.key == KEY


# Who knocks


def segment(port: int, flags: int) -> bytes:
    return struct.pack(">HHIIBB6x", 40000, port, 0, 0, 0x50, flags)


def ipv4(port: int = 1229, flags: int = 2, options: bytes = b"", protocol: int = 6) -> bytes:
    head = struct.pack(">B8xB2x4s4s", 0x45 + len(options) // 4, protocol, *map(socket.inet_aton, (HOST, GUEST)))
    return head + options + segment(port, flags)


def ipv6(port: int = 1229, flags: int = 2, protocol: int = 6) -> bytes:
    head = struct.pack(">B5xBx16s16x", 0x60, protocol, socket.inet_pton(socket.AF_INET6, "fd88::1"))
    return head + segment(port, flags)


@pytest.mark.parametrize(
    ("packet", "source"),
    [
        (ipv4(), HOST),
        (ipv4(options=b"\1" * 8), HOST),
        (ipv4(flags=0xC2), HOST),  # with ECN
        (ipv6(), "fd88::1"),
        (ipv4(flags=0x12), None),
        (ipv4(flags=0x10), None),
        (ipv4(port=1230), None),
        (ipv4(protocol=17), None),
        (ipv6(flags=0x12), None),
        (ipv6(port=1230), None),
        (ipv6(protocol=58), None),
        (b"", None),
        (b"\x45", None),
        (b"\x55" + ipv4()[1:], None),
    ],
)
def test_who_knocks(packet: bytes, source: str | None) -> None:
    assert knocker(packet, 1229) == source


@pytest.mark.parametrize("whole", [ipv4(options=b"\1" * 8), ipv6()])
def test_a_cut_packet_is_nobody(whole: bytes) -> None:
    for size in range(len(whole) - 6):
        assert knocker(whole[:size], 1229) is None
