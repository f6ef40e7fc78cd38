"""Rules of iptables, as ``iptables-save`` (1.8.9) writes them: do they stop a request, and what lets it in?  Pure.

Facts: iptables(8), iptables-extensions(8).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vmfence.host.packet_rules import Match, Opening, Rule, Verdict, comes_from, goes_to, may_stop

# The chains that a packet for this host goes through, where it can be stopped.
_BASES = ("PREROUTING", "INPUT")
_NO_FILTER = ("nat",)
_VERDICTS = {"ACCEPT": Verdict.ACCEPT, "DROP": Verdict.DROP, "REJECT": Verdict.DROP, "RETURN": Verdict.RETURN}
# Targets that do nothing to a packet's way, and modules that say nothing without an option; all others may.
_HARMLESS = (
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "AUDIT",
    "SET",
    "TRACE",
    "CHECKSUM",
    "TOS",
    "DSCP",
    "CT",
    "TEE",
)
_NEUTRAL = ("udp", "tcp", "conntrack", "state", "multiport", "addrtype", "comment", "pkttype")
# The options that we know; each has one value.
_OPTIONS = ("-i", "-d", "-m", "-p", "--dport", "--dports", "--ctstate", "--state", "--dst-type", "--comment")
Chains = dict[str, list[list[str]]]


def tables_of(saved: str) -> dict[str, Chains]:
    """Return the tables in *saved*: their chains, each a list of rules as words, of which the first is the policy.

    Raises ValueError.
    """
    found: dict[str, Chains] = {}
    table: Chains = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            table = found.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            table[name] = [["-P", name, policy]]
        elif line.startswith("-A "):
            words = shlex.split(line)
            table.setdefault(words[1], [["-P", words[1], "-"]]).append(words)
    return found


def iptables_missing(saved: str, opening: Opening, program: str = "") -> tuple[str, ...]:
    """Return the commands that let *opening* in, none when nothing in *saved* (iptables-save) can stop it.

    *program*: what the rules are of, if not iptables or ip6tables.  Raises ValueError or LookupError for what is not
    the output of iptables-save.
    """
    program = program or ("ip6tables" if opening.family == "ipv6" else "iptables")
    found: list[str] = []
    for name, words in tables_of(saved).items():
        chains = {chain: [_rule(rule, opening, words) for rule in rules[1:]] for chain, rules in words.items()}
        for base in _BASES:
            is_admitting = words.get(base, [["-P", base, "ACCEPT"]])[0][2] != "DROP"
            if name not in _NO_FILTER and base in chains and may_stop(chains, base, is_admitting):
                is_ufw = name == "filter" and any(chain.startswith(("ufw-", "ufw6-")) for chain in chains)
                found += _ufw_commands(opening) if is_ufw else _commands(program, name, base, opening)
    return tuple(dict.fromkeys(found))


def _rule(words: list[str], opening: Opening, chains: Chains) -> Rule:
    """Return the rule -A CHAIN [! -x VALUE]... [-j TARGET ...]."""
    matches: list[Match] = []
    position, is_inverted = 2, False
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        if word in ("-j", "-g"):
            return _verdict(Match.all(matches), value, Verdict.GOTO if word == "-g" else Verdict.JUMP, chains)
        if word == "!":
            is_inverted = True
            position += 1
            continue
        match = _match(word, value, opening)
        matches.append(match.inverted() if is_inverted else match)
        position, is_inverted = position + (2 if word in _OPTIONS else 1), False
        while position < len(words) and not words[position].startswith(("-", "!")):
            position += 1  # values of an option that we do not know
    return Rule(Match.NO, Verdict.RETURN)  # it only counts


def _verdict(match: Match, target: str, jump: Verdict, chains: Chains) -> Rule:
    if target in _VERDICTS:
        return Rule(match, _VERDICTS[target])
    if target in chains:
        return Rule(match, jump, target)
    return Rule(Match.NO if target in _HARMLESS else Match.all([match, Match.MAYBE]), Verdict.DROP)


def _match(option: str, value: str, opening: Opening) -> Match:
    is_udp = opening.protocol == "udp"
    if option == "-i":
        return comes_from(opening, value, "+")
    if option == "-d":
        return goes_to(opening, value)
    if option == "-m":
        return Match.YES if value in _NEUTRAL else Match.MAYBE
    if option in ("--dport", "--dports"):
        return Match.of(any(_holds(each, opening.port) for each in value.split(",")))
    facts = {
        "-p": (opening.protocol,),
        "--ctstate": ("NEW",),
        "--state": ("NEW",),
        "--dst-type": ("MULTICAST",) if is_udp else ("LOCAL",),
        "--comment": (value,),
    }
    known = facts.get(option)
    return Match.of(bool({*known} & {value, *value.split(",")})) if known else Match.MAYBE


def _holds(ports: str, port: int) -> bool:
    first, _, last = ports.partition(":")
    return int(first) <= port <= int(last or first)


def _commands(program: str, table: str, chain: str, opening: Opening) -> list[str]:
    begin = [program, *([] if table == "filter" else ["-t", table]), "-I", chain]
    begin += ["-i", opening.interface] if opening.interface else []

    def line(*words: str) -> str:
        return shlex.join([*begin, *words, "-j", "ACCEPT"])

    lines = [line("-p", opening.protocol, "--dport", str(opening.port))]
    return lines + ([line("-p", "igmp")] if opening.igmp else [])


def _ufw_commands(opening: Opening) -> list[str]:
    device: Sequence[str] = ["in", "on", opening.interface] if opening.interface else []
    return [shlex.join(["ufw", "allow", *device, *f"to any port {opening.port} proto {opening.protocol}".split()])]
