"""Rules of iptables, as ``iptables-save`` (1.8.9) writes them: do they stop a request, and what lets it in?  Pure.

Facts: iptables(8), iptables-extensions(8).
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from vmfence.packetfilter.origins import Origin
from vmfence.packetfilter.rules import (
    HOLDS,
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
from vmfence.packetfilter.walk import Chains as Chained
from vmfence.packetfilter.walk import Stoppage, find_stoppage

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
_NEUTRAL = ("udp", "tcp", "conntrack", "state", "multiport", "addrtype", "comment", "pkttype", "mac", "physdev")
# The options that we know; each has one value.
_OPTIONS = ("-i", "-d", "-m", "-p", "--dport", "--dports", "--ctstate", "--state", "--dst-type", "--comment") + (
    "-s",
    "--mac-source",
    "--physdev-in",
    "--ctstatus",
    "--sport",
    "--sports",
    "--ctdir",
)
_RAW, _NAT = "raw", "nat"  # before connections are known; only for the first packet of one
# Modules that go by something else than who sends; what their options say nobody can tell.
_BLIND = ("limit", "statistic", "time", "length", "quota")
_OF_BLIND = ("--limit", "--limit-burst", "--mode", "--probability", "--every", "--packet", "--length", "--quota")
_NUMBERS = {"igmp": "2", "tcp": "6", "udp": "17"}
_QUOTED = re.compile(r"[\"'\\]")
Chains = dict[str, list[list[str]]]


@functools.lru_cache(maxsize=8)
def tables_of(saved: str) -> dict[str, Chains]:
    """Return the tables in *saved*: their chains, each a list of rules as words, of which the first is the policy.

    Taken apart once, for it may have thousands of rules: not to be changed.  Raises ValueError.
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
            words = shlex.split(line) if _QUOTED.search(line) else line.split()  # which is much quicker
            table.setdefault(words[1], [["-P", words[1], "-"]]).append(words)
    return found


def iptables_stops(
    saved: str, opening: Opening, program: str = "", admitting: Collection[str] = ()
) -> Iterator[tuple[str, Stoppage, Opening]]:
    """Yield a command for each chain of *saved* (iptables-save) that may stop *opening*, with what stops, and which
    kind of its packets.

    *program*: what the rules are of, if not iptables or ip6tables; *admitting*: chains that will admit it at their end.
    Raises ValueError or LookupError for what is not the output of iptables-save.
    """
    tables = tables_of(saved)
    for packet in opening.packets():
        for name, chains in tables.items():
            for base in _BASES:
                if base not in chains or (packet.answered and name == _NAT):
                    continue
                stoppage = _stoppage(chains, base, replace(packet, is_tracked=name != _RAW), admitting)
                if stoppage is not None:
                    yield command(tables, name, base, packet, program, stoppage.is_guarded), stoppage, packet


def _stoppage(chains: Chains, base: str, packet: Opening, admitting: Collection[str]) -> Stoppage | None:
    def read(origin: Origin) -> Chained:
        one = replace(packet, origin=origin)

        def rules(name: str) -> Iterable[Rule] | None:
            return None if name not in chains else [*reading(chains, name, one), *admitted(name, admitting)]

        return rules

    return find_stoppage(read, base, chains[base][0][2] != "DROP", packet.origins.known)


def reading(chains: Chains, name: str, packet: Opening) -> list[Rule]:
    """Return what the rules of the chain *name* are for *packet*, each at its place.  Raises ValueError."""
    return [_rule(rule, packet, chains) for rule in chains[name][1:]]


def _rule(words: list[str], opening: Opening, chains: Chains) -> Rule:
    """Return the rule -A CHAIN [! -x VALUE]... [-j TARGET ...]."""
    found: list[Condition] = []
    position, is_inverted = 2, False
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        if word in ("-j", "-g"):
            jump = Verdict.GOTO if word == "-g" else Verdict.JUMP
            rule = _verdict(Condition.all(found), value, jump, chains, opening)
            return replace(rule, tell=functools.partial(shlex.join, words))
        if word == "!":
            is_inverted = True
            position += 1
            continue
        if word == "--tcp-flags":
            condition = has_flags(opening, *map(_flags, words[position + 1 : position + 3]))
        else:
            condition = _condition(word, value, opening)
        found.append(condition.inverted() if is_inverted else condition)
        position, is_inverted = position + (2 if word in _OPTIONS else 1), False
        while position < len(words) and not words[position].startswith(("-", "!")):
            position += 1  # values of an option that we do not know
    return Rule(Condition(Match.NO), Verdict.RETURN)  # it only counts


def _verdict(condition: Condition, target: str, jump: Verdict, chains: Chains, opening: Opening) -> Rule:
    if target in _VERDICTS:
        return Rule(condition, _VERDICTS[target])
    if target in chains:
        return Rule(condition, jump, target)
    # CT may keep connections from being known: who goes by that does not take an answer for one.
    is_harmless = target in _HARMLESS and not (opening.answered and target == "CT")
    return Rule(Condition(Match.NO) if is_harmless else Condition.all([condition, UNKNOWN_ORIGIN]), Verdict.DROP)


def _condition(option: str, value: str, opening: Opening) -> Condition:
    if option == "-i":
        return comes_from(opening, value, "+")
    if option == "-d":
        return Condition(goes_to(opening, value))
    if option == "-s":
        return sent_by(opening, value)
    if option == "--mac-source":
        return sent_by_hardware(opening, value)
    if option == "--physdev-in":
        return comes_through(opening, value, "+")
    if option == "-m":
        return HOLDS if value in _NEUTRAL else UNKNOWN if value in _BLIND else UNKNOWN_ORIGIN
    if option in ("--dport", "--dports"):
        return Condition.any(goes_to_port(opening, *_ports(each)) for each in value.split(","))
    if option in ("--sport", "--sports"):
        return Condition.any(comes_from_port(opening, *_ports(each)) for each in value.split(","))
    if opening.answered and option == "--ctdir" and opening.state:
        return Condition(Match.of(value == "REPLY"))
    if opening.answered and (option == "--ctstatus" or (option in ("--ctstate", "--state") and not opening.state)):
        return UNKNOWN
    facts = {
        "-p": (opening.protocol, _NUMBERS.get(opening.protocol, "")),
        "--ctstate": (opening.state.upper(),),
        "--state": (opening.state.upper(),),
        "--ctstatus": ("",),  # a first packet has none
        "--dst-type": ("MULTICAST",) if opening.is_multicast else ("LOCAL",),
        "--comment": (value,),
    }
    known = facts.get(option)
    if known is None:
        return UNKNOWN if option in _OF_BLIND else UNKNOWN_ORIGIN
    return Condition(Match.of(bool({*known} & {value, *value.split(",")})))


def _flags(names: str) -> list[str]:
    return [] if names == "NONE" else [name.lower() for name in names.split(",")]


def _ports(ports: str) -> tuple[int, int]:
    first, _, last = ports.partition(":")
    return int(first), int(last or first)


def command(
    tables: dict[str, Chains], table: str, chain: str, packet: Opening, program: str = "", is_guarded: bool = False
) -> str:
    """Return the command that lets *packet* through a *chain* of *table*, or where that *is_guarded* shows the rules.

    *program*: as in iptables_stops().
    """
    if is_guarded:
        return shlex.join([program or ("ip6tables" if packet.family == "ipv6" else "iptables"), "-t", table, "-S"])
    if table == "filter" and not packet.answered and any(name.startswith(("ufw-", "ufw6-")) for name in tables[table]):
        return _ufw_command(packet)
    words = [program or ("ip6tables" if packet.family == "ipv6" else "iptables")]
    words += [*([] if table == "filter" else ["-t", table]), "-I", chain]
    words += ["-i", packet.interface] if packet.interface else []
    if packet.answered:
        known = [] if table == _RAW else ["-m", "conntrack", "--ctstate", "ESTABLISHED"]
        return shlex.join([*words, "-p", packet.protocol, "--sport", str(packet.port), *known, "-j", "ACCEPT"])
    ports = [] if packet.protocol == "igmp" else ["--dport", str(packet.port)]
    return shlex.join([*words, "-p", packet.protocol, *ports, "-j", "ACCEPT"])


def _ufw_command(packet: Opening) -> str:
    device: Sequence[str] = ["in", "on", packet.interface] if packet.interface else []
    what = "to 224.0.0.0/4 proto igmp"
    if packet.protocol != "igmp":
        what = f"to any port {packet.port} proto {packet.protocol}"
    return shlex.join(["ufw", "allow", *device, *what.split()])
