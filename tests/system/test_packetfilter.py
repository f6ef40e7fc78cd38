"""Judging firewalls: rules of the real nft and iptables in a namespace, and requests that a guest really sends through.

"Nothing stops requests" is held against the requests that arrive; advice is typed as it is given, and must do.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.net import HOST_IPV4, Bridge
from lab.requirements import SYSTEM_PATH
from lab.waiting import wait_until

PROGRAMS = ("nft", "iptables", "iptables-save", "iptables-legacy", "ebtables")
LACKS = [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]
pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(bool(LACKS), reason=f"missing: {', '.join(LACKS)}"),
]
GROUP, PORT = "225.0.0.12", 1229
ARRIVES_WITHIN = 5.0  # seconds
CALLED_WITHIN = 3.0  # where it fails it may take that long
LOOK = """
import dataclasses, json, sys
from vmfence.packetfilter import firewall
from vmfence.packetfilter.rules import Opening
if "--without-nft" in sys.argv:
    find = firewall._installed
    firewall._installed = lambda name: None if name == "nft" else find(name)
found = firewall.look([Opening("udp", 1229, "br0", "ipv4", True, "225.0.0.12")])
print(json.dumps({**dataclasses.asdict(found), "obstacles": [
    {**dataclasses.asdict(one.stoppage), "stops": one.stops, "guests": [str(guest) for guest in one.stoppage.guests]}
    for one in found.obstacles
]}))
"""

LOOK_BACK = """
import dataclasses, json, sys
from vmfence.host import kernel
from vmfence.packetfilter import firewall
from vmfence.packetfilter.rules import Opening
found = firewall.look_out([Opening("tcp", 1229, "br0")], None, kernel.read_local_ports())
print(json.dumps([found.rules, found.doubts, [one.stops for one in found.obstacles]]))
"""


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=1) as made:
        yield made


@pytest.fixture(autouse=True)
def no_rules(bridge: Bridge) -> Iterator[None]:
    yield
    bridge.host.run(["sh", "-c", "nft flush ruleset; iptables-legacy -F; iptables-legacy -P INPUT ACCEPT"])


def look(bridge: Bridge, *options: str) -> tuple[list[str], list[str]]:
    """Return the rules that are missing, and the doubts."""
    done = bridge.host.run([sys.executable, "-c", LOOK, *options], cwd=Path(__file__).parents[2])
    found = json.loads(done.stdout)
    return found["rules"], found["doubts"]


def findings(bridge: Bridge) -> dict[str, Any]:
    """Return all that is found."""
    done = bridge.host.run([sys.executable, "-c", LOOK], cwd=Path(__file__).parents[2])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def type_in(bridge: Bridge, *commands: str) -> None:
    for command in commands:
        bridge.host.run(["sh", "-c", command])


def load(bridge: Bridge, text: str) -> None:
    bridge.host.run(["nft", "-f", "-"], input=text)


def arrives(bridge: Bridge) -> bool:
    """Whether a request that the guest sends to the group comes to a socket of the host."""

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("", PORT))
        member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(HOST_IPV4))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        return listener

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            own = socket.inet_aton(bridge.guests[0].ipv4)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sender.sendto(b"request", (GROUP, PORT))

    with bridge.host.call(listen) as listener:
        bridge.guests[0].call(send)
        listener.settimeout(ARRIVES_WITHIN)
        try:
            return listener.recv(64) == b"request"
        except socket.timeout:
            return False


INPUT = "type filter hook input priority 0; policy accept;"
IN_PORT = "type filter hook ingress device veth11 priority 0;"
STOPPING = {
    "a chain of nft in the table ip filter": "table ip filter { chain input { type filter hook input priority 0;"
    ' policy drop; iifname "lo" accept; fib saddr type local accept; ct state established,related accept; }; }',
    "at another priority": "table ip filter { chain INPUT { type filter hook input priority 5; policy drop; }; }",
    "ip raw": "table ip raw { chain pre { type filter hook prerouting priority -300; udp dport 1229 drop; }; }",
    "ip security": "table ip security { chain in { type filter hook input priority 50; udp dport 1229 drop; }; }",
    "garbled by iptables-save": f"table ip filter {{ chain INPUT {{ {INPUT} udp dport vmap {{ 1229 : drop }}; }}; }}",
    "redirected": "table ip n { chain pre { type nat hook prerouting priority -100;"
    " udp dport 1229 redirect to :9; }; }",
    "sent elsewhere": "table inet n { chain pre { type nat hook prerouting priority -100;"
    " udp dport 1229 dnat ip to 10.88.0.99; }; }",
    "at the port of the guest": f"table netdev n {{ chain in {{ {IN_PORT} udp dport 1229 drop; }}; }}",
    "igmp alone": f"table inet n {{ chain in {{ {INPUT} meta l4proto igmp drop; }}; }}",
    "igmp to all hosts": f"table inet n {{ chain in {{ {INPUT} ip daddr 224.0.0.1 drop; }}; }}",
}
HARMLESS = {
    "another port in ip filter": f"table ip filter {{ chain INPUT {{ {INPUT} udp dport vmap {{ 53 : drop }}; }}; }}",
    "another port of nat": "table ip n { chain pre { type nat hook prerouting priority -100;"
    " tcp dport 1229 redirect to :9; udp dport 53 dnat to 10.88.0.99; }; }",
    "masquerading": "table ip n { chain post { type nat hook postrouting priority 100; masquerade; }; }",
    "all that is needed": "table inet n { chain in { type filter hook input priority 0; policy drop;"
    ' iifname "br0" udp dport 1229 accept; ip protocol igmp accept; }; }',
}


@pytest.mark.parametrize("name", STOPPING)
def test_what_nft_may_stop_is_told_and_the_advice_mends_it(bridge: Bridge, name: str) -> None:
    load(bridge, STOPPING[name])
    rules, doubts = look(bridge)
    assert rules and not doubts
    type_in(bridge, *rules)
    assert look(bridge) == ([], [])
    assert arrives(bridge)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_nft_cannot_stop_needs_nothing(bridge: Bridge, name: str) -> None:
    load(bridge, HARMLESS[name])
    assert look(bridge) == ([], [])
    assert arrives(bridge)


IPTABLES = {
    "reject at the end": (
        "iptables -P INPUT DROP",
        "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -m comment --comment 'a b' -j ACCEPT",
        "iptables -A INPUT -j REJECT",
    ),
    "redirect": ("iptables -t nat -A PREROUTING -p udp --dport 1229 -j REDIRECT --to-ports 9",),
    "without anything that nft cannot show": ("iptables -A INPUT -p udp --dport 1229 -j DROP",),
    "legacy": ("iptables-legacy -A INPUT -p udp --dport 1229 -j DROP",),
}


@pytest.mark.parametrize("name", IPTABLES)
def test_what_iptables_may_stop_is_told_in_its_own_words(bridge: Bridge, name: str) -> None:
    commands = IPTABLES[name]
    type_in(bridge, *commands)
    program = commands[0].split()[0]
    rules, doubts = look(bridge)
    assert rules and not doubts and all(rule.startswith(f"{program} ") for rule in rules)
    type_in(bridge, *rules)
    assert look(bridge) == ([], [])
    assert arrives(bridge)


def test_a_rule_of_nft_amid_those_of_iptables_is_seen(bridge: Bridge) -> None:
    type_in(
        bridge,
        "iptables -A INPUT -p tcp -m comment --comment own -j DROP",
        "nft add rule ip filter INPUT udp dport vmap '{ 1229 : drop }'",
        "iptables -A INPUT -m addrtype --dst-type LOCAL -j DROP",
    )
    rules, doubts = look(bridge)
    assert rules == ["iptables -I INPUT -i br0 -p udp --dport 1229 -j ACCEPT"] and not doubts
    type_in(bridge, *rules)
    assert look(bridge) == ([], [])
    assert arrives(bridge)


@pytest.mark.parametrize(
    ("commands", "unread"),
    [
        ((), ""),
        (("iptables -A INPUT -p tcp -j DROP",), ""),
        (("nft add table inet guard",), "inet guard"),
        (
            ("nft add table ip filter", "nft add chain ip filter x '{ type filter hook input priority 7; }'"),
            "ip filter",
        ),
        (("nft add table arp a",), ""),
    ],
)
def test_without_nft_the_kernel_is_asked_for_tables(bridge: Bridge, commands: Sequence[str], unread: str) -> None:
    type_in(bridge, *commands)
    rules, doubts = look(bridge, "--without-nft")
    expected = f"nft is not installed, so these tables of rules cannot be read: {unread}"
    assert (rules, doubts) == ([], [expected] if unread else [])


def meet(bridge: Bridge) -> None:
    """Let the host know its guest as a neighbour, as it does once it has called back."""

    def call() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", (bridge.guests[0].ipv4, PORT))

    bridge.host.call(call)
    wait_until(lambda: "0x2" in bridge.host.run(["cat", "/proc/net/arp"]).stdout, what="a neighbour")


GUEST = "10.88.0.11"
BRIDGE_IN = "type filter hook input priority 0;"
# What this host's own request passes, and the guest's does not: how the rule is shown.
AGAINST_GUESTS = {
    "all but this host": (
        f'table inet n {{ chain in {{ {INPUT} iifname "br0" ip saddr != {HOST_IPV4} udp dport 1229 drop; }}; }}',
        f"inet n in: iifname br0 ip saddr != {HOST_IPV4} udp dport 1229 drop",
    ),
    "the guest": (f"table inet n {{ chain in {{ {INPUT} ip saddr {GUEST} drop; }}; }}", f"ip saddr {GUEST} drop"),
    "a set": (
        f"table inet n {{ set bad {{ type ipv4_addr; flags interval; elements = {{ {GUEST}, 192.0.2.0/24 }}; }};"
        f" chain in {{ {INPUT} ip saddr @bad drop; }}; }}",
        "ip saddr @bad drop",
    ),
    "a range": (
        f"table inet n {{ chain in {{ {INPUT} ip saddr 10.88.0.5-10.88.0.20 udp dport 1229 drop; }}; }}",
        "ip saddr 10.88.0.5-10.88.0.20 udp dport 1229 drop",
    ),
    "hook of the bridge": (
        f"table bridge n {{ chain in {{ {BRIDGE_IN} udp dport 1229 drop; }}; }}",
        "bridge n in: udp",
    ),
    "port of the bridge": (
        f'table bridge n {{ chain in {{ {BRIDGE_IN} iifname "veth11" udp dport 1229 drop; }}; }}',
        "bridge n in: iifname veth11 udp dport 1229 drop",
    ),
    "another address at its port": (
        f'table bridge n {{ chain in {{ {BRIDGE_IN} iifname "veth11" ether saddr != 52:54:00:00:00:99 drop; }}; }}',
        "ether saddr != 52:54:00:00:00:99 drop",
    ),
    "policy": (
        f"table ip n {{ chain in {{ type filter hook input priority 0; policy drop; ip saddr {HOST_IPV4} accept; }}; "
        "}",
        "the policy of chain in: drop",
    ),
}


@pytest.mark.parametrize("name", AGAINST_GUESTS)
def test_what_certainly_stops_a_guest_is_told_with_its_rule(bridge: Bridge, name: str) -> None:
    rules, shown = AGAINST_GUESTS[name]
    meet(bridge)
    load(bridge, rules)
    found = [one for one in findings(bridge)["obstacles"] if one["stops"]]
    assert found and all(one["is_of_origin"] for one in found) and any(shown in by for by in found[0]["by"])
    assert found[0]["is_certain"] or found[0]["guests"] == [GUEST]
    assert not arrives(bridge)


@pytest.mark.parametrize(
    "rule",
    [f"-s {GUEST} -p udp -j DROP", f"! -s {HOST_IPV4} -i br0 -j DROP", f"-s {GUEST} -m comment --comment x -j REJECT"],
)
def test_iptables_against_the_guest(bridge: Bridge, rule: str) -> None:
    meet(bridge)
    type_in(bridge, f"iptables -A INPUT {rule}")
    [found] = [one for one in findings(bridge)["obstacles"] if one["stops"]]
    assert found["is_of_origin"] and GUEST in str(found) and "-j" in found["by"][0]
    assert not arrives(bridge)


# MAC is that of the guest.
HONEST = {
    "another network": f"table inet n {{ chain in {{ {INPUT} ip saddr 192.0.2.0/24 drop; }}; }}",
    "none in the set": f"table inet n {{ set bad {{ type ipv4_addr; elements = {{ 192.0.2.7 }}; }};"
    f" chain in {{ {INPUT} ip saddr @bad drop; }}; }}",
    "forged at its port": f'table bridge n {{ chain in {{ {BRIDGE_IN} iifname "veth11" ether saddr != MAC drop; }}; }}',
    "forged, in chains": "table bridge n { chain mac { ether saddr MAC return; drop; };"
    " chain ip4 { ip saddr 10.88.0.11 return; drop; };"
    " chain guest { jump mac; ether type ip jump ip4; ether type { ip, arp } accept; drop; };"
    ' chain pre { type filter hook prerouting priority -300; iifname "veth11" jump guest; }; }',
    "at the device": "table netdev n { chain in { type filter hook ingress device veth11 priority 0;"
    " ether saddr != MAC drop; }; }",
}


@pytest.mark.parametrize("is_met", [True, False])
@pytest.mark.parametrize("name", HONEST)
def test_what_stops_only_forged_addresses_needs_nothing(bridge: Bridge, name: str, is_met: bool) -> None:
    mac = bridge.guests[0].run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    if is_met:
        meet(bridge)
    else:
        bridge.host.ip("neigh flush dev br0")
    load(bridge, HONEST[name].replace("MAC", mac))
    found = findings(bridge)
    assert (found["rules"], found["doubts"], found["obstacles"]) == ([], [], [])
    assert arrives(bridge)


def test_as_nwfilter_makes_them_by_ebtables(bridge: Bridge) -> None:
    """As libvirt 9.0 writes the filter no-mac-spoofing."""
    mac = bridge.guests[0].run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    chains = ("libvirt-I-veth11", "I-veth11-mac")
    type_in(
        bridge,
        *(f"ebtables -t nat -N {chain}" for chain in chains),
        f"ebtables -t nat -A {chains[1]} -s {mac} -j RETURN",
        f"ebtables -t nat -A {chains[1]} -j DROP",
        f"ebtables -t nat -A {chains[0]} -j {chains[1]}",
        f"ebtables -t nat -A PREROUTING -i veth11 -j {chains[0]}",
    )
    assert look(bridge) == ([], [])
    assert arrives(bridge)


def test_nobody_is_led_round_a_filter_of_addresses(bridge: Bridge) -> None:
    mac = bridge.guests[0].run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    filtering = f'iifname "veth11" ether saddr != {mac} drop; udp dport 1229 drop;'
    load(bridge, f"table bridge n {{ chain in {{ {BRIDGE_IN} {filtering} }}; }}")
    [rule], _ = look(bridge)
    assert rule == "nft -a list chain bridge n in"
    type_in(bridge, rule)
    [found] = findings(bridge)["obstacles"]
    assert found["stops"] and any("udp dport 1229 drop (handle " in by for by in found["by"])


def look_back(bridge: Bridge) -> tuple[list[str], list[str], list[bool]]:
    """Return the rules that are missing for connections to guests, the doubts, and whether guests certainly lose."""
    done = bridge.host.run([sys.executable, "-c", LOOK_BACK], cwd=Path(__file__).parents[2])
    rules, doubts, stops = json.loads(done.stdout)
    return rules, doubts, stops


def is_called_back(bridge: Bridge, address: str = GUEST) -> bool:
    """Whether the host gets a connection to port 1229 of the guest, or of its own."""

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen()
        return listener

    def connect() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
            caller.settimeout(CALLED_WITHIN)
            try:
                caller.connect((address, PORT))
            except OSError:
                return False
            return True

    place = bridge.guests[0] if address == GUEST else bridge.host
    with place.call(listen):
        return bridge.host.call(connect)


POLICY_DROP = "type filter hook input priority 0; policy drop;"
NFT_NEEDED = 'iifname "lo" accept; udp dport 1229 accept; ip protocol igmp accept;'
# The request comes in, and what the guest answers to the call-back does not.
ANSWERS_STOPPED = {
    "TCP of the guest": ("sh", f"iptables -A INPUT -s {GUEST} -p tcp -j DROP"),
    "all of the guest but requests": (
        "sh",
        f"iptables -A INPUT -s {GUEST} -j DROP; iptables -I INPUT -i br0 -p udp --dport 1229 -j ACCEPT",
    ),
    "TCP of that port": ("sh", "iptables -A INPUT -p tcp -m tcp --sport 1229 -j REJECT"),
    "by legacy": ("sh", f"iptables-legacy -A INPUT -s {GUEST} -p tcp -j DROP"),
    "before connections are known": ("sh", f"iptables -t raw -A PREROUTING -s {GUEST} -p tcp -j DROP"),
    "nothing established": ("nft", f"table inet n {{ chain in {{ {POLICY_DROP} {NFT_NEEDED} }}; }}"),
    "only what is related": (
        "nft",
        f"table inet n {{ chain in {{ {POLICY_DROP} {NFT_NEEDED} ct state related,new accept; }}; }}",
    ),
    "at the hook of the bridge": ("nft", f"table bridge n {{ chain in {{ {BRIDGE_IN} tcp sport 1229 drop; }}; }}"),
    "all TCP at that hook": ("nft", f"table bridge n {{ chain in {{ {BRIDGE_IN} ip protocol tcp drop; }}; }}"),
    "at the port of the guest": ("nft", f"table netdev n {{ chain in {{ {IN_PORT} tcp sport 1229 drop; }}; }}"),
    "a connection that is not known": (
        "nft",
        "table ip n { chain p { type filter hook prerouting priority -300; tcp sport 1229 notrack; };"
        f" chain in {{ {POLICY_DROP} {NFT_NEEDED} ct state established accept; }}; }}",
    ),
}


def write(bridge: Bridge, how: str, rules: str) -> None:
    if how == "nft":
        load(bridge, rules)
    else:
        type_in(bridge, rules)


@pytest.mark.parametrize("name", ANSWERS_STOPPED)
def test_what_stops_the_answers_to_a_call_back_is_told_and_the_advice_mends_it(bridge: Bridge, name: str) -> None:
    write(bridge, *ANSWERS_STOPPED[name])
    rules, doubts, stops = look_back(bridge)
    assert rules and not doubts
    assert not is_called_back(bridge)
    if name == "a connection that is not known":  # one rule does not mend that
        return
    assert any(stops) or "-s" in ANSWERS_STOPPED[name][1]
    type_in(bridge, *rules)
    assert look_back(bridge)[0] == []
    assert is_called_back(bridge)


ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
ANSWERS_ADMITTED = {
    "established": ("sh", f"iptables -P INPUT DROP; iptables -A INPUT {ESTABLISHED}"),
    "by -m state": ("sh", "iptables -P INPUT DROP; iptables -A INPUT -m state --state ESTABLISHED -j ACCEPT"),
    "as ufw": (
        "sh",
        "iptables -P INPUT DROP; iptables -N before; iptables -A INPUT -j before; iptables -A before -i lo -j ACCEPT;"
        f" iptables -A before {ESTABLISHED}; iptables -A before -m conntrack --ctstate INVALID -j DROP",
    ),
    "flags of scans": (
        "sh",
        "iptables -A INPUT -p tcp --tcp-flags ALL NONE -j DROP; iptables -A INPUT -p tcp --syn -j DROP;"
        " iptables -A INPUT -p tcp --tcp-flags SYN,FIN SYN,FIN -j DROP;"
        " iptables -A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP",
    ),
    "flags of scans, by nft": (
        "nft",
        f"table inet n {{ chain in {{ {INPUT} tcp flags & (fin|syn) == (fin|syn) drop;"
        " tcp flags & (fin|syn|rst|psh|ack|urg) == 0x0 drop; tcp flags & (fin|syn|rst|ack) == syn drop; }; }",
    ),
    "by nft": ("nft", f"table inet n {{ chain in {{ {POLICY_DROP} {NFT_NEEDED} ct state established accept; }}; }}"),
    "by a map": (
        "nft",
        f"table inet n {{ chain in {{ {POLICY_DROP} ct state vmap {{ established : accept, invalid : drop }}; }}; }}",
    ),
    "services of this host": (
        "sh",
        "iptables -A INPUT -p tcp --dport 22 -j DROP; iptables -A INPUT -p tcp -m multiport --dports 80,1229 -j DROP",
    ),
    "ports of udp": ("sh", "iptables -A INPUT -p udp --sport 1229 -j DROP"),
    "changed addresses": (
        "nft",
        "table ip n { chain p { type nat hook prerouting priority -100; tcp sport 1229 redirect to :9; }; }",
    ),
}


@pytest.mark.parametrize("name", ANSWERS_ADMITTED)
def test_what_lets_the_answers_in_needs_nothing(bridge: Bridge, name: str) -> None:
    write(bridge, *ANSWERS_ADMITTED[name])
    assert look_back(bridge) == ([], [], [])
    assert is_called_back(bridge)


@pytest.mark.parametrize("rules", ["--dport 1229 -j DROP", "-j REJECT"])
def test_the_advice_lets_this_host_call_itself_too(bridge: Bridge, rules: str) -> None:
    """As it must when it tries its own daemon."""
    type_in(bridge, f"iptables -A OUTPUT -p tcp {rules}")
    advice = look_back(bridge)[0]
    type_in(bridge, *advice)
    assert is_called_back(bridge)
    assert "--dport" not in rules or is_called_back(bridge, HOST_IPV4)
