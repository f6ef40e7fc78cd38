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

import pytest

from lab.net import HOST_IPV4, Bridge
from lab.requirements import SYSTEM_PATH

PROGRAMS = ("nft", "iptables", "iptables-save", "iptables-legacy")
LACKS = [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]
pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(LACKS), reason=f"missing: {', '.join(LACKS)}")]
GROUP, PORT = "225.0.0.12", 1229
ARRIVES_WITHIN = 5.0  # seconds
LOOK = """
import dataclasses, json, sys
from vmfence.packetfilter import firewall
from vmfence.packetfilter.rules import Opening
if "--without-nft" in sys.argv:
    find = firewall._installed
    firewall._installed = lambda name: None if name == "nft" else find(name)
print(json.dumps(dataclasses.asdict(firewall.look([Opening("udp", 1229, "br0", "ipv4", True, "225.0.0.12")]))))
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
