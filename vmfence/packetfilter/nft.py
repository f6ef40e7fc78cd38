"""Rules of nftables, as ``nft -j list ruleset`` (1.0.6) writes them: do they stop a request, and what lets it in?

Pure.  Facts: libnftables-json(5), nft(8).
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable

from vmfence.packetfilter.origins import Origin
from vmfence.packetfilter.rules import (
    UNKNOWN,
    UNKNOWN_ORIGIN,
    Condition,
    Match,
    Opening,
    Rule,
    Verdict,
    admitted,
    comes_from,
    comes_from_port,
    comes_through,
    goes_to,
    goes_to_port,
    has_flags,
    sent_by,
    sent_by_hardware,
)
from vmfence.packetfilter.walk import Chains, Stoppage, find_stoppage
from vmfence.packetfilter.wording import rule_text

_FAMILIES = {"ipv4": ("inet", "ip", "bridge", "netdev"), "ipv6": ("inet", "ip6", "bridge", "netdev")}
_TYPES, _HOOKS = ("filter", "nat"), ("ingress", "prerouting", "input")
_VERDICTS = {**{each.value: each for each in Verdict}, "reject": Verdict.DROP}
# Statements that do nothing to a packet's way; all that are not known may stop it.
_HARMLESS = ("counter", "log", "mangle", "notrack", "dup", "continue", "ct helper", "ct timeout")
_CONDITIONS = ("ct count", "meter", "set", "map")
_BLIND = ("limit", "quota")  # conditions that go by something else than who sends
_TRANSPORTS = ("tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp")
_INTERNET = {"ipv4": "ip", "ipv6": "ip6"}
_FIELDS = {
    **{(protocol, end): end for protocol in ("tcp", "udp", "th") for end in ("dport", "sport")},
    **{
        ("ip", "protocol"): "l4proto",
        ("ip6", "nexthdr"): "l4proto",
        ("ip", "daddr"): "daddr",
        ("ip6", "daddr"): "daddr",
        ("ip", "saddr"): "saddr",
        ("ip6", "saddr"): "saddr",
        ("ether", "saddr"): "hardware",
        ("ether", "type"): "protocol",
        ("igmp", "type"): "igmp",
    },
}
Json = dict[str, Any]
Table = tuple[str, str]  # family and name
# Reads a chain of a table for a packet as another program does, each rule at its place.
Reader = Callable[[Table, str, Opening], Sequence[Rule]]
Sets = Mapping[tuple[Table, str], Any]
_FLAGS = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"]
_CONNTRACK_PRIORITY = -200  # chains before know no connections
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)
_BELOW = ("bridge", "netdev")  # families of rules that no packet of this host itself passes


@dataclass(frozen=True)
class Stop:
    """A chain where a packet may be stopped; *command* lets it through, or shows the chain where nothing else may."""

    table: Table
    chain: str
    command: str
    stoppage: Stoppage


def nft_stops(
    ruleset: str,
    packet: Opening,
    read: Reader = lambda *_: (),
    ports: Collection[str] = (),
    admitting: Collection[str] = (),
) -> Iterator[Stop]:
    """Yield the chains of *ruleset* (nft -j) that may stop *packet*, one kind of Opening.packets().

    *read*: reads tables that iptables has written too, for rules of which nft shows no more than that there is one
    (xt).  *ports*: interfaces that the opening's is made of, as a bridge of its ports; *admitting*: chains that will
    admit it at their end.  Raises ValueError, LookupError, TypeError or AttributeError for what is no ruleset.
    """
    _tables(ruleset)  # so that nonsense is told, also where no chain is on our way
    for chain in (entry["chain"] for entry in _entries(ruleset) if "chain" in entry):
        if _is_on_our_way(chain, packet, ports):
            one = replace(packet, is_tracked=_is_tracked(chain))
            stoppage = _stoppage(ruleset, chain, one, read, admitting)
            if stoppage is not None:
                table = chain["family"], chain["table"]
                yield Stop(table, chain["name"], _command(chain, one, stoppage.is_guarded), stoppage)


def _is_tracked(chain: Json) -> bool:
    """Whether rules there know which connection a packet is of."""
    priority = chain.get("prio", 0)
    return chain["family"] not in _BELOW and isinstance(priority, int) and priority > _CONNTRACK_PRIORITY


def _stoppage(ruleset: str, chain: Json, packet: Opening, read: Reader, admitting: Collection[str]) -> Stoppage | None:
    family, device = chain["family"], chain.get("dev")
    # Without its device, which nft 1.0.6 leaves out, it is taken for one of a guest's port, as those of filters are.
    devices = [device] if isinstance(device, str) else device or []
    is_of_port = family == "netdev" and packet.interface not in devices

    def read_for(origin: Origin) -> Chains:
        one = replace(packet, origin=origin)

        def rules(name: str) -> Iterable[Rule] | None:
            found = _chain(ruleset, (family, chain["table"]), name, one, read)
            return None if found is None else itertools.chain(found, admitted(name, admitting))

        return rules

    known = [one for one in packet.origins.known if not is_of_port or one.port in devices]
    stoppage = find_stoppage(read_for, chain["name"], chain.get("policy") != "drop", known, is_of_port)
    if stoppage is None or family not in _BELOW:
        return stoppage
    return replace(stoppage, is_of_origin=True, is_guarded=stoppage.is_guarded or stoppage.is_of_address)


@functools.lru_cache(maxsize=8)
def _entries(ruleset: str) -> Sequence[Json]:
    """Return the entries of *ruleset*, taken apart once, for it may have thousands: not to be changed."""
    entries: Sequence[Json] = json.loads(ruleset)["nftables"]
    return entries


@functools.lru_cache(maxsize=8)
def _tables(ruleset: str) -> Mapping[Table, Mapping[str, Sequence[Json]]]:
    """Return the chains of each table, with their rules: not to be changed."""
    found: dict[Table, dict[str, list[Json]]] = {}
    for chain in (entry["chain"] for entry in _entries(ruleset) if "chain" in entry):
        found.setdefault((chain["family"], chain["table"]), {})[chain["name"]] = []
    for rule in (entry["rule"] for entry in _entries(ruleset) if "rule" in entry):
        found.setdefault((rule["family"], rule["table"]), {}).setdefault(rule["chain"], []).append(rule)
    return found


@functools.lru_cache(maxsize=8)
def _sets(ruleset: str) -> Sets:
    """Return what the sets hold that have a name: not to be changed."""
    found = (entry["set"] for entry in _entries(ruleset) if "set" in entry)
    return {((one["family"], one["table"]), one["name"]): one.get("elem", []) for one in found}


def _chain(ruleset: str, table: Table, name: str, packet: Opening, read: Reader) -> Iterator[Rule] | None:
    """Return what the rules of a chain are for *packet*, None when there is no such chain."""
    rules = _tables(ruleset)[table].get(name)
    if rules is None:
        return None
    others = read(table, name, packet)
    same = others if len(others) == len(rules) else ()  # or it was changed meanwhile, or that program cannot show it
    sets = _sets(ruleset)
    pairs = ((rule, same[number : number + 1]) for number, rule in enumerate(rules))
    return (each for rule, other in pairs for each in _read(rule, packet, other, sets))


def _read(rule: Json, packet: Opening, other: Sequence[Rule], sets: Sets) -> Sequence[Rule]:
    """Return what *rule* comes to; *other*: the same as another program reads it, if one does."""
    expression = rule.get("expr", ())
    if other and any("xt" in step for step in expression):
        return other
    if rule["table"] == "firewalld" and _is_reverse_path(expression):
        return ()
    tell = other[0].tell if other else partial(rule_text, rule)
    return [replace(one, tell=tell) for one in _rules(rule, packet, sets)]


def _is_reverse_path(expression: Sequence[Json]) -> bool:
    """Whether a rule of firewalld stops what the host could not answer: no guest whom it could call back."""
    return any(step.get("match", {}).get("left", {}).get("fib", {}).get("result") == "oif" for step in expression)


def _is_on_our_way(chain: Json, packet: Opening, ports: Collection[str]) -> bool:
    types = _TYPES[:1] if packet.answered else _TYPES  # nat sees only the first packet of a connection
    is_judged = chain.get("type") in types and chain.get("hook") in _HOOKS
    device = chain.get("dev")  # which nft 1.0.6 leaves out: then it may be ours
    devices: list[str] = [device] if isinstance(device, str) else device or []
    is_elsewhere = bool(devices) and packet.interface is not None and not {packet.interface, *ports} & {*devices}
    return is_judged and chain["family"] in _FAMILIES[packet.family] and not is_elsewhere


def _rules(rule: Json, opening: Opening, sets: Sets) -> Iterator[Rule]:
    """Yield what one rule of nft comes to: one rule, none, or one for each entry of a verdict map."""
    found: list[Condition] = []
    for verb, value in (item for step in rule.get("expr", ()) for item in step.items()):
        if verb == "match":
            found.append(_condition(value, opening, rule, sets))
        elif verb in _VERDICTS:
            yield _rule(Condition.all(found), verb, value)
        elif verb == "vmap" and isinstance(value["data"], dict):
            for key, verdict in value["data"]["set"]:
                one = _condition({"op": "==", "left": value["key"], "right": key}, opening, rule, sets)
                [(kind, target)] = verdict.items()
                if kind in _VERDICTS:
                    yield _rule(Condition.all([*found, one]), kind, target)
        elif verb in _BLIND:
            found.append(UNKNOWN)
        elif verb in _CONDITIONS or (verb == "xt" and value.get("type") == "match"):
            found.append(UNKNOWN_ORIGIN)
        elif verb not in _HARMLESS or (opening.answered and verb == "notrack"):
            yield Rule(Condition.all([*found, UNKNOWN_ORIGIN]), Verdict.DROP)


def _rule(condition: Condition, verb: str, value: Any) -> Rule:
    verdict = _VERDICTS[verb]
    return Rule(condition, verdict, value["target"] if verdict in (Verdict.JUMP, Verdict.GOTO) else "")


def _condition(match: Json, opening: Opening, rule: Json, sets: Sets) -> Condition:
    left, operator = match["left"], match["op"]
    protocol = left["payload"].get("protocol") if "payload" in left else None
    internet = _INTERNET[opening.family]
    # nft leaves out that a port of TCP implies TCP, so "tcp dport != 22" is not about our UDP either
    if (protocol in _TRANSPORTS and protocol != opening.protocol) or protocol in {"ip", "ip6"} - {internet}:
        return Condition(Match.NO)
    if _is_of_flags(left):
        return _flags(operator, left, match["right"], opening)
    if operator not in ("==", "in", "!="):
        return UNKNOWN_ORIGIN
    right = match["right"]
    if isinstance(right, str) and right.startswith("@"):
        right = sets.get(((rule["family"], rule["table"]), right[1:]), right)
    held = _holds(right, _subject(left, rule["family"]), opening)
    return held.inverted() if operator == "!=" else held


def _flags(operator: str, left: Json, right: Any, opening: Opening) -> Condition:
    """Return whether a condition about the flags of TCP holds: "syn" (any of these), "& (fin | syn) == syn"."""
    masked = left.get("&", ())
    mask, wanted = _flag_names(list(masked[1:]) if masked else _FLAGS), _flag_names(right)
    if mask is None or wanted is None:
        return UNKNOWN_ORIGIN
    if operator in ("in", "!") and not masked:  # any of them, none of them
        mask, wanted, operator = wanted, [], "!=" if operator == "in" else "=="
    held = has_flags(opening, mask, wanted)
    return {"==": held, "!=": held.inverted()}.get(operator, UNKNOWN_ORIGIN)


def _is_of_flags(left: Json) -> bool:
    """Whether *left* is "tcp flags" or "tcp flags & ..."."""
    masked = left.get("&")
    return (masked[0] if isinstance(masked, list) else left) == {"payload": {"protocol": "tcp", "field": "flags"}}


def _flag_names(value: Any) -> list[str] | None:
    """Return the names in a flag, or flags joined by "|"; None for what is something else."""
    if isinstance(value, dict) and value.keys() == {"|"}:
        value = value["|"]
    if not isinstance(value, list):
        return [value] if isinstance(value, str) else [] if value == 0 else None
    found = [_flag_names(each) for each in value]
    return None if None in found else [name for names in found for name in names or ()]


def _subject(left: Json, family: str) -> str:
    """Return what a condition is about: a key of the facts about our packets, "" for what we do not know."""
    if "meta" in left:
        key = str(left["meta"]["key"])
        if key in ("iif", "iifname"):
            return "port" if family in _BELOW else "interface"
        return key
    if "payload" in left:
        return _FIELDS.get((left["payload"].get("protocol", ""), left["payload"].get("field", "")), "")
    if "ct" in left:
        return {"state": "state", "status": "status", "direction": "direction"}.get(left["ct"].get("key"), "")
    is_type = left.get("fib", {}).get("result") == "type" and left["fib"].get("flags") in (["daddr"], "daddr")
    return "type" if is_type else ""


def _holds(value: Any, subject: str, opening: Opening) -> Condition:
    """Return whether *value*, a literal, list, set, range or prefix, holds what our packets have for *subject*."""
    if isinstance(value, dict) and "set" in value:
        value = value["set"]
    if isinstance(value, list):
        return Condition.any(_holds(each, subject, opening) for each in value)
    if isinstance(value, dict) and "elem" in value:
        return _holds(value["elem"]["val"], subject, opening)
    if isinstance(value, str) and (value.startswith("@") or value == "*"):
        return UNKNOWN_ORIGIN
    if subject == "dport" and opening.protocol == "igmp":  # it has no ports: what is there decides
        return UNKNOWN
    if subject in ("dport", "sport"):
        first, last = value["range"] if isinstance(value, dict) else (value, value)
        return (goes_to_port if subject == "dport" else comes_from_port)(opening, first, last)
    if subject == "daddr":
        return Condition(_is_destination(value, opening))
    if subject == "saddr":
        return _is_source(value, opening)
    if isinstance(value, str):
        if subject in ("interface", "ibrname"):
            return comes_from(opening, value, "*")
        if subject == "port":
            return comes_through(opening, value, "*")
        if subject == "hardware":
            return sent_by_hardware(opening, value)
    fact = _fact(subject, opening)
    is_of_origin = not fact or subject == "pkttype"  # what a host sends itself is of another kind
    return Condition(Match.of(fact == value) if fact and isinstance(value, str) else Match.MAYBE, None, is_of_origin)


def _fact(subject: str, opening: Opening) -> str:
    facts = {"l4proto": opening.protocol, "nfproto": opening.family, "protocol": _INTERNET[opening.family]}
    facts.update({"state": opening.state, "type": "local", "igmp": "membership-query"})
    facts["status"] = "" if opening.answered else "none"
    facts["direction"] = "reply" if opening.answered and opening.state else ""
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


def _is_source(value: Any, opening: Opening) -> Condition:
    if isinstance(value, str):
        return sent_by(opening, value)
    if "prefix" in value:
        return sent_by(opening, f"{value['prefix']['addr']}/{value['prefix']['len']}")
    if "range" not in value:
        return UNKNOWN_ORIGIN
    first, last = (ipaddress.ip_address(each) for each in value["range"])
    networks = ipaddress.summarize_address_range(first, last)
    return Condition.any(sent_by(opening, str(each)) for each in networks)


def _command(chain: Json, packet: Opening, is_guarded: bool) -> str:
    place = shlex.join([chain["family"], chain["table"], chain["name"]])
    if is_guarded:
        return f"nft -a list chain {place}"
    # A kernel without nft_meta_bridge knows no name of a bridge there, so the rule is for all bridges.
    where = f" iifname {_named(packet.interface)}" if packet.interface and chain["family"] not in _BELOW else ""
    what = "ip protocol igmp" if packet.protocol == "igmp" else f"{packet.protocol} dport {packet.port}"
    if packet.answered:
        what = f"{packet.protocol} sport {packet.port}" + (" ct state established" if packet.is_tracked else "")
    return f"nft insert rule {place}{where} {what} accept"


def _named(interface: str) -> str:
    return f'"{interface}"' if _PLAIN.fullmatch(interface) else shlex.quote(f'"{interface}"')
