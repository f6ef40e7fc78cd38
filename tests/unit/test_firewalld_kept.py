"""What firewalld keeps and does not do yet, in listings of a real one and in small ones.

Recorded from firewalld 1.3.3 on Debian 12 (tests/vectors/firewall): firewalld-zones.txt and firewalld-policies.txt as
it was installed, those called kept after a source, three rich rules and a policy were added with --permanent.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vmfence.packetfilter.kept import Later, services_named, stops_later
from vmfence.packetfilter.listing import Answers, Listings, sections
from vmfence.packetfilter.rules import Opening

RECORDED = Path(__file__).parent.parent / "vectors" / "firewall"
UDP = Opening("udp", 1229, "br0", igmp=True)
TCP = Opening("tcp", 1229, "br0")
KEEP = "firewall-cmd --permanent"


def recorded(suffix: str) -> Listings:
    zones, policies = ((RECORDED / f"firewalld-{kind}{suffix}.txt").read_text() for kind in ("zones", "policies"))
    return Listings(sections(zones), sections(policies))


def test_a_listing_of_a_real_firewalld() -> None:
    zones = recorded("-kept").zones
    assert list(zones)[:3] == ["block", "dmz", "drop"] and zones["drop"].get("sources") == ("10.88.0.11",)
    assert zones["libvirt"].get("services") == ("dhcp", "dhcpv6", "dns", "ssh", "tftp")
    assert len(zones["libvirt"].rules) == 4 and zones["drop"].rules == ()
    assert recorded("-kept").policies["p"].get("priority") == ("-10",)


def test_what_a_real_firewalld_keeps_is_found_and_nothing_else() -> None:
    rule = 'rule family="ipv4" source address="10.88.0.11" port port="1229" protocol="udp" drop'
    found = list(stops_later(recorded(""), recorded("-kept"), "libvirt", UDP, "vmfence"))
    opened = " && ".join(f"{KEEP} {{0}} --add-{item}" for item in ("port=1229/udp", "protocol=igmp"))
    assert found[0] == Later(
        "zone drop, which does not let in UDP 1229 and IGMP on br0, has sources 10.88.0.11",
        opened.format("--zone=drop"),
    )
    ours = Later(f"zone libvirt has the rich rule: {rule}", f"{KEEP} --zone=libvirt '--remove-rich-rule={rule}'")
    assert ours in found
    assert found[-1] == Later("policy p does not let in UDP 1229 and IGMP on br0", opened.format("--policy=p"))
    assert len(found) == 4  # with the rule about service ssh: which ports that has is not told here
    assert [one.what for one in stops_later(recorded(""), recorded("-kept"), "public", UDP, "vmfence")] == [
        found[0].what
    ]
    assert list(stops_later(recorded("-kept"), recorded("-kept"), "libvirt", UDP, "vmfence")) == []
    assert list(stops_later(recorded("-kept"), recorded(""), "libvirt", UDP, "vmfence")) == []


@pytest.mark.parametrize(
    ("rule", "opening", "is_told"),
    [
        ("rule drop", UDP, True),
        ('rule family="ipv4" source address="10.0.0.0/8" reject type="icmp-port-unreachable"', UDP, True),
        ('rule family="ipv6" source address="fd00::/8" drop', UDP, False),
        ('rule family="ipv6" source address="fd00::/8" drop', Opening("udp", 1229, "br0", "ipv6"), True),
        ('rule family="ipv4" source address="10.0.0.0/8" accept', UDP, False),
        ('rule family="ipv4" source address="10.0.0.0/8" log prefix="drop" level="info"', UDP, False),
        ('rule priority="-1" source NOT address="10.0.0.0/8" drop', UDP, True),
        ('rule priority="32767" reject', UDP, False),  # after what the zone lets in
        ('rule priority="1" drop', UDP, False),
        ('rule port port="1229" protocol="udp" drop', UDP, True),
        ('rule port port="1229" protocol="udp" drop', TCP, False),
        ('rule port port="1000-2000" protocol="tcp" reject', TCP, True),
        ('rule port port="22" protocol="tcp" reject', TCP, False),
        ('rule source-port port="22" protocol="tcp" drop', TCP, True),
        ('rule protocol value="igmp" drop', UDP, True),
        ('rule protocol value="igmp" drop', TCP, False),
        ('rule protocol value="sctp" drop', UDP, False),
        ('rule protocol value="17" drop', UDP, True),
        ('rule protocol value="17" drop', TCP, False),
        ('rule protocol value="2" drop', UDP, True),
        ('rule protocol value="6" drop', TCP, True),
        ('rule protocol value="UDP" drop', UDP, True),
        ('rule icmp-type name="echo-request" reject', UDP, False),
        ('rule service name="ssh" reject', UDP, True),  # whatever its ports are
    ],
)
def test_rich_rules(rule: str, opening: Opening, is_told: bool) -> None:
    kept = Listings(sections(f"z\n  target: default\n  rich rules: \n\t{rule}\n"))
    found = list(stops_later(Listings(), kept, "z", opening, "vmfence"))
    assert [one.what for one in found] == [f"zone z has the rich rule: {rule}"] * is_told
    assert list(stops_later(kept, kept, "z", opening, "vmfence")) == []
    assert list(stops_later(Listings(), kept, "other", opening, "vmfence")) == []


@pytest.mark.parametrize(
    ("service", "opening", "is_told"),
    [
        (("ports: 22/tcp", "protocols: "), UDP, False),
        (("ports: 22/tcp 1200-1300/udp",), UDP, True),
        (("ports: 1229/udp",), TCP, False),
        (("ports: ", "protocols: igmp"), UDP, True),
        (("ports: ", "protocols: igmp"), TCP, False),
        (("ports: 22/tcp", "includes: other"), UDP, True),  # nobody looked at the other
        (("ports: ", "protocols: ", "modules: tftp"), UDP, True),
        (("ports: ntp/udp",), UDP, True),  # it is not known here which port has that name
        (("ports: ntp/udp 22/tcp",), TCP, False),
        (("ports: ntp/udp 1229/tcp",), TCP, True),
        (("ports: 22/tcp", "protocols: 2"), UDP, True),
        (("ports: 22/tcp", "protocols: 17"), UDP, True),
        (("ports: 22/udp", "protocols: 6"), TCP, True),
        (("ports: 22/tcp", "protocols: 6"), UDP, False),
        (("ports: 22/tcp", "source-ports: 68/udp"), UDP, True),
    ],
)
def test_rich_rules_about_a_service_that_is_known(service: tuple[str, ...], opening: Opening, is_told: bool) -> None:
    rule = 'rule family="ipv4" service name="s" reject'
    kept = Listings(sections(f"z\n  target: default\n  rich rules: \n\t{rule}\n"))
    assert services_named(kept) == {"s"}
    known = replace(kept, services=sections("\n".join(["s", *(f"  {line}" for line in service)])))
    assert bool(list(stops_later(Listings(), known, "z", opening, "vmfence"))) is is_told


@pytest.mark.parametrize(
    "rule", ['rule service name="s" accept', 'rule service name="s" log prefix="drop"', 'rule protocol value="s" drop']
)
def test_services_that_decide_nothing_are_not_looked_up(rule: str) -> None:
    assert services_named(Listings(sections(f"z\n  rich rules: \n\t{rule}\n"))) == frozenset()


@pytest.mark.parametrize(
    ("lines", "is_told"),
    [
        (("target: DROP", "sources: 10.0.0.1"), True),
        (("target: default", "sources: ipset:guests"), True),
        (("target: ACCEPT", "sources: 10.0.0.1"), False),
        (("target: DROP", "sources: 10.0.0.1", "services: vmfence"), False),
        (("target: DROP", "sources: 10.0.0.1", "ports: 1229/udp"), True),  # without IGMP it is half
        (("target: DROP", "sources: 10.0.0.1", "ports: 22/tcp 1229/udp", "protocols: igmp"), False),
        (("target: DROP", "sources: 10.0.0.1", "ports: ntp/udp 1229/udp", "protocols: igmp"), False),
        (("target: DROP", "sources: 10.0.0.1", "ports: ntp/udp", "protocols: igmp"), True),
        (("target: DROP", "sources:"), False),
    ],
)
def test_sources(lines: tuple[str, ...], is_told: bool) -> None:
    kept = Listings(sections("\n".join(["z (active)", *(f"  {line}" for line in lines)])))
    assert bool(list(stops_later(Listings(), kept, "libvirt", UDP, "vmfence"))) is is_told


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({}, True),
        ({"target": "REJECT"}, True),
        ({"target": "CONTINUE"}, False),
        ({"priority": "10"}, False),  # zones decide before it
        ({"ingress-zones": "ANY"}, True),
        ({"ingress-zones": "public"}, False),
        ({"egress-zones": "public"}, False),
        ({"egress-zones": "ANY"}, False),  # ANY is every zone, and not this host
        ({"services": "vmfence"}, False),
    ],
)
def test_policies(changes: dict[str, str], is_told: bool) -> None:
    policy = {"priority": "-1", "target": "DROP", "ingress-zones": "libvirt", "egress-zones": "HOST", **changes}
    text = "p (active)\n" + "".join(f"  {key}: {value}\n" for key, value in policy.items())
    kept = Listings({}, sections(text))
    assert bool(list(stops_later(Listings(), kept, "libvirt", UDP, "vmfence"))) is is_told
    assert list(stops_later(kept, kept, "libvirt", UDP, "vmfence")) == []


@pytest.mark.parametrize("text", ["  target: default", "z\n  nonsense\n"])
def test_what_is_no_listing(text: str) -> None:
    with pytest.raises(ValueError, match="no setting of firewalld"):
        sections(text)


def test_listings_answer_as_firewall_cmd_does() -> None:
    asked: list[object] = []

    def ask(words: object) -> tuple[bool, str]:
        asked.append(words)
        return True, "public"

    text = "z (active)\n  interfaces: br0 br1\n  services: ssh\n  ports: 22/tcp 1200-1300/udp\n  protocols: igmp\n"
    answers = Answers(Listings(sections(text)), Listings(), ask)
    assert answers(["--get-zone-of-interface=br1"]) == (True, "z")
    assert answers(["--get-zone-of-interface=br"]) == (False, "no zone")
    assert answers(["--permanent", "--get-zone-of-interface=br1"]) == (False, "no zone")
    for item, is_there in (
        ("port=1229/udp", True),
        ("port=1229/tcp", False),
        ("port=1301/udp", False),
        ("port=22/tcp", True),
        ("protocol=igmp", True),
        ("protocol=ssh", False),
        ("service=ssh", True),
        ("service=igmp", False),
    ):
        assert answers(["--zone=z", f"--query-{item}"])[0] is is_there, item
        assert not answers(["--permanent", "--zone=z", f"--query-{item}"])[0]
    assert asked == [] and answers(["--get-default-zone"]) == (True, "public") and len(asked) == 1


def test_nothing_is_listed() -> None:
    assert sections("") == {} == sections("\n")
