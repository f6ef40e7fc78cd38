"""Access rules: who is admitted by which group, and which guests it reaches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmfence.errors import PolicyDenied
from vmfence.policy import Group, Origin, Policy, Source

ALPHA = "44179d3f-0000-4000-8000-00000000000a"
BETA = "44179d3f-0000-4000-8000-00000000000b"
KEY = "fingerprint-1"

SOURCES = [
    ("192.168.1.1", "192.168.1.1", True),
    ("192.168.1.1", "192.168.1.2", False),
    ("192.168.1.1", "192.168.1.10", False),
    ("192.168.1.1", "::ffff:192.168.1.1", True),
    ("::ffff:192.168.1.1", "192.168.1.1", True),
    ("10.0.0.0/8", "10.255.0.1", True),
    ("10.0.0.0/8", "11.0.0.1", False),
    ("10.0.0.0/8", "::ffff:10.1.2.3", True),
    ("::ffff:10.0.0.0/104", "10.1.2.3", True),
    ("0.0.0.0/0", "8.8.8.8", True),
    ("0.0.0.0/0", "2001:db8::1", False),
    ("::/0", "2001:db8::1", True),
    ("::/0", "8.8.8.8", False),
    ("2001:db8::1", "2001:DB8:0:0::1", True),
    ("2001:DB8:0::1", "2001:db8::1", True),
    ("2001:db8::/32", "2001:db8:1::1", True),
    ("fe80::1%virbr0", "fe80::1%virbr0", True),
    ("fe80::1%virbr0", "fe80::1%virbr1", False),
    ("fe80::1%virbr0", "fe80::1", False),
    ("fe80::1", "fe80::1%virbr0", False),
    ("fe80::/10", "fe80::1%virbr0", True),
    ("192.168.1.1", "no address", False),
    ("3", "0.0.0.3", False),
]

NO_SOURCES = [
    *(
        "",
        " ",
        "host.example",
        "1.2.3",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4%eth0",
        "fe80::1%",
        "fe80::1%a/b",
        "::g",
    ),
    *("10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/255.0.0.0", "10.0.0.0/-1", "fe80::%eth0/64", "/8"),
    *("0", "03", "-1", "4294967295", "9" * 5000, "0x3", "1.2.3.4 ", "192.168.1.*", "::1/129", "fe80::1%a b"),
]


def tcp(address: str) -> Origin:
    return Origin("tcp", address=address)


def vsock(cid: int) -> Origin:
    return Origin("vsock", cid=cid)


def serial(uuid: str) -> Origin:
    return Origin("serial", guest_uuid=uuid)


def group(ip: str = "", uuid: str = "alpha", key: str | None = None) -> Group:
    return Group("g", tuple(Source.parse(text) for text in ip.split()), tuple(uuid.split()), key)


@pytest.mark.parametrize(("entry", "address", "expected"), SOURCES)
def test_source_matches_address(entry: str, address: str, expected: bool) -> None:
    assert Source.parse(entry).matches(tcp(address)) is expected


def test_source_matches_cid() -> None:
    assert Source.parse("3").matches(vsock(3))
    assert not Source.parse("3").matches(vsock(33))
    assert not Source.parse("3").matches(serial(ALPHA))
    assert not Source.parse("10.0.0.1").matches(vsock(3))


@pytest.mark.parametrize("entry", NO_SOURCES)
def test_not_a_source(entry: str) -> None:
    with pytest.raises(ValueError, match="."):
        Source.parse(entry)


def test_network_with_host_bits_names_the_network_that_is_meant() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8 is meant"):
        Source.parse("10.0.0.1/8")


@given(st.text(max_size=50))
def test_any_text_is_a_source_or_a_value_error(text: str) -> None:
    try:
        source = Source.parse(text)
    except ValueError:
        return
    assert source.text == text


@given(st.ip_addresses().map(str))
def test_every_address_matches_itself_as_source(address: str) -> None:
    assert Source.parse(address).matches(tcp(address))


def test_no_groups_section_allows_everything() -> None:
    policy = Policy(None)
    policy.check(tcp("192.168.1.1"), None, "alpha", ALPHA)
    assert policy.shows(serial(BETA), None, "alpha", ALPHA)
    assert policy.mentions(vsock(3), None, "gamma")


def test_groups_without_any_group_allow_nothing() -> None:
    policy = Policy(())
    with pytest.raises(PolicyDenied):
        policy.check(tcp("192.168.1.1"), None, "alpha", ALPHA)
    assert not policy.mentions(tcp("192.168.1.1"), None, "alpha")


ADMISSION = {
    "address listed": (group("192.168.1.1"), tcp("192.168.1.1"), None, True),
    "address not listed": (group("192.168.1.1"), tcp("192.168.1.2"), None, False),
    "second address": (group("192.168.1.1 10.0.0.0/8"), tcp("10.1.1.1"), None, True),
    "cid listed": (group("3"), vsock(3), None, True),
    "cid not listed": (group("3"), vsock(4), None, False),
    "cid not listed, guest behind it known": (
        group("4"),
        Origin("vsock", cid=3, guest_uuid=ALPHA),
        None,
        False,
    ),
    "no sources": (group(), tcp("192.168.1.1"), None, False),
    "claim does not count": (
        group("10.0.0.1"),
        Origin("multicast", "10.0.0.2", claimed="10.0.0.1"),
        None,
        False,
    ),
    "serial, member": (group("", f"alpha {ALPHA}"), serial(ALPHA.upper()), None, True),
    "serial, no member": (group("", f"alpha {ALPHA}"), serial(BETA), None, False),
    "serial, member of a group with sources": (
        group("10.0.0.1", f"alpha {ALPHA}"),
        serial(ALPHA),
        None,
        True,
    ),
    "serial, no member of a group with sources": (group("10.0.0.1", "alpha"), serial(ALPHA), None, False),
    "serial, group's key": (group("", "alpha", KEY), serial(BETA), KEY, True),
    "group's key, no sources": (group("", "alpha", KEY), tcp("192.168.1.1"), KEY, True),
    "group's key, source listed": (group("10.0.0.1", "alpha", KEY), tcp("10.0.0.1"), KEY, True),
    "group's key, source not listed": (group("10.0.0.1", "alpha", KEY), tcp("10.0.0.2"), KEY, False),
    "group's key, but request with the listener's": (
        group("10.0.0.1", "alpha", KEY),
        tcp("10.0.0.1"),
        None,
        False,
    ),
    "another group's key": (group("10.0.0.1", "alpha", KEY), tcp("10.0.0.1"), "fingerprint-2", False),
    "own key in a group of the listener's": (group("10.0.0.1"), tcp("10.0.0.1"), KEY, False),
    "nobody": (group("10.0.0.1"), Origin("tcp"), None, False),
}


@pytest.mark.parametrize(("rule", "origin", "key_id", "expected"), ADMISSION.values(), ids=ADMISSION)
def test_who_is_admitted(rule: Group, origin: Origin, key_id: str | None, expected: bool) -> None:
    assert Policy((rule,)).shows(origin, key_id, "alpha", ALPHA) is expected


TARGETS = {
    "name": ("alpha", True),
    "uuid": (ALPHA, True),
    "uuid in capitals": (ALPHA.upper(), True),
    "name in another case": ("ALPHA", False),
    "other uuid": (BETA, False),
    "other name": ("beta", False),
    "part of the name": ("alph", False),
    "pattern": ("*", False),
    "uuid without dashes is a name": (ALPHA.replace("-", ""), False),
}


@pytest.mark.parametrize(("target", "expected"), TARGETS.values(), ids=TARGETS)
def test_which_guest_is_meant(target: str, expected: bool) -> None:
    policy = Policy((group("10.0.0.1", target),))
    assert policy.shows(tcp("10.0.0.1"), None, "alpha", ALPHA) is expected


def test_guest_named_like_the_uuid_of_another_does_not_inherit_its_rules() -> None:
    policy = Policy((group("10.0.0.1", ALPHA),))
    assert not policy.shows(tcp("10.0.0.1"), None, ALPHA, BETA)


def test_origin_and_guest_must_be_in_the_same_group() -> None:
    policy = Policy((group("10.0.0.1", "alpha"), group("10.0.0.2", "beta")))
    assert policy.shows(tcp("10.0.0.2"), None, "beta", BETA)
    assert not policy.shows(tcp("10.0.0.2"), None, "alpha", ALPHA)


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        (tcp("10.0.0.2"), f"no group admits tcp 10.0.0.2, which asked for guest 'beta' ({BETA})"),
        (tcp("10.0.0.1"), f"no group that admits tcp 10.0.0.1 lists guest 'beta' ({BETA})"),
        (vsock(7), f"no group admits vsock CID 7, which asked for guest 'beta' ({BETA})"),
        (serial(ALPHA), f"no group admits serial guest {ALPHA}, which asked for guest 'beta' ({BETA})"),
    ],
)
def test_denial_names_origin_and_guest(origin: Origin, why: str) -> None:
    with pytest.raises(PolicyDenied) as caught:
        Policy((group("10.0.0.1"),)).check(origin, None, "beta", BETA)
    assert caught.value.why == why
    assert caught.value.remedy == "to allow it, let one group list both"


def test_allowed_is_silent() -> None:
    Policy((group("10.0.0.1"),)).check(tcp("10.0.0.1"), None, "alpha", ALPHA)


def test_only_who_is_admitted_learns_that_a_guest_is_unknown() -> None:
    policy = Policy((group("10.0.0.1", f"alpha {BETA}"),))
    assert policy.mentions(tcp("10.0.0.1"), None, "alpha")
    assert policy.mentions(tcp("10.0.0.1"), None, BETA.upper())
    assert not policy.mentions(tcp("10.0.0.1"), None, "gamma")
    assert not policy.mentions(tcp("10.0.0.2"), None, "alpha")
    assert not policy.mentions(tcp("10.0.0.1"), KEY, "alpha")


def test_origin_as_text() -> None:
    assert str(Origin("multicast", "10.0.0.2", claimed="10.0.0.1")) == "multicast 10.0.0.2 (claims 10.0.0.1)"
    assert str(Origin("multicast", "10.0.0.2", claimed="10.0.0.2")) == "multicast 10.0.0.2"
