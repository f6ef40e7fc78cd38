"""Reading firewalls: what is recorded from real programs in tests/vectors/firewall, and tables of answers.

Recorded on Debian 12 in a network namespace: nftables 1.0.6 (``nft -j list ruleset``; nft-open.json is nft-drop.json
after the two commands below were typed), iptables 1.8.9 (``iptables-save``), ufw 0.36.2 just enabled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vmfence.config import settings as configuration
from vmfence.errors import VmfenceError
from vmfence.host import firewall
from vmfence.host.packet_rules import Opening, iptables_missing, nft_missing

RECORDED = Path(__file__).parent.parent / "vectors" / "firewall"
UDP = Opening("udp", 1229, "br0", igmp=True)
TCP = Opening("tcp", 1229, "br0")
NFT_LINES = (
    'nft insert rule inet filter input iifname "br0" udp dport 1229 accept',
    'nft insert rule inet filter input iifname "br0" ip protocol igmp accept',
)
IPTABLES_LINES = (
    "iptables -I INPUT -i br0 -p udp --dport 1229 -j ACCEPT",
    "iptables -I INPUT -i br0 -p igmp -j ACCEPT",
)


def read(name: str) -> str:
    return (RECORDED / name).read_text()


def test_nft_with_policy_drop_lacks_two_rules() -> None:
    assert nft_missing(read("nft-drop.json"), UDP) == NFT_LINES


def test_nft_lacks_nothing_once_they_are_typed() -> None:
    assert nft_missing(read("nft-open.json"), UDP) == ()
    assert nft_missing(read("nft-open.json"), TCP) == (NFT_LINES[0].replace("udp", "tcp"),)


@pytest.mark.parametrize(
    ("opening", "line"),
    [
        (Opening("udp", 53, "br0"), None),  # in a chain that input jumps to
        (Opening("udp", 53, "br1"), 'iifname "br1" udp dport 53'),
        (Opening("udp", 53, None), "udp dport 53"),
        (Opening("tcp", 22, None), None),
        (Opening("tcp", 22, "br0"), None),  # admitted from everywhere
        (Opening("tcp", 53, "br0", "ipv6"), 'iifname "br0" tcp dport 53'),
    ],
    ids=str,
)
def test_nft_rules_that_admit_and_that_do_not(opening: Opening, line: str | None) -> None:
    expected = () if line is None else (f"nft insert rule inet filter input {line} accept",)
    assert nft_missing(read("nft-drop.json"), opening) == expected


def ruleset(*rules: list[object], policy: str = "accept", family: str = "inet", table: str = "t") -> str:
    """Return a ruleset with one input chain, in the shape of the recorded ones."""
    chain = {"family": family, "table": table, "name": "in", "type": "filter", "hook": "input", "policy": policy}
    entries = [{"rule": {"family": family, "table": table, "chain": "in", "expr": expr}} for expr in rules]
    return json.dumps({"nftables": [{"metainfo": {}}, {"chain": chain}, *entries]})


def port(right: object, op: str = "==") -> object:
    return {"match": {"op": op, "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": right}}


FROM = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.0.0.1"}}
ACCEPT, REJECT = {"accept": None}, {"reject": {}}


@pytest.mark.parametrize(
    ("text", "is_missing"),
    [
        ('{"nftables": []}', False),
        (ruleset(), False),
        (ruleset([REJECT]), True),
        (ruleset([FROM, {"drop": None}]), True),
        (ruleset([port(1229), ACCEPT], policy="drop"), False),
        (ruleset([port({"set": [53, {"range": [1200, 1300]}]}), ACCEPT], policy="drop"), False),
        (ruleset([port({"set": [53, 67]}), ACCEPT], policy="drop"), True),
        (ruleset([port({"range": [1, 1228]}), ACCEPT], policy="drop"), True),
        (ruleset([port(1229, "!="), ACCEPT], policy="drop"), True),
        (ruleset([FROM, port(1229), ACCEPT], policy="drop"), True),
        (ruleset([port(1229), REJECT], policy="drop"), True),
        (ruleset(policy="drop", family="ip6"), False),
        (ruleset(policy="drop", family="bridge"), False),
    ],
)
def test_nft_rulesets(text: str, is_missing: bool) -> None:
    assert bool(nft_missing(text, UDP)) is is_missing


def test_nft_leaves_the_table_of_iptables_to_iptables() -> None:
    text = ruleset(policy="drop", family="ip", table="filter").replace('"in"', '"INPUT"')
    assert nft_missing(text, UDP) == ()


def test_iptables_with_reject_lacks_two_rules() -> None:
    assert iptables_missing(read("reject.iptables-save"), UDP) == IPTABLES_LINES


def test_iptables_lacks_nothing_once_they_are_typed() -> None:
    # as iptables-save writes the first of the two afterwards
    saved = read("reject.iptables-save").replace(
        "-A INPUT -m", "-A INPUT -i br0 -p udp -m udp --dport 1229 -j ACCEPT\n-A INPUT -m", 1
    )
    assert iptables_missing(saved, UDP) == ()


@pytest.mark.parametrize(
    ("rule", "is_missing"),
    [
        ("-A INPUT -p udp -m udp --dport 1229 -j ACCEPT", False),
        ("-A INPUT -i br1 -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -s 10.0.0.1/32 -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -p tcp -m tcp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -g own\n-A own -p udp -m udp --dport 1229 -j ACCEPT", False),
        ("-A FORWARD -p udp -m udp --dport 1229 -j ACCEPT", True),
    ],
)
def test_iptables_rules_that_admit_and_that_do_not(rule: str, is_missing: bool) -> None:
    saved = f"*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n{rule}\nCOMMIT\n"
    assert bool(iptables_missing(saved, UDP)) is is_missing


@pytest.mark.parametrize(
    "saved",
    [
        "",
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -j DROP\nCOMMIT\n",
        "*nat\n:INPUT DROP [0:0]\n",
    ],
)
def test_iptables_that_stop_nothing_on_the_way_in(saved: str) -> None:
    assert iptables_missing(saved, UDP) == ()


def test_ufw_is_told_by_its_own_command() -> None:
    assert iptables_missing(read("ufw.iptables-save"), UDP) == ("ufw allow in on br0 to any port 1229 proto udp",)


def test_ipv6_has_its_own_program() -> None:
    lines = iptables_missing(read("reject.iptables-save"), Opening("udp", 1229, "br0", "ipv6"))
    assert lines == ("ip6tables -I INPUT -i br0 -p udp --dport 1229 -j ACCEPT",)


class Firewalld:
    """Answers as firewall-cmd 1.3.3 did: yes to what is in *yes*, the zone of br0, no to the rest."""

    def __init__(self, *yes: str, zone: str | None = "libvirt") -> None:
        self._yes, self._zone = yes, zone

    def __call__(self, words: Sequence[str]) -> tuple[bool, str]:
        if words[0].startswith("--get-zone-of-interface="):
            return (True, self._zone) if self._zone else (False, "no zone")
        if words[0] == "--get-default-zone":
            return True, "public"
        return (True, "yes") if " ".join(words) in self._yes else (False, "no")


SERVE = ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-service=vmfence")
KNOW = ("firewall-cmd", "--permanent", f"--new-service-from-file={firewall.SERVICE_FILE}", "--name=vmfence")
NOW = (
    ("firewall-cmd", "--zone=libvirt", "--add-port=1229/udp"),
    ("firewall-cmd", "--zone=libvirt", "--add-protocol=igmp"),
)
PORTS = ("--zone=libvirt --query-port=1229/udp", "--zone=libvirt --query-protocol=igmp")
PERMANENT_PORTS = tuple(f"--permanent {words}" for words in PORTS)


@pytest.mark.parametrize(
    ("yes", "expected"),
    [
        ((), (KNOW, SERVE, *NOW)),
        (("--permanent --path-service=vmfence",), (SERVE, *NOW)),
        (("--permanent --zone=libvirt --query-service=vmfence",), NOW),
        (("--permanent --zone=libvirt --query-service=vmfence", "--zone=libvirt --query-service=vmfence"), ()),
        (("--permanent --zone=libvirt --query-service=vmfence", *PORTS), ()),
        ((*PERMANENT_PORTS, *PORTS), ()),
        (PORTS, (KNOW, SERVE)),
        ((PORTS[0],), (KNOW, SERVE, *NOW)),  # without IGMP it is half
    ],
)
def test_firewalld_is_told_what_is_missing(yes: tuple[str, ...], expected: tuple[tuple[str, ...], ...]) -> None:
    assert firewall.firewalld_missing(Firewalld(*yes), [UDP]) == (("libvirt",), expected)


def test_firewalld_without_a_zone_for_the_bridge() -> None:
    zones, commands = firewall.firewalld_missing(Firewalld(zone=None), [TCP])
    assert zones == ("public",) and "--zone=public" in commands[-1]


def test_firewalld_and_another_port() -> None:
    _, commands = firewall.firewalld_missing(Firewalld(), [Opening("tcp", 1300, "br0")])
    assert commands == (
        ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-port=1300/tcp"),
        ("firewall-cmd", "--zone=libvirt", "--add-port=1300/tcp"),
    )


def test_two_listeners_share_the_service() -> None:
    _, commands = firewall.firewalld_missing(Firewalld(), [UDP, TCP])
    assert commands.count(SERVE) == 1 and commands.count(KNOW) == 1
    assert ("firewall-cmd", "--zone=libvirt", "--add-port=1229/tcp") in commands


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        ('multicast { interface = "br0"; }', [UDP]),
        ('multicast { interface = "br0"; family = "ipv6"; }', [Opening("udp", 1229, "br0", "ipv6")]),
        ("multicast { }", [Opening("udp", 1229, None, igmp=True)]),
        ('tcp { address = "10.88.0.1"; port = "1300"; }', [Opening("tcp", 1300, "br0")]),
        ('tcp { address = "0.0.0.0"; }', [Opening("tcp", 1229, None)]),
        ("tcp { }", []),
        ('tcp { address = "::1"; }', []),
        ('serial { mode = "serial"; }', []),
    ],
)
def test_what_listeners_need(listeners: str, expected: list[Opening]) -> None:
    name = listeners.split()[0]
    text = f'fence_virtd {{ listener = "{name}"; backend = "libvirt"; }} listeners {{ {listeners} }}'
    settings = configuration.read(f'{text} backends {{ libvirt {{ uri = "test:///default"; }} }}'.encode(), "f")
    assert list(firewall.openings(settings, {"10.88.0.1": "br0"}.get)) == expected


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    script = tmp_path / "firewall-cmd"
    script.write_text("#!/bin/sh\necho 'Error: INVALID_ZONE: nope' >&2\nexit 112\n")
    script.chmod(0o755)
    with pytest.raises(VmfenceError, match="--add-port=1/udp failed") as caught:
        firewall.open_up([(str(script), "--add-port=1/udp")])
    assert caught.value.why == "Error: INVALID_ZONE: nope"


def test_the_service_definition_names_our_port() -> None:
    text = Path(firewall.SERVICE_FILE).read_text()
    for line in ('protocol="udp" port="1229"', 'protocol="tcp" port="1229"', 'value="igmp"'):
        assert line in text
