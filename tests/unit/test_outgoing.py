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
