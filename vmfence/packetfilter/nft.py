"""Rules of nftables, as ``nft -j list ruleset`` (1.0.6) writes them: do they stop a request, and what lets it in?

Pure.  Facts: libnftables-json(5), nft(8).
"""

from __future__ import annotations

import ipaddress
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmfence.packetfilter.rules import ADMITTED, Match, Opening, Rule, Verdict, comes_from, goes_to, may_stop

_FAMILIES = {"ipv4": ("inet", "ip", "bridge", "netdev"), "ipv6": ("inet", "ip6", "bridge", "netdev")}
_TYPES, _HOOKS = ("filter", "nat"), ("ingress", "prerouting", "input")
_VERDICTS = {**{each.value: each for each in Verdict}, "reject": Verdict.DROP}
# Statements that do nothing to a packet's way; all that are not known may stop it.
_HARMLESS = ("counter", "log", "mangle", "notrack", "dup", "continue", "ct helper", "ct timeout")
_CONDITIONS = ("limit", "quota", "ct count", "meter", "set", "map")
_TRANSPORTS = ("tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp")
_INTERNET = {"ipv4": "ip", "ipv6": "ip6"}
_FIELDS = {
    **{(protocol, "dport"): "dport" for protocol in ("tcp", "udp", "th")},
    **{
        ("ip", "protocol"): "l4proto",
        ("ip6", "nexthdr"): "l4proto",
        ("ip", "daddr"): "daddr",
        ("ip6", "daddr"): "daddr",
        ("igmp", "type"): "igmp",
    },
}
Json = dict[str, Any]
Table = tuple[str, str]  # family and name
# Chains of one table, with their rules as another program reads them, each at its place.
Readings = Mapping[str, Sequence[Rule]]


@dataclass(frozen=True)
class Stop:
    """A chain where a packet may be stopped; *command* lets it through."""

    table: Table
    chain: str
    command: str


def nft_stops(
    ruleset: str,
    packet: Opening,
    readings: Mapping[Table, Readings] | None = None,
    ports: Collection[str] = (),
    admitting: Collection[str] = (),
) -> Iterator[Stop]:
    """Yield the chains of *ruleset* (nft -j) that may stop *packet*, one kind of Opening.packets().

    *readings*: of tables that iptables has written too, for rules of which nft shows no more than that there is one
    (xt).  *ports*: interfaces that the opening's is made of, as a bridge of its ports; *admitting*: chains that will
    admit it at their end.  Raises ValueError, LookupError, TypeError or AttributeError for what is no ruleset.
    """
    entries = json.loads(ruleset)["nftables"]
    bases = [entry["chain"] for entry in entries if "chain" in entry and _is_on_our_way(entry["chain"], packet, ports)]
    tables = _chains(entries, packet, readings or {})
    for chains in tables.values():
        for name in admitting:
            chains.get(name, []).append(ADMITTED)
    for chain in bases:
        table = chain["family"], chain["table"]
        if may_stop(tables[table], chain["name"], chain.get("policy") != "drop"):
            yield Stop(table, chain["name"], _command(chain, packet))


def _chains(
    entries: Sequence[Json], packet: Opening, readings: Mapping[Table, Readings]
) -> dict[Table, dict[str, list[Rule]]]:
    """Return the chains of each table, with what their rules are for *packet*."""
    written: dict[tuple[Table, str], list[Json]] = {}
    for chain in (entry["chain"] for entry in entries if "chain" in entry):
        written[(chain["family"], chain["table"]), chain["name"]] = []
    for rule in (entry["rule"] for entry in entries if "rule" in entry):
        written.setdefault(((rule["family"], rule["table"]), rule["chain"]), []).append(rule)
    tables: dict[Table, dict[str, list[Rule]]] = defaultdict(dict)
    for (table, chain_name), rules in written.items():
        others = readings.get(table, {}).get(chain_name, ())
        if len(others) != len(rules):  # it was changed meanwhile, or is not what that program can show
            others = ()
        tables[table][chain_name] = [
            each for number, rule in enumerate(rules) for each in _read(rule, packet, others[number : number + 1])
        ]
    return tables


def _read(rule: Json, packet: Opening, other: Sequence[Rule]) -> Sequence[Rule]:
    """Return what *rule* comes to; *other*: the same as another program reads it, if one does."""
    expression = rule.get("expr", ())
    if other and any("xt" in step for step in expression):
        return other
    if rule["table"] == "firewalld" and _is_reverse_path(expression):
        return ()
    return list(_rules(expression, packet, rule["family"]))


def _is_reverse_path(expression: Sequence[Json]) -> bool:
    """Whether a rule of firewalld stops what the host could not answer: no guest whom it could call back."""
    return any(step.get("match", {}).get("left", {}).get("fib", {}).get("result") == "oif" for step in expression)


def _is_on_our_way(chain: Json, packet: Opening, ports: Collection[str]) -> bool:
    is_judged = chain.get("type") in _TYPES and chain.get("hook") in _HOOKS
    device = chain.get("dev")  # which nft 1.0.6 leaves out: then it may be ours
    devices: list[str] = [device] if isinstance(device, str) else device or []
    is_elsewhere = bool(devices) and packet.interface is not None and not {packet.interface, *ports} & {*devices}
    return is_judged and chain["family"] in _FAMILIES[packet.family] and not is_elsewhere


def _rules(expression: list[Json], opening: Opening, family: str) -> Iterator[Rule]:
    """Yield what one rule of nft comes to: one rule, none, or one for each entry of a verdict map."""
    matches = []
    for verb, value in (item for step in expression for item in step.items()):
        if verb == "match":
            matches.append(_match(value, opening, family))
        elif verb in _VERDICTS:
            yield _rule(Match.all(matches), verb, value)
        elif verb == "vmap" and isinstance(value["data"], dict):
            for key, verdict in value["data"]["set"]:
                one = _match({"op": "==", "left": value["key"], "right": key}, opening, family)
                [(kind, target)] = verdict.items()
                if kind in _VERDICTS:
                    yield _rule(Match.all([*matches, one]), kind, target)
        elif verb in _CONDITIONS or (verb == "xt" and value.get("type") == "match"):
            matches.append(Match.MAYBE)
        elif verb not in _HARMLESS:
            yield Rule(Match.all([*matches, Match.MAYBE]), Verdict.DROP)


def _rule(match: Match, verb: str, value: Any) -> Rule:
    verdict = _VERDICTS[verb]
    return Rule(match, verdict, value["target"] if verdict in (Verdict.JUMP, Verdict.GOTO) else "")


def _match(match: Json, opening: Opening, family: str) -> Match:
    left, operator = match["left"], match["op"]
    protocol = left["payload"].get("protocol") if "payload" in left else None
    internet = _INTERNET[opening.family]
    # nft leaves out that a port of TCP implies TCP, so "tcp dport != 22" is not about our UDP either
    if (protocol in _TRANSPORTS and protocol != opening.protocol) or protocol in {"ip", "ip6"} - {internet}:
        return Match.NO
    if operator not in ("==", "in", "!="):
        return Match.MAYBE
    held = _holds(match["right"], _subject(left, family), opening)
    return held.inverted() if operator == "!=" else held


def _subject(left: Json, family: str) -> str:
    """Return what a condition is about: a key of the facts about our packets, "" for what we do not know."""
    if "meta" in left:
        key = str(left["meta"]["key"])
        if key in ("iif", "iifname"):  # in a bridge it is the port
            return "" if family in ("bridge", "netdev") else "interface"
        return key
    if "payload" in left:
        return _FIELDS.get((left["payload"].get("protocol", ""), left["payload"].get("field", "")), "")
    if "ct" in left:
        return "state" if left["ct"].get("key") == "state" else ""
    is_type = left.get("fib", {}).get("result") == "type" and left["fib"].get("flags") in (["daddr"], "daddr")
    return "type" if is_type else ""


def _holds(value: Any, subject: str, opening: Opening) -> Match:
    """Return whether *value*, a literal, list, set, range or prefix, holds what our packets have for *subject*."""
    if isinstance(value, dict) and "set" in value:
        value = value["set"]
    if isinstance(value, list):
        return Match.any(_holds(each, subject, opening) for each in value)
    if isinstance(value, dict) and "elem" in value:
        return _holds(value["elem"]["val"], subject, opening)
    if isinstance(value, str) and (value.startswith("@") or value == "*"):
        return Match.MAYBE
    if subject == "dport" and opening.protocol == "igmp":  # it has no ports: what is there decides
        return Match.MAYBE
    if subject == "dport":
        first, last = value["range"] if isinstance(value, dict) else (value, value)
        return Match.of(first <= opening.port <= last)
    if subject == "daddr":
        return _is_destination(value, opening)
    if subject in ("interface", "ibrname") and isinstance(value, str):
        return comes_from(opening, value, "*")
    fact = _fact(subject, opening)
    return Match.of(fact == value) if fact and isinstance(value, str) else Match.MAYBE


def _fact(subject: str, opening: Opening) -> str:
    facts = {"l4proto": opening.protocol, "nfproto": opening.family, "protocol": _INTERNET[opening.family]}
    facts.update({"state": "new", "type": "local", "igmp": "membership-query"})
    if opening.is_multicast:
        facts.update({"type": "multicast", "pkttype": "multicast"})
    return facts.get(subject, "")


def _is_destination(value: Any, opening: Opening) -> Match:
    if isinstance(value, str):
        return goes_to(opening, value)
    if "prefix" in value:
        return goes_to(opening, f"{value['prefix']['addr']}/{value['prefix']['len']}")
    if "range" not in value or not opening.address:
        return Match.MAYBE
    first, last = (int(ipaddress.ip_address(each)) for each in value["range"])
    return Match.of(first <= int(ipaddress.ip_address(opening.address)) <= last)


def _command(chain: Json, packet: Opening) -> str:
    key = {"bridge": "meta ibrname", "netdev": ""}.get(chain["family"], "iifname")
    where = f' {key} "{packet.interface}"' if packet.interface and key else ""
    what = "ip protocol igmp" if packet.protocol == "igmp" else f"{packet.protocol} dport {packet.port}"
    return f"nft insert rule {chain['family']} {chain['table']} {chain['name']}{where} {what} accept"
