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
from vmfence.host.openings import SERVICE_FILE, openings
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewalld import Needs, firewalld_missing
from vmfence.packetfilter.iptables import iptables_stops
from vmfence.packetfilter.rules import Opening
from vmfence.packetfilter.rulesets import Rulesets

RECORDED = Path(__file__).parent.parent / "vectors" / "firewall"
UDP = Opening("udp", 1229, "br0", igmp=True, address="225.0.0.12")
REQUEST = Opening("udp", 1229, "br0", address="225.0.0.12")  # without IGMP
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


def nft_missing(text: str, opening: Opening, ports: Sequence[str] = (), saved: str = "") -> tuple[str, ...]:
    """Return the commands that *opening* lacks, where the rules of nft are *text* and iptables-save wrote *saved*."""
    return tuple(each.command for each in Rulesets(opening.family, text, saved).obstacles(opening, ports))


def iptables_missing(saved: str, opening: Opening, program: str = "", admitting: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the commands that *opening* lacks, where iptables-save wrote *saved*."""
    return tuple(dict.fromkeys(command for command, *_ in iptables_stops(saved, opening, program, admitting)))


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
ACCEPT: object = {"accept": None}
REJECT: object = {"reject": {}}
ON_BR1 = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "br1"}}
OF_TCP = {"match": {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}
STATE_INVALID = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
STATES = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
GROUPS = {"prefix": {"addr": "225.0.0.0", "len": 24}}
TO_GROUP = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": GROUPS}}


def vmap(*entries: list[object]) -> object:
    return {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": list(entries)}}}


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
        (ruleset(policy="drop", family="bridge"), True),  # between the guests and the host as well
        (ruleset(policy="drop", family="arp"), False),
        # The order decides.
        (ruleset([REJECT], [port(1229), ACCEPT]), True),
        (ruleset([port(1229), ACCEPT], [REJECT]), False),
        (ruleset([FROM, {"drop": None}], [port(1229), ACCEPT]), True),
        (ruleset([ON_BR1, REJECT], [port(1229), ACCEPT], policy="drop"), False),
        (ruleset([STATE_INVALID, {"drop": None}], [port(1229), ACCEPT], policy="drop"), False),
        (ruleset([STATES, port(1229), ACCEPT], policy="drop"), True),  # only what is established
        (ruleset([{"jump": {"target": "more"}}], [port(1229), ACCEPT], policy="drop"), True),  # a chain nobody knows
        (ruleset([{"queue": {"num": 1}}], [port(1229), ACCEPT]), True),
        (ruleset([{"limit": {"rate": 3}}, port(1229), ACCEPT], policy="drop"), True),
        (ruleset([{"counter": {}}, {"log": {}}, port(1229), ACCEPT], policy="drop"), False),
        (ruleset([OF_TCP, REJECT]), False),
        (ruleset([TO_GROUP, port(1229), ACCEPT], policy="drop"), False),
        (ruleset([port("@open"), ACCEPT], policy="drop"), True),
        (ruleset([port(53, "!="), REJECT]), True),
        (ruleset([port(1229, "!="), REJECT]), False),
        (ruleset([vmap(["established", ACCEPT], ["invalid", {"drop": None}])]), False),
        (ruleset([vmap(["established", ACCEPT], ["new", {"drop": None}])]), True),
        (ruleset([{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@zones"}}]), True),
        (ruleset([{"return": None}], [REJECT]), False),
    ],
)
def test_nft_rulesets(text: str, is_missing: bool) -> None:
    assert bool(nft_missing(text, REQUEST)) is is_missing


BY_NFT = "# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 12:31:51 2026\n"
EMPTY = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"
COMPLAINT = "# Table `filter' contains incompatible base-chains, use 'nft' tool to list them.\n"
OF_IPTABLES = ruleset(
    [{"xt": {"type": "match", "name": "comment"}}, {"drop": None}], family="ip", table="filter"
).replace('"in"', '"INPUT"')


def test_what_nft_cannot_read_iptables_reads() -> None:
    def found(rule: str, before: str = BY_NFT) -> tuple[str, ...]:
        return nft_missing(OF_IPTABLES, REQUEST, saved=f"{before}*filter\n:INPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n")

    assert found("-A INPUT -p tcp -m comment --comment x -j DROP") == ()
    assert found("-A INPUT -m comment --comment x -j DROP") == IPTABLES_LINES[:1]
    assert found("-A INPUT -p tcp -j DROP", COMPLAINT + BY_NFT) != ()  # half a view
    assert found("-A INPUT -p tcp -j DROP", "") != ()  # of iptables-legacy: it says nothing about nftables
    assert found("-A INPUT -p tcp -j DROP\n-A INPUT -j RETURN") != ()  # not the same rules
    assert nft_missing(OF_IPTABLES, REQUEST) != ()


@pytest.mark.parametrize(
    ("text", "saved"),
    [
        (ruleset(policy="drop", family="ip", table="filter"), COMPLAINT + BY_NFT + EMPTY),
        # As iptables-save 1.8.9 garbles udp dport vmap { 1229 : drop }.
        (
            ruleset(
                [
                    {
                        "vmap": {
                            "key": {"payload": {"protocol": "udp", "field": "dport"}},
                            "data": {"set": [[1229, {"drop": None}]]},
                        }
                    }
                ],
                family="ip",
                table="filter",
            ).replace('"in"', '"INPUT"'),
            BY_NFT + EMPTY.replace("COMMIT", "-A INPUT -p udp\nCOMMIT"),
        ),
        (ruleset([REJECT], family="ip", table="filter"), EMPTY),  # beside the table of iptables-legacy
    ],
)
def test_a_table_of_nft_that_iptables_names_is_read_by_nft(text: str, saved: str) -> None:
    assert nft_missing(text, REQUEST, saved=saved) != ()


def test_an_address_that_is_changed_may_lead_elsewhere() -> None:
    text = ruleset([port(1229), {"redirect": {"port": 9}}]).replace('"filter"', '"nat"').replace("input", "prerouting")
    assert nft_missing(text, UDP) == ('nft insert rule inet t in iifname "br0" udp dport 1229 accept',)
    assert nft_missing(text.replace("1229", "53"), UDP) == ()
    saved = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 1229 -j REDIRECT --to-ports 9\nCOMMIT\n"
    )
    assert iptables_missing(saved, UDP) == ("iptables -t nat -I PREROUTING -i br0 -p udp --dport 1229 -j ACCEPT",)
    assert iptables_missing(saved.replace("1229", "53"), UDP) == ()


@pytest.mark.parametrize(
    ("device", "is_missing"), [('"vnet0"', True), ('["eth0", "vnet0"]', True), ('"br0"', True), ('"eth0"', False)]
)
def test_the_ports_of_the_bridge_are_on_the_way(device: str, is_missing: bool) -> None:
    text = ruleset([port(1229), {"drop": None}], family="netdev").replace(
        '"hook": "input"', f'"hook": "ingress", "dev": {device}'
    )
    expected = ("nft insert rule netdev t in udp dport 1229 accept",) if is_missing else ()
    assert nft_missing(text, UDP, ["vnet0", "vnet1"]) == expected


IGMP = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "igmp"}}
QUERY = {"payload": {"protocol": "igmp", "field": "type"}}
NO_PORT = {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 0}}
TO_ALL = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "224.0.0.1"}}


@pytest.mark.parametrize(
    ("rules", "is_missing"),
    [
        ([], True),
        ([[IGMP, ACCEPT]], False),
        ([[IGMP, REJECT], [IGMP, ACCEPT]], True),
        ([[{"match": {"op": "==", "left": QUERY, "right": "membership-query"}}, ACCEPT]], False),
        ([[{"match": {"op": "==", "left": QUERY, "right": "membership-report-v2"}}, ACCEPT]], True),
        ([[TO_ALL, ACCEPT]], False),
        ([[TO_GROUP, ACCEPT]], True),
        ([[NO_PORT, ACCEPT]], True),  # IGMP has none
    ],
)
def test_igmp_must_come_in_as_well(rules: list[list[object]], is_missing: bool) -> None:
    text = ruleset([port(1229), ACCEPT], *rules, policy="drop")
    expected = 'nft insert rule inet t in iifname "br0" ip protocol igmp accept'
    assert nft_missing(text, UDP) == ((expected,) if is_missing else ())
    assert nft_missing(text, REQUEST) == ()


@pytest.mark.parametrize(("entrance", "is_missing"), [("br0", False), ("br1", True), (None, False)])
def test_nft_counts_a_chain_only_where_our_packets_come_to_it(entrance: str | None, is_missing: bool) -> None:
    """An ACCEPT in a chain that another interface leads to lets nobody in from ours."""
    name = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": entrance}}
    jump = [*([name] if entrance else []), {"jump": {"target": "inner"}}]
    found = json.loads(ruleset(jump, policy="drop"))
    inner = {"family": "inet", "table": "t", "chain": "inner", "expr": [port(1229), ACCEPT]}
    found["nftables"] += [{"chain": {"family": "inet", "table": "t", "name": "inner"}}, {"rule": inner}]
    assert bool(nft_missing(json.dumps(found), REQUEST)) is is_missing


def test_iptables_with_reject_lacks_two_rules() -> None:
    assert iptables_missing(read("reject.iptables-save"), UDP) == IPTABLES_LINES


def test_iptables_lacks_nothing_once_they_are_typed() -> None:
    # as iptables-save writes the first of the two afterwards
    saved = read("reject.iptables-save").replace(
        "-A INPUT -m", "-A INPUT -i br0 -p udp -m udp --dport 1229 -j ACCEPT\n-A INPUT -m", 1
    )
    assert iptables_missing(saved, UDP) == IPTABLES_LINES[1:]
    saved = saved.replace("-A INPUT -i br0", "-A INPUT -i br0 -p igmp -j ACCEPT\n-A INPUT -i br0", 1)
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
        ("-A INPUT -p udp -m multiport --dports 53,1200:1300 -j ACCEPT", False),
        ('-A INPUT -p udp -m udp --dport 1229 -m comment --comment "not \\"-j\\" DROP" -j ACCEPT', False),
        ("-A INPUT -d 225.0.0.12/32 -p udp -m udp --dport 1229 -j ACCEPT", False),
        ("-A INPUT -d 10.0.0.1/32 -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -i br+ -p udp -m udp --dport 1229 -j ACCEPT", False),
        ("-A INPUT -j REJECT\n-A INPUT -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -i br1 -j REJECT\n-A INPUT -p udp -m udp --dport 1229 -j ACCEPT", False),
        ("-A INPUT ! -i br1 -j DROP\n-A INPUT -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -p udp -m udp --dport 1229 -j ACCEPT", False),
        ("-A INPUT -i br1 -j own\n-A own -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -m socket -p udp -m udp --dport 1229 -j ACCEPT", True),
        ("-A INPUT -p udp -m rpfilter --invert -j DROP\n-A INPUT -j ACCEPT", True),
        ("-A INPUT -j LOG --log-prefix x\n-A INPUT -j ACCEPT", False),
        ("-A INPUT -j NFQUEUE --queue-num 1\n-A INPUT -j ACCEPT", True),
    ],
)
def test_iptables_rules_that_admit_and_that_do_not(rule: str, is_missing: bool) -> None:
    saved = f"*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n{rule}\nCOMMIT\n"
    assert bool(iptables_missing(saved, REQUEST)) is is_missing


@pytest.mark.parametrize(
    "saved",
    [
        "",
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -j DROP\nCOMMIT\n",
        "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\n",
    ],
)
def test_iptables_that_stop_nothing_on_the_way_in(saved: str) -> None:
    assert iptables_missing(saved, UDP) == ()


def test_iptables_may_know_igmp_by_its_number() -> None:
    saved = (
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 1229 -j ACCEPT\n-A INPUT -p 2 -j ACCEPT\nCOMMIT\n"
    )
    assert iptables_missing(saved, UDP) == ()
    assert iptables_missing(saved.replace("-p 2", "-p 17"), UDP) == IPTABLES_LINES[1:]


@pytest.mark.parametrize(("nft", "by"), [("", BY_NFT), ('{"nftables": []}', ""), ("", "")])
def test_iptables_counts_where_nft_does_not_show_its_rules(nft: str, by: str) -> None:
    saved = by + EMPTY.replace("ACCEPT", "DROP")
    assert nft_missing(nft, UDP, saved=saved) == IPTABLES_LINES


def test_ufw_is_told_by_its_own_command() -> None:
    saved = read("ufw.iptables-save")
    assert iptables_missing(saved, UDP) == (
        "ufw allow in on br0 to any port 1229 proto udp",
        "ufw allow in on br0 to 224.0.0.0/4 proto igmp",
    )
    typed = "-A ufw-user-input -i br0 -p udp -m udp --dport 1229 -j ACCEPT\n"
    typed += "-A ufw-user-input -d 224.0.0.0/4 -i br0 -p igmp -j ACCEPT\nCOMMIT"
    assert iptables_missing(saved.replace("COMMIT", typed), UDP) == ()
    assert iptables_missing(saved.replace("COMMIT", typed.replace("br0", "br1")), UDP) != ()


def test_tables_before_the_filter_stop_as_well() -> None:
    saved = (
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i br0 -j DROP\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"
    )
    assert iptables_missing(saved, UDP)[0] == "iptables -t raw -I PREROUTING -i br0 -p udp --dport 1229 -j ACCEPT"
    assert iptables_missing(saved.replace("-i br0", "-d 172.17.0.2/32"), UDP) == ()  # as Docker 28 writes it


def test_ipv6_has_its_own_program() -> None:
    lines = iptables_missing(read("reject.iptables-save"), Opening("udp", 1229, "br0", "ipv6"))
    assert lines == ("ip6tables -I INPUT -i br0 -p udp --dport 1229 -j ACCEPT",)


class Firewalld:
    """Answers as firewall-cmd 1.3.3 did: yes to what is in *yes*, br0's *zone* and the *kept* one, no to the rest."""

    def __init__(self, *yes: str, zone: str | None = "libvirt", kept: str | None = None) -> None:
        self._yes, self._zone, self._kept = yes, zone, kept

    def __call__(self, words: Sequence[str]) -> tuple[bool, str]:
        if words[-1].startswith("--get-zone-of-interface="):
            zone = self._kept if words[0] == "--permanent" else self._zone
            return (True, zone) if zone else (False, "no zone")
        if words[0] == "--get-default-zone":
            return True, "public"
        return (True, "yes") if " ".join(words) in self._yes else (False, "no")


SERVE = ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-service=vmfence")
KNOW = ("firewall-cmd", "--permanent", f"--new-service-from-file={SERVICE_FILE}", "--name=vmfence")
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
    assert firewalld_missing(Firewalld(*yes), [UDP], SERVICE_FILE) == Needs(("libvirt",), expected, (), ("libvirt",))


def test_firewalld_without_a_zone_for_the_bridge() -> None:
    needs = firewalld_missing(Firewalld(zone=None), [TCP], SERVICE_FILE)
    assert needs.zones == ("public",) and "--zone=public" in needs.commands[-1] and not needs.doubts


def test_firewalld_opens_the_zone_after_the_next_boot_as_well() -> None:
    needs = firewalld_missing(Firewalld(kept="work"), [TCP])
    assert needs.commands == (
        ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-port=1229/tcp"),
        ("firewall-cmd", "--permanent", "--zone=work", "--add-port=1229/tcp"),
        ("firewall-cmd", "--zone=libvirt", "--add-port=1229/tcp"),
    )
    assert needs.zones == ("libvirt",) and not needs.doubts
    needs = firewalld_missing(Firewalld(zone=None, kept="work"), [TCP])
    assert needs.zones == ("public",) and needs.commands[1][2] == "--zone=work"


@pytest.mark.parametrize(
    ("zone", "kept", "is_doubtful"),
    [
        ("home", None, True),
        ("home", "home", False),
        ("public", None, False),  # the default
        ("libvirt", None, False),  # which libvirt sees to
    ],
)
def test_a_zone_for_the_time_being_is_a_doubt(zone: str, kept: str | None, is_doubtful: bool) -> None:
    doubts = firewalld_missing(Firewalld(zone=zone, kept=kept), [UDP]).doubts
    assert ["--permanent --zone=home --change-interface=br0" in each for each in doubts] == [True] * is_doubtful


def test_the_chains_that_will_admit_are_those_of_commands_to_come() -> None:
    assert "filter_IN_libvirt_allow" in firewalld_missing(Firewalld(), [UDP]).chains(UDP)
    assert firewalld_missing(Firewalld(*PERMANENT_PORTS, *PORTS), [UDP]).chains(UDP) == ()


def test_firewalld_and_another_port() -> None:
    commands = firewalld_missing(Firewalld(), [Opening("tcp", 1300, "br0")], SERVICE_FILE).commands
    assert commands == (
        ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-port=1300/tcp"),
        ("firewall-cmd", "--zone=libvirt", "--add-port=1300/tcp"),
    )


def test_without_a_service_firewalld_is_told_of_ports() -> None:
    commands = firewalld_missing(Firewalld(), [TCP]).commands
    assert commands == (
        ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-port=1229/tcp"),
        ("firewall-cmd", "--zone=libvirt", "--add-port=1229/tcp"),
    )


def test_two_listeners_share_the_service() -> None:
    commands = firewalld_missing(Firewalld(), [UDP, TCP], SERVICE_FILE).commands
    assert commands.count(SERVE) == 1 and commands.count(KNOW) == 1
    assert ("firewall-cmd", "--zone=libvirt", "--add-port=1229/tcp") in commands


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        ('multicast { interface = "br0"; }', [UDP]),
        ('multicast { interface = "br0"; family = "ipv6"; }', [Opening("udp", 1229, "br0", "ipv6")]),
        ("multicast { }", [Opening("udp", 1229, "br0", igmp=True), Opening("udp", 1229, "br1", igmp=True)]),
        ('tcp { address = "10.88.0.1"; port = "1300"; }', [Opening("tcp", 1300, "br0")]),
        ('tcp { address = "0.0.0.0"; }', [Opening("tcp", 1229, "br0"), Opening("tcp", 1229, "br1")]),
        ("tcp { }", []),
        ('tcp { address = "::1"; }', []),
        ('serial { mode = "serial"; }', []),
    ],
)
def test_what_listeners_need(listeners: str, expected: list[Opening]) -> None:
    name = listeners.split()[0]
    text = f'fence_virtd {{ listener = "{name}"; backend = "libvirt"; }} listeners {{ {listeners} }}'
    settings = configuration.read(f'{text} backends {{ libvirt {{ uri = "test:///default"; }} }}'.encode(), "f")
    assert list(openings(settings, {"10.88.0.1": "br0"}.get, ["br0", "br1"])) == expected


def test_without_guests_a_listener_may_be_asked_from_anywhere() -> None:
    text = (
        'fence_virtd { listener = "multicast"; backend = "libvirt"; } backends { libvirt { uri = "test:///default"; } }'
    )
    settings = configuration.read(text.encode(), "f")
    assert openings(settings, dict[str, str]().get) == (Opening("udp", 1229, None, igmp=True),)
    [opening] = openings(settings, dict[str, str]().get)
    assert opening.address == "225.0.0.12"


def install(folder: Path, **programs: str) -> None:
    """Put shell scripts in place of programs: what is not named is not installed."""
    for name, text in programs.items():
        script = folder / name.replace("_", "-")
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where programs are found."""
    monkeypatch.setattr(
        firewall, "_installed", lambda name: path if Path(path := f"{tmp_path}/{name}").exists() else None
    )
    monkeypatch.setattr(firewall, "read_tables", frozenset)
    return tmp_path


NO_RULES = """echo '{"nftables": []}'"""


def test_no_program_and_no_rules_stop_nothing(tools: Path) -> None:
    assert firewall.look([UDP]) == firewall.Firewall()
    install(tools, nft=NO_RULES, iptables_save="", firewall_cmd="exit 252")
    assert firewall.look([UDP]) == firewall.Firewall()


@pytest.mark.parametrize(
    ("programs", "doubt"),
    [
        ({"nft": "echo 'Operation not permitted' >&2; exit 1"}, "nft -j list ruleset failed. Operation not permitted."),
        ({"nft": NO_RULES, "iptables_save": "echo nope >&2; exit 4"}, "iptables-save failed. nope."),
        ({"nft": "echo nonsense"}, "cannot understand the rules of nft and iptables."),
        ({"nft": """echo '{"nftables": [{"rule": 7}]}'"""}, "cannot understand the rules of nft and iptables."),
        ({"iptables_save": "echo '*filter'; echo '-A INPUT \"'"}, "cannot understand the rules of nft and iptables."),
        ({"firewall_cmd": '[ "$1" = --state ] || { echo "Error: NOT_AUTHORIZED" >&2; exit 253; }'}, "NOT_AUTHORIZED."),
    ],
)
def test_a_program_that_fails_is_a_doubt_and_never_no_rules(tools: Path, programs: dict[str, str], doubt: str) -> None:
    install(tools, **programs)
    found = firewall.look([UDP])
    assert not found.rules and not found.zones and len(found.doubts) == 1 and doubt in found.doubts[0]


def test_rules_of_the_other_iptables_are_read_too(tools: Path) -> None:
    """As iptables-nft 1.8.9 warns of what only iptables-legacy sees."""
    warning = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them"
    install(
        tools, iptables_save=f"echo '{warning}' >&2", iptables_legacy_save="echo '*filter'; echo ':INPUT DROP [0:0]'"
    )
    assert firewall.look([TCP]).rules == ("iptables-legacy -I INPUT -i br0 -p tcp --dport 1229 -j ACCEPT",)


OPENED = (
    'case "$*" in *--list-all-zones) printf "libvirt (active)\\n  interfaces: br0\\n  ports: 1229/udp 1229/tcp\\n  '
    'protocols: igmp\\n";; esac'
)


def test_rules_beside_firewalld_are_read_too(tools: Path) -> None:
    install(tools, firewall_cmd=OPENED, nft=f"echo '{ruleset([REJECT])}'")
    found = firewall.look([UDP])
    assert found.zones == ("libvirt",) and not found.commands
    assert found.rules[0] == 'nft insert rule inet t in iifname "br0" udp dport 1229 accept'
    install(tools, nft=f"echo '{ruleset([REJECT], table='firewalld')}'")
    assert firewall.look([UDP]).rules == ()


def test_what_firewalld_has_written_beside_the_zone_is_a_doubt(tools: Path) -> None:
    """Its tables are never to be changed by nft: the next reload would undo it."""
    install(tools, firewall_cmd=OPENED)
    install(tools, nft=f"echo '{ruleset([FROM, REJECT], table='firewalld')}'")
    found = firewall.look([TCP])
    assert not found.rules and len(found.doubts) == 1 and "firewalld may stop TCP 1229 on br0" in found.doubts[0]
    install(tools, nft=f"echo '{ruleset([ON_BR1, REJECT], table='firewalld')}'")
    assert firewall.look([TCP]).doubts == ()


def test_what_firewalld_is_about_to_be_told_counts(tools: Path) -> None:
    """Before the port is open its chain rejects the request; that is no doubt, for the commands mend it."""
    says = {
        "--get-zone*": "echo public",
        "*--get-zone*": "echo public",
        "*--get-default*": "echo public",
        "--state": "exit 0",
        "*--list-all*": "exit 0",
        "*": "exit 1",
    }
    cases = " ".join(f"{pattern}) {does};;" for pattern, does in says.items())
    install(tools, firewall_cmd=f'case "$*" in {cases} esac')
    found = json.loads(ruleset([{"jump": {"target": "filter_IN_public_allow"}}], [REJECT], table="firewalld"))
    found["nftables"] += [{"chain": {"family": "inet", "table": "firewalld", "name": "filter_IN_public_allow"}}]
    install(tools, nft=f"echo '{json.dumps(found)}'")
    assert firewall.look([TCP]).commands and firewall.look([TCP]).doubts == ()
    install(tools, nft=f"echo '{json.dumps(found).replace('IN_public', 'IN_work')}'")
    assert firewall.look([TCP]).doubts != ()


@pytest.mark.parametrize("option", ["*zones", "*permanent*zones", "*permanent*policies"])
def test_what_firewalld_does_not_list_is_a_doubt(tools: Path, option: str) -> None:
    install(tools, firewall_cmd=f'case "$*" in {option}) echo no >&2; exit 252;; esac')
    [doubt] = firewall.look([TCP]).doubts
    assert doubt.startswith("firewall-cmd --") and doubt.endswith("failed. no.")
    install(tools, firewall_cmd=f'case "$*" in {option}) echo " nonsense";; esac')
    [doubt] = firewall.look([TCP]).doubts
    assert doubt.startswith("cannot understand what firewall-cmd lists")


def test_a_firewalld_without_policies(tools: Path) -> None:
    """Before 0.9 firewall-cmd does not know the option."""
    install(tools, firewall_cmd='case "$*" in *policies) exit 2;; esac')
    assert firewall.look([TCP]).doubts == ()


def test_the_reverse_path_filter_of_firewalld_is_no_doubt(tools: Path) -> None:
    """Every firewalld has it for IPv6."""
    install(tools, firewall_cmd=OPENED)
    fib = {"fib": {"result": "oif", "flags": ["saddr", "mark", "iif"]}}
    filtering = [{"match": {"op": "==", "left": fib, "right": False}}, {"drop": None}]
    tcp6 = Opening("tcp", 1229, "br0", "ipv6")
    install(tools, nft=f"echo '{ruleset(filtering, table='firewalld')}'")
    assert firewall.look([tcp6]).doubts == ()
    install(tools, nft=f"echo '{ruleset(filtering, table='own')}'")
    assert firewall.look([tcp6]).rules != ()


def test_the_rules_of_firewalld_may_be_those_of_iptables(tools: Path) -> None:
    """As with FirewallBackend=iptables."""
    saved = (
        "*filter\n:INPUT ACCEPT [0:0]\n:INPUT_ZONES - [0:0]\n:IN_public - [0:0]\n:IN_public_allow - [0:0]\n"
        "-A INPUT -j INPUT_ZONES\n-A INPUT -j REJECT\n-A INPUT_ZONES -g IN_public\n-A IN_public -j IN_public_allow\n"
    )
    install(tools, iptables_save=f"echo '{saved}'", firewall_cmd='case "$1" in --get-zone*) echo public;; esac')
    assert not firewall.look([TCP]).rules and len(firewall.look([TCP]).doubts) == 1
    says_no = 'case "$*" in --state) ;; *--get-*) echo public;; *--list-all*) ;; *) exit 1;; esac'
    install(tools, firewall_cmd=says_no)
    found = firewall.look([TCP])
    assert found.commands and not found.rules and not found.doubts


def test_a_bridge_is_made_of_its_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /sys/class/net shows them: lower_NAME beside other entries."""
    for entry in ("br0/lower_bond0", "br0/lower_vnet0", "br0/brif", "bond0/lower_eth0", "bond0/upper_br0", "eth0/mtu"):
        (tmp_path / entry).mkdir(parents=True)
    monkeypatch.setattr(firewall, "_SYS_CLASS_NET", str(tmp_path))
    assert sorted(firewall._ports("br0")) == ["bond0", "eth0", "vnet0"]
    assert list(firewall._ports(None)) == list(firewall._ports("br1")) == []


def test_tables_that_no_program_shows_are_a_doubt(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "read_tables", lambda: frozenset({("inet", "guard"), ("ip", "filter"), ("arp", "a")}))
    install(tools, iptables_save=f"echo '{BY_NFT}{EMPTY}'")
    [doubt] = firewall.look([TCP]).doubts
    assert doubt == "nft is not installed, so these tables of rules cannot be read: inet guard"
    install(tools, nft=NO_RULES)
    assert firewall.look([TCP]) == firewall.Firewall()


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    script = tmp_path / "firewall-cmd"
    script.write_text("#!/bin/sh\necho 'Error: INVALID_ZONE: nope' >&2\nexit 112\n")
    script.chmod(0o755)
    with pytest.raises(VmfenceError, match="--add-port=1/udp failed") as caught:
        firewall.open_up([(str(script), "--add-port=1/udp")])
    assert caught.value.why == "Error: INVALID_ZONE: nope"


def test_the_service_definition_names_our_port() -> None:
    text = Path(SERVICE_FILE).read_text()
    for line in ('protocol="udp" port="1229"', 'protocol="tcp" port="1229"', 'value="igmp"'):
        assert line in text
