"""Packet rules that nobody but their owner may change: do they stop a request, and which command would let it in?

Reads what ``nft -j list ruleset`` (nftables 1.0.6) and ``iptables-save`` (1.8.9) write; pure.  A rule is taken to admit
a request only if it says nothing else, and a drop or reject anywhere on the way is taken to stop it: better one
needless piece of advice than silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FAMILIES = {"ipv4": ("inet", "ip"), "ipv6": ("inet", "ip6")}


@dataclass(frozen=True)
class Opening:
    """What one listener needs: *port* of *protocol* (udp, tcp) from *interface* (None: any); *igmp* as well."""

    protocol: str
    port: int
    interface: str | None
    family: str = "ipv4"
    igmp: bool = False

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        return f"{self.protocol.upper()} {self.port}{' and IGMP' if self.igmp else ''}{where}"


def nft_missing(ruleset: str, opening: Opening) -> tuple[str, ...]:
    """Return the nft commands that let *opening* in, none when nothing in *ruleset* (nft -j) can stop it.

    Chains that belong to iptables are left to iptables_missing().
    """
    entries = json.loads(ruleset)["nftables"]
    rules = [entry["rule"] for entry in entries if "rule" in entry]
    found = []
    for chain in (entry["chain"] for entry in entries if "chain" in entry):
        if not _filters_input(chain) or chain["family"] not in _FAMILIES[opening.family]:
            continue
        reached = list(_reached(rules, chain["name"], chain))
        stops = chain.get("policy") == "drop" or any(_has(rule, "drop") or _has(rule, "reject") for rule in reached)
        if stops and not any(_nft_admits(rule, opening) for rule in reached):
            found += _nft_commands(chain, opening)
    return tuple(found)


def _filters_input(chain: dict[str, Any]) -> bool:
    is_of_iptables = chain["table"] == "filter" and chain["name"] == "INPUT"
    return chain.get("hook") == "input" and chain.get("type") == "filter" and not is_of_iptables


def _reached(rules: list[dict[str, Any]], name: str, base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the rules of the chain *name* and of all chains that it leads to, in the table of *base*."""
    names = [name]
    for current in names:  # grows while we go
        for rule in rules:
            if (rule["family"], rule["table"], rule["chain"]) == (base["family"], base["table"], current):
                yield rule
                names += [target for target in _targets(rule) if target not in names]


def _targets(rule: dict[str, Any]) -> list[str]:
    return [step[verb]["target"] for step in rule.get("expr", ()) for verb in ("jump", "goto") if verb in step]


def _has(rule: dict[str, Any], verdict: str) -> bool:
    return any(verdict in step for step in rule.get("expr", ()))


def _nft_admits(rule: dict[str, Any], opening: Opening) -> bool:
    """Whether *rule* accepts this port, under no other condition than that it comes from the right interface."""
    port = {"payload": {"protocol": opening.protocol, "field": "dport"}}
    matches = [step["match"] for step in rule.get("expr", ()) if "match" in step]
    ports = [m for m in matches if m["left"] == port and m["op"] in ("==", "in") and _holds(m["right"], opening.port)]
    rest = [m for m in matches if m not in ports]
    here = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": opening.interface}
    return _has(rule, "accept") and bool(ports) and all(match == here for match in rest)


def _holds(value: Any, port: int) -> bool:
    if isinstance(value, dict) and "set" in value:
        return any(_holds(each, port) for each in value["set"])
    if isinstance(value, dict) and "range" in value:
        first, last = value["range"]
        return bool(first <= port <= last)
    return bool(value == port)


def _nft_commands(chain: dict[str, Any], opening: Opening) -> list[str]:
    begin = f"nft insert rule {chain['family']} {chain['table']} {chain['name']}"
    begin += f' iifname "{opening.interface}"' if opening.interface else ""
    lines = [f"{begin} {opening.protocol} dport {opening.port} accept"]
    return lines + ([f"{begin} ip protocol igmp accept"] if opening.igmp else [])


def iptables_missing(saved: str, opening: Opening) -> tuple[str, ...]:
    """Return the commands that let *opening* in, none when nothing in *saved* (iptables-save) can stop it."""
    rules = [line.split() for line in _filter_table(saved).splitlines()]
    reached = list(_iptables_reached(rules))
    stops = [":INPUT", "DROP"] in (rule[:2] for rule in rules)
    stops = stops or any(rule[rule.index("-j") + 1] in ("DROP", "REJECT") for rule in reached if "-j" in rule)
    if not stops or any(_iptables_admits(rule, opening) for rule in reached):
        return ()
    if any(rule[1].startswith(("ufw-", "ufw6-")) for rule in reached):
        device = f"in on {opening.interface} " if opening.interface else ""
        return (f"ufw allow {device}to any port {opening.port} proto {opening.protocol}",)
    begin = f"{'ip6tables' if opening.family == 'ipv6' else 'iptables'} -I INPUT"
    begin += f" -i {opening.interface}" if opening.interface else ""
    lines = [f"{begin} -p {opening.protocol} --dport {opening.port} -j ACCEPT"]
    return tuple(lines + ([f"{begin} -p igmp -j ACCEPT"] if opening.igmp else []))


def _filter_table(saved: str) -> str:
    """Return the part of *saved* that is the table filter."""
    return "".join(part.partition("\nCOMMIT")[0] for part in f"\n{saved}".split("\n*filter\n")[1:])


def _iptables_reached(rules: list[list[str]]) -> Iterator[list[str]]:
    """Return the rules of INPUT and of all chains that it leads to."""
    names = ["INPUT"]
    for current in names:  # grows while we go
        for rule in rules:
            if rule[:2] == ["-A", current]:
                yield rule
                target = next((rule[at + 1] for at, word in enumerate(rule) if word in ("-j", "-g")), current)
                names += [target] if target not in names else []


def _iptables_admits(rule: list[str], opening: Opening) -> bool:
    """Whether *rule* accepts this port on this interface, without any further condition."""
    if rule[-2:] != ["-j", "ACCEPT"]:
        return False
    words = rule[2:-2]
    wanted = ["-p", opening.protocol, "-m", opening.protocol, "--dport", str(opening.port)]
    device = ["-i", opening.interface] if opening.interface else []
    return words in (wanted, [*device, *wanted])
