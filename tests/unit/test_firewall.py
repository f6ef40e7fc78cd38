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
from vmfence.host.iptables_rules import iptables_missing
from vmfence.host.nft_rules import nft_missing
from vmfence.host.packet_rules import Opening

RECORDED = Path(__file__).parent.parent / "vectors" / "firewall"
UDP = Opening("udp", 1229, "br0", igmp=True, address="225.0.0.12")
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
    assert bool(nft_missing(text, UDP)) is is_missing


def test_nft_leaves_the_table_of_iptables_to_iptables() -> None:
    text = ruleset(policy="drop", family="ip", table="filter").replace('"in"', '"INPUT"')
    assert nft_missing(text, UDP, [("ip", "filter")]) == ()
    assert nft_missing(text, UDP) != ()  # it may be somebody's own


@pytest.mark.parametrize(("entrance", "is_missing"), [("br0", False), ("br1", True), (None, False)])
def test_nft_counts_a_chain_only_where_our_packets_come_to_it(entrance: str | None, is_missing: bool) -> None:
    """An ACCEPT in a chain that another interface leads to lets nobody in from ours."""
    name = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": entrance}}
    jump = [*([name] if entrance else []), {"jump": {"target": "inner"}}]
    found = json.loads(ruleset(jump, policy="drop"))
    inner = {"family": "inet", "table": "t", "chain": "inner", "expr": [port(1229), ACCEPT]}
    found["nftables"] += [{"chain": {"family": "inet", "table": "t", "name": "inner"}}, {"rule": inner}]
    assert bool(nft_missing(json.dumps(found), UDP)) is is_missing


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
    saved = read("ufw.iptables-save")
    assert iptables_missing(saved, UDP) == ("ufw allow in on br0 to any port 1229 proto udp",)
    typed = "-A ufw-user-input -i br0 -p udp -m udp --dport 1229 -j ACCEPT\nCOMMIT"
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
    assert list(firewall.openings(settings, {"10.88.0.1": "br0"}.get, ["br0", "br1"])) == expected


def test_without_guests_a_listener_may_be_asked_from_anywhere() -> None:
    text = (
        'fence_virtd { listener = "multicast"; backend = "libvirt"; } backends { libvirt { uri = "test:///default"; } }'
    )
    settings = configuration.read(text.encode(), "f")
    assert firewall.openings(settings, dict[str, str]().get) == (Opening("udp", 1229, None, igmp=True),)
    [opening] = firewall.openings(settings, dict[str, str]().get)
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


def test_rules_beside_firewalld_are_read_too(tools: Path) -> None:
    install(tools, firewall_cmd='case "$1" in --get-zone*) echo libvirt;; esac', nft=f"echo '{ruleset([REJECT])}'")
    found = firewall.look([UDP])
    assert found.zones == ("libvirt",) and not found.commands
    assert found.rules[0] == 'nft insert rule inet t in iifname "br0" udp dport 1229 accept'
    install(tools, nft=f"echo '{ruleset([REJECT], table='firewalld')}'")
    assert firewall.look([UDP]).rules == ()


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
