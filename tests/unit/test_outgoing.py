"""Rules for what leaves this machine: recorded rulesets and small ones, walked in the other direction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmfence.packetfilter.origins import Origin, Origins
from vmfence.packetfilter.outgoing import mirrored, turned
from vmfence.packetfilter.rules import Opening
from vmfence.packetfilter.rulesets import Rulesets

ANSWERS = Opening("tcp", 1229, "br0", answered=(32768, 60999))
RECORDED = Path(__file__).parent.parent / "vectors" / "firewall"
BACK = Opening("tcp", 1229, "br0")
Json = dict[str, Any]


def stops(rulesets: Rulesets) -> list[str]:
    return [turned(each.command) for each in mirrored(rulesets).obstacles(BACK)]


def nft(*rules: list[Json], hook: str = "output", policy: str = "accept", table: str = "f") -> Rulesets:
    chain = {"family": "inet", "table": table, "name": "c", "type": "filter", "hook": hook, "policy": policy}
    entries: list[Json] = [{"chain": chain}]
    entries += [{"rule": {"family": "inet", "table": table, "chain": "c", "expr": expr}} for expr in rules]
    return Rulesets("ipv4", json.dumps({"nftables": [{"metainfo": {}}, *entries]}))


def by(interface: str, key: str = "oifname") -> Json:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": interface}}


def to(port: int) -> Json:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}}


DROP, ACCEPT = {"drop": None}, {"accept": None}
NFT_LINE = 'nft insert rule inet f c oifname "br0" tcp dport 1229 accept'


@pytest.mark.parametrize(
    ("rulesets", "found"),
    [
        (nft([by("br0"), to(1229), DROP]), [NFT_LINE]),
        (nft([by("br1"), to(1229), DROP]), []),
        (nft([by("br0"), to(22), DROP]), []),
        (nft(policy="drop"), [NFT_LINE]),
        (nft([by("br0"), ACCEPT], policy="drop"), []),
        (nft([to(1229), DROP], hook="input"), []),  # not our direction
        (nft([to(1229), DROP], hook="forward"), []),
        (nft([to(1229), DROP], table="firewalld"), []),
        (Rulesets("ipv4"), []),
    ],
)
def test_nft_in_the_other_direction(rulesets: Rulesets, found: list[str]) -> None:
    assert stops(rulesets) == found


SAVED = "*filter\n:INPUT {0} [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT {1} [0:0]\n{2}COMMIT\n"
LINE = "iptables -I OUTPUT -o br0 -p tcp --dport 1229 -j ACCEPT"


@pytest.mark.parametrize(
    ("saved", "found"),
    [
        (SAVED.format("DROP", "ACCEPT", ""), []),
        (SAVED.format("ACCEPT", "DROP", ""), [LINE]),
        (SAVED.format("ACCEPT", "DROP", "-A OUTPUT -o br0 -j ACCEPT\n"), []),
        (SAVED.format("ACCEPT", "ACCEPT", "-A OUTPUT -o br0 -p tcp -m tcp --dport 1229 -j REJECT\n"), [LINE]),
        (SAVED.format("ACCEPT", "ACCEPT", "-A OUTPUT -o br1 -j DROP\n-A INPUT -i br0 -j DROP\n"), []),
        ("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j REDIRECT --to-ports 7\nCOMMIT\n", []),
    ],
)
def test_iptables_in_the_other_direction(saved: str, found: list[str]) -> None:
    assert stops(Rulesets("ipv4", saved=saved)) == found
    assert stops(Rulesets("ipv4", legacy=saved)) == [line.replace("iptables", "iptables-legacy") for line in found]


def towards(address: str) -> Json:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": address}}


@pytest.mark.parametrize(
    "rulesets",
    [
        nft([towards("10.88.0.11"), to(1229), DROP]),
        Rulesets("ipv4", saved=SAVED.format("ACCEPT", "ACCEPT", "-A OUTPUT -d 10.88.0.11/32 -p tcp -j DROP\n")),
    ],
)
def test_the_way_back_to_one_guest(rulesets: Rulesets) -> None:
    known = Origins((Origin("10.88.0.11"), Origin("10.88.0.12")), ("10.88.0.0/24",), frozenset({"10.88.0.1"}))
    [found] = mirrored(rulesets).obstacles(replace(BACK, origins=known))
    assert [str(guest) for guest in found.stoppage.guests] == ["10.88.0.11"] and found.stops
    [shown] = map(turned, found.stoppage.by)
    assert "saddr" not in shown and "-s " not in shown and "10.88.0.11" in shown


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDED.iterdir()))
def test_recorded_rules_can_be_read_in_the_other_direction(name: str) -> None:
    text = (RECORDED / name).read_text()
    rulesets = Rulesets("ipv4", nft=text) if name.endswith(".json") else Rulesets("ipv4", saved=text)
    assert not [command for command in stops(rulesets) if "INPUT" in command or "iifname" in command]


def test_a_command_is_turned_round_and_back() -> None:
    for command in (LINE, NFT_LINE, "ufw allow out on br0 to any port 1229 proto tcp"):
        assert turned(turned(command)) == command != turned(command)


def lacks(rules: str, policy: str = "ACCEPT") -> list[str]:
    """Return what has to be typed for the answers of guests to come in, with these *rules* of iptables."""
    saved = SAVED.format(policy, "ACCEPT", "".join(f"-A INPUT {rule}\n" for rule in rules.splitlines()))
    return [each.command for each in Rulesets("ipv4", saved=saved).obstacles(ANSWERS)]


BACK_IN = "iptables -I INPUT -i br0 -p tcp --sport 1229 -m conntrack --ctstate ESTABLISHED -j ACCEPT"


@pytest.mark.parametrize(
    ("rule", "is_stopped"),
    [
        ("-p tcp -j DROP", True),
        ("-p udp -j DROP", False),
        ("-p tcp -m tcp --sport 1229 -j DROP", True),
        ("-p tcp -m tcp --sport 22 -j DROP", False),
        ("-p tcp -m multiport --sports 22,1000:2000 -j DROP", True),
        ("-p tcp -m tcp --dport 22 -j DROP", False),
        ("-p tcp -m tcp --dport 1229 -j DROP", False),  # our end of the connection is one that the kernel chose
        ("-p tcp -m tcp --dport 40000 -j DROP", True),
        ("-p tcp -m tcp --dport 1024:65535 -j DROP", True),
        ("-m conntrack --ctstate INVALID,NEW -j DROP", False),
        ("-m conntrack --ctstate ESTABLISHED -j DROP", True),
        ("-m conntrack --ctdir ORIGINAL -j DROP", False),
        ("-m conntrack --ctstatus ASSURED -j DROP", True),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", False),
        ("-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j DROP", True),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP", False),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", True),
        ("-i br1 -j DROP", False),
        ("-d 224.0.0.0/4 -j DROP", False),
        ("-d 255.255.255.255/32 -j DROP", False),
        ("-d 10.88.0.1/32 -j DROP", True),
    ],
)
def test_answers_of_guests_come_in_by_iptables(rule: str, is_stopped: bool) -> None:
    assert lacks(rule) == ([BACK_IN] if is_stopped else [])


@pytest.mark.parametrize(
    ("rule", "is_admitted"),
    [
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", True),
        ("-m state --state ESTABLISHED -j ACCEPT", True),
        ("-m conntrack --ctstate RELATED -j ACCEPT", False),
        ("-p tcp -m tcp --dport 1229 -j ACCEPT", False),
        ("-p tcp -m tcp --dport 32768:60999 -j ACCEPT", True),
        ("-p tcp -m tcp --dport 40000:50000 -j ACCEPT", False),
        ("-p tcp -m tcp --sport 1229 -j ACCEPT", True),
        ("-i br0 -j ACCEPT", True),
    ],
)
def test_a_policy_that_drops_needs_a_rule_for_answers(rule: str, is_admitted: bool) -> None:
    assert lacks(rule, "DROP") == ([] if is_admitted else [BACK_IN])


def test_before_connections_are_known_none_is_asked_for() -> None:
    saved = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
    [found] = Rulesets("ipv4", saved=saved).obstacles(ANSWERS)
    assert found.command == "iptables -t raw -I PREROUTING -i br0 -p tcp --sport 1229 -j ACCEPT" and not found.stops


def test_at_a_bridge_the_advice_names_none() -> None:
    """Kernels may know no names of bridges there."""
    text = nft([to(1229), DROP], hook="input").nft.replace('"inet"', '"bridge"')
    asking = Opening("tcp", 1229, "br0")
    assert [each.command for each in Rulesets("ipv4", text).obstacles(asking)] == [
        "nft insert rule bridge f c tcp dport 1229 accept"
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDED.iterdir() if path.suffix != ".txt"))
def test_the_recorded_rules_let_answers_in(name: str) -> None:
    text = (RECORDED / name).read_text()
    rulesets = Rulesets("ipv4", nft=text) if name.endswith(".json") else Rulesets("ipv4", saved=text)
    assert list(rulesets.obstacles(ANSWERS)) == []
