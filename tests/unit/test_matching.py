"""Which guest each node is: every rule, and that doubt is never a guess."""

from __future__ import annotations

import pytest

from vmfence.cluster.matching import Machine, Matching, match, parse_map, stopped
from vmfence.errors import UsageError
from vmfence.protocol.reply import Record, State


def guest(name: str, number: int) -> Record:
    return Record(name, f"88000000-0000-4000-8000-{number:012d}", 1)


ALPHA, BETA, GAMMA = guest("alpha", 1), guest("beta", 2), guest("gamma", 3)


def paired(found: Matching) -> dict[str, tuple[str, str]]:
    return {pair.node: (pair.guest.name, pair.reason) for pair in found.pairs}


def faults(found: Matching) -> str:
    return "\n".join(map(str, found.faults))


def reason(node: str, name: str) -> str:
    """Return why *node* is the guest *name*, "" for not at all."""
    found = match([node], [guest(name, 1), GAMMA], {})
    return paired(found)[node][1] if not found.faults else ""


@pytest.mark.parametrize(
    ("node", "name", "why"),
    [
        ("n1", "n1", "equal name"),
        ("N1", "n1", "equal name but for case"),
        ("nginx-01", "rhel79-nginx-01", "unique prefix or suffix"),
        ("n1.example.com", "n1", "unique prefix or suffix"),
        ("n1", "n1_clone", "unique prefix or suffix"),
        ("n1", "LAB.N1", "unique prefix or suffix"),
        ("n1", "n10", ""),
        ("n1", "xn1", ""),
        ("n1", "a-n1-b", ""),
        ("n1", "", ""),
    ],
)
def test_names(node: str, name: str, why: str) -> None:
    assert reason(node, name) == why


def test_given_by_name_or_uuid() -> None:
    found = match(["n1", "n2"], [ALPHA, BETA], {"N1": "beta", "n2": ALPHA.uuid.upper()})
    assert paired(found) == {"n1": ("beta", "given"), "n2": ("alpha", "given")}
    assert not found.faults


def test_given_beats_an_equal_name() -> None:
    found = match(["alpha", "n2"], [ALPHA, BETA], {"n2": "alpha"})
    assert paired(found) == {"n2": ("alpha", "given")}
    assert "no guest fits node 'alpha'. guests that no node has yet: beta" in faults(found)


def test_given_to_a_stranger() -> None:
    found = match(["n1"], [guest("n1", 1)], {"n7": "n1"})
    assert faults(found) == "--map names 'n7', which is no node to map. the nodes are n1. mend --map."


def test_given_guest_that_is_not_shown() -> None:
    found = match(["n1"], [ALPHA], {"n1": "omega"})
    assert not found.pairs
    assert f"the host shows no guest 'omega'. it shows alpha ({ALPHA.uuid})" in faults(found)


def test_given_name_of_two_guests() -> None:
    twin = guest("alpha", 9)
    assert "fits several guests" in faults(match(["n1"], [ALPHA, twin], {"n1": "alpha"}))
    assert paired(match(["n1"], [ALPHA, twin], {"n1": twin.uuid})) == {"n1": ("alpha", "given")}


@pytest.mark.parametrize("uuid", [BETA.uuid, BETA.uuid.upper(), "00000088-0000-0040-8000-000000000002"])
def test_uuid_of_this_machine(uuid: str) -> None:
    found = match(["n1", "n2"], [guest("n2", 1), BETA], {}, Machine("n1", uuid))
    assert paired(found) == {"n1": ("beta", "machine UUID of this node"), "n2": ("n2", "equal name")}


def test_uuid_beats_an_equal_name() -> None:
    """The guest that is called like this node is another machine: no fencing of it, and no guess who it is."""
    found = match(["beta", "alpha"], [ALPHA, BETA], {}, Machine("alpha", BETA.uuid))
    assert paired(found) == {"alpha": ("beta", "machine UUID of this node")}
    assert "no guest fits node 'beta'" in faults(found)


def test_uuid_contradicts_what_was_given() -> None:
    found = match(["n1", "n2"], [ALPHA, BETA], {"n1": "beta", "n2": "alpha"}, Machine("n1", ALPHA.uuid))
    assert "node 'n1' is not guest 'beta' (given)" in faults(found)
    assert "give --map n1:alpha" in faults(found)


def test_uuid_that_no_guest_has_contradicts_a_name() -> None:
    found = match(["alpha"], [ALPHA], {}, Machine("alpha", GAMMA.uuid))
    assert "node 'alpha' is not guest 'alpha' (equal name)" in faults(found)
    assert "which no guest shown has" in faults(found)


def test_uuid_unknown_leaves_the_names() -> None:
    assert paired(match(["alpha"], [ALPHA], {}, Machine("alpha", ""))) == {"alpha": ("alpha", "equal name")}


@pytest.mark.parametrize("names", [("a-n1", "b-n1"), ("n1", "n1"), ("N1", "N1"), ("n1.a", "n1.b")])
def test_several_guests_for_a_node(names: tuple[str, str]) -> None:
    found = match(["n1"], [guest(name, number) for number, name in enumerate(names)], {})
    assert not found.pairs
    assert "node 'n1' may be one of several guests" in faults(found)
    for name in names:
        assert name in faults(found)


def test_several_nodes_for_a_guest() -> None:
    found = match(["n1.east", "n1.west"], [guest("n1", 1)], {})
    assert not found.pairs
    assert "guest 'n1' may be one of several nodes" in faults(found)


def test_what_is_left_over_is_no_proof() -> None:
    """a-n1 is taken by the node of that name; that b-n1 is left does not make it n1."""
    found = match(["n1", "a-n1"], [guest("a-n1", 1), guest("b-n1", 2)], {})
    assert paired(found) == {"a-n1": ("a-n1", "equal name")}
    assert "node 'n1' may be one of several guests" in faults(found)


def test_two_nodes_on_one_guest() -> None:
    found = match(["n1", "n2"], [ALPHA, BETA], {"n1": "alpha", "n2": ALPHA.uuid})
    assert "guest 'alpha' is given to several nodes. n1, n2" in faults(found)


def test_the_same_guest_from_two_hosts_is_one() -> None:
    assert paired(match(["alpha"], [ALPHA, ALPHA], {})) == {"alpha": ("alpha", "equal name")}


def test_hostile_names_are_escaped_and_lists_end() -> None:
    many = [guest(f"\x1b[2Jx{number}\n", number) for number in range(30)]
    text = faults(match(["n1"], many, {}))
    assert "\x1b" not in text
    assert "\n" not in text
    assert "and 20 more" in text


def test_nothing_shown() -> None:
    assert "no guest fits node 'n1'. the host shows no guest that is left" in faults(match(["n1"], [], {}))


def test_map_of_pairs() -> None:
    assert parse_map(["n1:a:b", "n2: x"]) == {"n1": "a:b", "n2": " x"}


@pytest.mark.parametrize("texts", [["n1"], ["n1:"], [":a"], ["n1:a", "N1:b"], [""]])
def test_bad_map(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_map(texts)


def test_node_that_is_online_is_no_guest_that_is_off() -> None:
    off = Record("n1", ALPHA.uuid, State.SHUT_OFF)
    found = match(["n1", "n2"], [off, guest("n2", 2), GAMMA], {})
    [fault] = stopped(found.pairs, [off, guest("n2", 2), GAMMA], ["N1", "n2"])
    assert "node 'n1' is online, and guest 'n1' (equal name) is not running" in str(fault)
    assert f"those that run and no node has: gamma ({GAMMA.uuid})" in str(fault)
    assert "--map n1:GUEST" in str(fault) and "--force" in str(fault)
    assert not list(stopped(found.pairs, [off], ["n2"]))
