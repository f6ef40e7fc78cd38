"""Rules of nftables, as ``nft -j list ruleset`` (1.0.6) writes them: do they stop a request, and what lets it in?

Pure.  Facts: libnftables-json(5), nft(8).
"""

from __future__ import annotations

import ipaddress
import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from vmfence.host.packet_rules import Match, Opening, Rule, Verdict, comes_from, goes_to, may_stop

_FAMILIES = {"ipv4": ("inet", "ip", "bridge", "netdev"), "ipv6": ("inet", "ip6", "bridge", "netdev")}
_HOOKS = ("ingress", "prerouting", "input")
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
    },
}
Json = dict[str, Any]


def nft_missing(ruleset: str, opening: Opening, others: Collection[tuple[str, str]] = ()) -> tuple[str, ...]:
    """Return the nft commands that let *opening* in, none when nothing in *ruleset* (nft -j) can stop it.

    *others*: tables (family, name) that are somebody else's to judge.  Raises ValueError, LookupError, TypeError or
    AttributeError for what is no ruleset.
    """
    entries = json.loads(ruleset)["nftables"]
    tables: dict[tuple[str, str], dict[str, list[Rule]]] = defaultdict(dict)
    bases = []
    for chain in (entry["chain"] for entry in entries if "chain" in entry):
        tables[chain["family"], chain["table"]][chain["name"]] = []
        if _is_on_our_way(chain, opening) and (chain["family"], chain["table"]) not in others:
            bases.append(chain)
    for rule in (entry["rule"] for entry in entries if "rule" in entry):
        chains = tables[rule["family"], rule["table"]]
        chains[rule["chain"]] += _rules(rule.get("expr", ()), opening, rule["family"])
    found: list[str] = []
    for chain in bases:
        is_admitting = chain.get("policy") != "drop"
        if may_stop(tables[chain["family"], chain["table"]], chain["name"], is_admitting):
            found += _commands(chain, opening)
    return tuple(found)


def _is_on_our_way(chain: Json, opening: Opening) -> bool:
    is_filter = chain.get("type") == "filter" and chain.get("hook") in _HOOKS
    device = chain.get("dev")
    devices: list[str] = [device] if isinstance(device, str) else device or []
    is_elsewhere = bool(devices) and opening.interface is not None and opening.interface not in devices
    return is_filter and chain["family"] in _FAMILIES[opening.family] and not is_elsewhere


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
    is_udp = opening.protocol == "udp"
    facts = {"l4proto": opening.protocol, "nfproto": opening.family, "protocol": _INTERNET[opening.family]}
    facts.update({"state": "new", "type": "multicast" if is_udp else "local", "pkttype": "multicast" if is_udp else ""})
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


def _commands(chain: Json, opening: Opening) -> list[str]:
    begin = f"nft insert rule {chain['family']} {chain['table']} {chain['name']}"
    key = {"bridge": "meta ibrname", "netdev": ""}.get(chain["family"], "iifname")
    begin += f' {key} "{opening.interface}"' if opening.interface and key else ""
    lines = [f"{begin} {opening.protocol} dport {opening.port} accept"]
    return lines + ([f"{begin} ip protocol igmp accept"] if opening.igmp else [])
