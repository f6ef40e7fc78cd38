"""What firewalld has besides the zone of an interface: sources, rich rules and policies that may stop us, and when.

Pure.  The order is that of firewalld.richlanguage(5) and firewalld.policies(5): what stops without a priority, or with
a negative one, comes before what a zone lets in, and a policy with a negative priority before all zones.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vmfence.packetfilter.listing import Listings, Section
from vmfence.packetfilter.rules import Opening

_HOST, _ANY = "HOST", "ANY"  # ANY is every zone; this host is none
_STOPPING = ("DROP", "REJECT", "%%REJECT%%")
_NUMBERS = {"igmp": "2", "tcp": "6", "udp": "17"}  # firewalld takes protocols by number as well
_SERVICE = re.compile(r'\bservice name="([^"]*)"')
# Rich rules about these do not decide about requests.
_OTHERS = ("icmp-type", "icmp-block", "forward-port", "masquerade")


@dataclass(frozen=True)
class Later:
    """What will, or may, stop requests after the next reload, and the *command* that prevents it."""

    what: str
    command: str


def stops_now(now: Listings, kept: Listings, zone: str, opening: Opening, service: str) -> Iterator[Later]:
    """Yield what of *now* may stop *opening*, whose interface is in *zone*: what lets it in does so for good."""
    lasting = {one.what: one.command for one in stops_later(Listings(), kept, zone, opening, service)}
    for one in stops_later(Listings(), now, zone, opening, service):
        commands = [one.command.replace("firewall-cmd --permanent ", "firewall-cmd ")]
        commands += [lasting[one.what]] if one.what in lasting else []
        yield Later(one.what, " && ".join(commands))


def stops_later(now: Listings, kept: Listings, zone: str, opening: Opening, service: str) -> Iterator[Later]:
    """Yield what *kept* has and *now* has not that may stop *opening*, whose interface is kept in *zone*.

    *service*: the one that lets in all that listeners need.
    """
    for name, one in kept.zones.items():
        before = now.zones.get(name, Section())
        new = [source for source in one.get("sources") if source not in before.get("sources")]
        if new and _is_stopping(one) and not one.admits(opening, service):
            yield _admitted(f"zone {name}, which does not let in {opening}, has sources {' '.join(new)}", name, opening)
        if name == zone or new:
            yield from _ruled("zone", name, one, before, opening, kept.services)
    for name, one in kept.policies.items():
        before = now.policies.get(name, Section())
        if one == before or not _is_ahead(one, zone):
            continue
        if any(target in _STOPPING for target in one.get("target")) and not one.admits(opening, service):
            yield _admitted(f"policy {name} does not let in {opening}", name, opening, "policy")
        yield from _ruled("policy", name, one, before, opening, kept.services)


def services_named(kept: Listings) -> frozenset[str]:
    """Return the services whose ports decide whether rich rules of *kept* stop anything of ours."""
    rules = (rule for kind in (kept.zones, kept.policies) for one in kind.values() for rule in one.rules)
    return frozenset(name for rule in rules if _is_about_to_stop(rule) for name in _SERVICE.findall(rule))


def _is_stopping(zone: Section) -> bool:
    """Whether *zone* stops what it does not name."""
    return any(target in (*_STOPPING, "default") for target in zone.get("target"))


def _admitted(what: str, name: str, opening: Opening, kind: str = "zone") -> Later:
    items = [f"port={opening.port}/{opening.protocol}", *(["protocol=igmp"] if opening.igmp else [])]
    words = [["firewall-cmd", "--permanent", f"--{kind}={name}", f"--add-{item}"] for item in items]
    return Later(what, " && ".join(map(shlex.join, words)))


def _ruled(
    kind: str, name: str, one: Section, before: Section, opening: Opening, services: Mapping[str, Section]
) -> Iterator[Later]:
    for rule in one.rules:
        if rule not in before.rules and _may_stop(rule, opening, services):
            words = ["firewall-cmd", "--permanent", f"--{kind}={name}", f"--remove-rich-rule={rule}"]
            yield Later(f"{kind} {name} has the rich rule: {rule}", shlex.join(words))


def _is_ahead(policy: Section, zone: str) -> bool:
    """Whether *policy* decides about packets to this host, before *zone* does."""
    priority = next(iter(policy.get("priority")), "-1")
    is_from_there = any(each in (zone, _ANY) for each in policy.get("ingress-zones"))
    return priority.startswith("-") and is_from_there and _HOST in policy.get("egress-zones")


def _is_about_to_stop(rule: str) -> bool:
    words = re.sub(r'="[^"]*"', "=", rule).split()
    return not {"drop", "reject"}.isdisjoint(words) and not any(other in words for other in _OTHERS)


def _may_stop(rule: str, opening: Opening, services: Mapping[str, Section]) -> bool:
    values = dict(re.findall(r'(\w+(?: \w+)?)="([^"]*)"', rule))
    if not _is_about_to_stop(rule):
        return False
    priority = values.get("rule priority", "0")
    if not priority.startswith("-") and priority != "0":
        return False
    if (values.get("rule family") or values.get("family") or opening.family) != opening.family:
        return False
    return _concerns(rule, opening, services)


def _concerns(rule: str, opening: Opening, services: Mapping[str, Section]) -> bool:
    """Whether *rule* is about the port or the protocols of *opening*, or about whatever comes."""
    service = _SERVICE.search(rule)
    if service:
        return _may_cover(services.get(service[1]), opening)
    port = re.search(r'\bport port="(\d+)(?:-(\d+))?" protocol="(\w+)"', rule)
    if port and "source-port" not in rule:
        is_ours = int(port[1]) <= opening.port <= int(port[2] or port[1])
        return port[3] == opening.protocol and is_ours
    protocol = re.search(r'\bprotocol value="([\w-]+)"', rule)
    return protocol is None or _is_needed(protocol[1], opening)


def _may_cover(service: Section | None, opening: Opening) -> bool:
    """Whether *service* has the port or the protocols of *opening*, or may have, for all that is known of it."""
    if service is None or service.get("includes") or service.get("source-ports"):
        return True
    if not (service.get("ports") or service.get("protocols")):
        return True
    is_needed = any(_is_needed(protocol, opening) for protocol in service.get("protocols"))
    return is_needed or service.may_have_port(f"{opening.port}/{opening.protocol}")


def _is_needed(protocol: str, opening: Opening) -> bool:
    """Whether *protocol*, a name or a number, is one of *opening*."""
    names = (opening.protocol, *(["igmp"] if opening.igmp else []))
    return protocol.lower() in names or protocol in map(_NUMBERS.get, names)
