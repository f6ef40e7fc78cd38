"""Rules of iptables, as ``iptables-save`` (1.8.9) writes them: do they stop a request, and what lets it in?  Pure.

Facts: iptables(8), iptables-extensions(8).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence

from vmfence.packetfilter.rules import ADMITTED, Match, Opening, Rule, Verdict, comes_from, goes_to, may_stop

# The chains that a packet for this host goes through, where it can be stopped.
_BASES = ("PREROUTING", "INPUT")
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
_NUMBERS = {"igmp": "2", "tcp": "6", "udp": "17"}
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


def iptables_missing(
    saved: str, opening: Opening, program: str = "", admitting: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the commands that let *opening* in, none when nothing in *saved* (iptables-save) can stop it.

    *program*: what the rules are of, if not iptables or ip6tables; *admitting*: chains that will admit it at their end.
    Raises ValueError or LookupError for what is not the output of iptables-save.
    """
    tables = tables_of(saved)
    found = [
        command(tables, table, base, packet, program)
        for packet in opening.packets()
        for table, base in _stops(tables, packet, admitting)
    ]
    return tuple(dict.fromkeys(found))


def _stops(tables: dict[str, Chains], packet: Opening, admitting: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield table and chain where *packet* may be stopped."""
    for name, words in tables.items():
        chains = readings(words, packet)
        for chain in admitting:
            chains.get(chain, []).append(ADMITTED)
        for base in _BASES:
            is_admitting = words.get(base, [["-P", base, "ACCEPT"]])[0][2] != "DROP"
            if base in chains and may_stop(chains, base, is_admitting):
                yield name, base


def readings(chains: Chains, packet: Opening) -> dict[str, list[Rule]]:
    """Return what the rules of one table are for *packet*, each at its place.  Raises ValueError or LookupError."""
    return {chain: [_rule(rule, packet, chains) for rule in rules[1:]] for chain, rules in chains.items()}


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
    if option == "-i":
        return comes_from(opening, value, "+")
    if option == "-d":
        return goes_to(opening, value)
    if option == "-m":
        return Match.YES if value in _NEUTRAL else Match.MAYBE
    if option in ("--dport", "--dports"):
        return Match.of(any(_holds(each, opening.port) for each in value.split(",")))
    facts = {
        "-p": (opening.protocol, _NUMBERS.get(opening.protocol, "")),
        "--ctstate": ("NEW",),
        "--state": ("NEW",),
        "--dst-type": ("MULTICAST",) if opening.is_multicast else ("LOCAL",),
        "--comment": (value,),
    }
    known = facts.get(option)
    return Match.of(bool({*known} & {value, *value.split(",")})) if known else Match.MAYBE


def _holds(ports: str, port: int) -> bool:
    first, _, last = ports.partition(":")
    return int(first) <= port <= int(last or first)


def command(tables: dict[str, Chains], table: str, chain: str, packet: Opening, program: str = "") -> str:
    """Return the command that lets *packet* through a *chain* of *table*; *program* as in iptables_missing()."""
    if table == "filter" and any(name.startswith(("ufw-", "ufw6-")) for name in tables[table]):
        return _ufw_command(packet)
    words = [program or ("ip6tables" if packet.family == "ipv6" else "iptables")]
    words += [*([] if table == "filter" else ["-t", table]), "-I", chain]
    words += ["-i", packet.interface] if packet.interface else []
    ports = [] if packet.protocol == "igmp" else ["--dport", str(packet.port)]
    return shlex.join([*words, "-p", packet.protocol, *ports, "-j", "ACCEPT"])


def _ufw_command(packet: Opening) -> str:
    device: Sequence[str] = ["in", "on", packet.interface] if packet.interface else []
    what = "to 224.0.0.0/4 proto igmp"
    if packet.protocol != "igmp":
        what = f"to any port {packet.port} proto {packet.protocol}"
    return shlex.join(["ufw", "allow", *device, *what.split()])
