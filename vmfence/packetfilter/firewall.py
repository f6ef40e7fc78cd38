"""This machine's firewall: what stands between a guest's request and the daemon, or its call-back and the guest.

firewalld is told what to let in.  Rules of other programs (nftables, iptables, ufw) are read to see whether they can
stop a request, and never changed: somebody else owns them, so the missing rule is given as text.  firewalld's own are
read as well: what one zone lets in, another zone, a rich rule or a policy may stop, now or after the next reload.
look() asks the system, open_up() alone changes it.  What cannot be read is told as a doubt, never taken for "no rules".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vmfence import proc
from vmfence.errors import VmfenceError
from vmfence.packetfilter.firewalld import SERVICE, Argv, Needs, firewalld_missing
from vmfence.packetfilter.kept import Later, stops_later
from vmfence.packetfilter.listing import Answers, Listings, sections
from vmfence.packetfilter.outgoing import mirrored, turned
from vmfence.packetfilter.rules import Opening
from vmfence.packetfilter.rulesets import Rulesets
from vmfence.packetfilter.tables import read_tables

_SYS_CLASS_NET = "/sys/class/net"
_ASK_S = 20.0
# How firewall-cmd says no: to a query, to a zone of an interface that has none, to a service that it does not know.
_NO = (1, 2, 101)
_USAGE = 2  # before 0.9 firewalld has no policies


@dataclass(frozen=True)
class Firewall:
    """What was found.  *zones*: of firewalld, one for each opening; none when firewalld does not run.

    *commands*: what firewalld has still to be told; *rules*: commands for an administrator, where rules of others may
    stop us; *doubts*: why it cannot be said whether they do.  *later*: what firewalld keeps and does not do yet.
    """

    zones: tuple[str, ...] = ()
    commands: tuple[Argv, ...] = ()
    rules: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    later: tuple[Later, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The doubts, and what will, or may, stop us later."""
        later = (f"after firewalld's next reload: {one.what}; to prevent it: {one.command}" for one in self.later)
        return (*self.doubts, *later)


def look(wanted: Sequence[Opening], service_file: str = "") -> Firewall:
    """Return what this machine's firewall needs for *wanted*.

    *service_file*: the service that firewalld is to know for it, "" for ports.
    """
    if not wanted:
        return Firewall()
    doubts: list[str] = []
    rules: list[str] = []
    told: Needs | None = None
    later: tuple[Later, ...] = ()
    try:
        if _has_firewalld():
            now, kept = _listings()
            told = firewalld_missing(Answers(now, kept, _firewall_cmd), wanted, service_file)
            found = [stops_later(now, kept, zone, one, SERVICE) for one, zone in zip(wanted, told.kept)]
            later = tuple(dict.fromkeys(each for some in found for each in some))
    except VmfenceError as error:
        doubts.append(str(error))
    except ValueError as error:
        doubts.append(str(VmfenceError("cannot understand what firewall-cmd lists", str(error))))
    for family in dict.fromkeys(opening.family for opening in wanted):
        try:
            rulesets = _read_rules(family)
            doubts += _unread(rulesets)
            for opening in wanted:
                if opening.family == family:
                    missing, doubtful = _judge(rulesets, opening, told)
                    rules += missing
                    doubts += doubtful
        except VmfenceError as error:
            doubts.append(str(error))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            program = "ip6tables" if family == "ipv6" else "iptables"
            doubts.append(str(VmfenceError(f"cannot understand the rules of nft and {program}", repr(error))))
    told = told or Needs()
    all_doubts = dict.fromkeys((*doubts, *told.doubts))
    return Firewall(told.zones, told.commands, tuple(dict.fromkeys(rules)), tuple(all_doubts), later)


def look_out(wanted: Sequence[Opening]) -> tuple[str, ...]:
    """Return the commands that let out what *wanted* says: connections to that port, by that interface.

    None when no rule can stop them.  Raises VmfenceError when the rules cannot be read.
    """
    found: list[str] = []
    for family in dict.fromkeys(opening.family for opening in wanted):
        try:
            rulesets = mirrored(_read_rules(family))
            for opening in wanted:
                if opening.family == family:
                    found += [turned(obstacle.command) for obstacle in rulesets.obstacles(opening)]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise VmfenceError("cannot understand the rules for what leaves this machine", repr(error)) from error
    return tuple(dict.fromkeys(found))


def _listings() -> tuple[Listings, Listings]:
    """Return what runs now, and what is kept.  Raises VmfenceError; ValueError for what is no listing."""
    program = _installed("firewall-cmd") or "firewall-cmd"
    asked = [(*kept, what) for kept in ((), ("--permanent",)) for what in ("--list-all-zones", "--list-all-policies")]
    with ThreadPoolExecutor(len(asked)) as pool:  # each starts an interpreter
        answers = list(pool.map(lambda words: proc.run([program, *words], _ASK_S), asked))
    for words, done in zip(asked, answers):
        if done.status and not (done.status == _USAGE and words[-1] == "--list-all-policies"):
            raise VmfenceError(f"firewall-cmd {' '.join(words)} failed", _complaint(done))
    zones, policies, kept_zones, kept_policies = (sections("" if done.status else done.stdout) for done in answers)
    return Listings(zones, policies), Listings(kept_zones, kept_policies)


def _judge(rulesets: Rulesets, opening: Opening, told: Needs | None) -> tuple[list[str], list[str]]:
    """Return the commands that *opening* lacks, and a doubt if firewalld may stop it besides."""
    admitting = told.chains(opening) if told else ()
    found = list(rulesets.obstacles(opening, _ports(opening.interface), admitting))
    others = [each for each in found if told is None or not rulesets.is_firewalld(each)]
    doubt = (
        f"firewalld may stop {opening} in spite of its zone: by a zone bound to a source, a rich rule, a policy or "
        "panic mode; look at firewall-cmd --list-all-zones and firewall-cmd --list-all-policies"
    )
    return [each.command for each in others], [doubt] if len(others) < len(found) else []


def _unread(rulesets: Rulesets) -> list[str]:
    """Return a doubt about tables of nftables that no installed program shows.  Raises VmfenceError."""
    if rulesets.nft:
        return []
    families = ("inet", "netdev", "bridge", "ip6" if rulesets.family == "ipv6" else "ip")
    unread = {table for table in read_tables() if table[0] in families} - rulesets.shared
    names = ", ".join(" ".join(table) for table in sorted(unread))
    return [f"nft is not installed, so these tables of rules cannot be read: {names}"] if unread else []


def _ports(interface: str | None) -> Collection[str]:
    """Return the interfaces that *interface* is made of: ports of a bridge, links of a bond, what a VLAN is on."""
    found: list[str] = []
    waiting = [interface] if interface else []
    while waiting:
        try:
            entries = os.listdir(os.path.join(_SYS_CLASS_NET, waiting.pop()))
        except OSError:  # not there (yet): then nothing arrives there either
            continue
        lower = [entry[len("lower_") :] for entry in entries if entry.startswith("lower_")]
        waiting += [each for each in lower if each not in found]
        found += lower
    return found


def _has_firewalld() -> bool:
    """Whether firewalld runs.  Where it does not answer its rules are read as all others are."""
    program = _installed("firewall-cmd")
    return program is not None and proc.run([program, "--state"], _ASK_S).status == 0


def _firewall_cmd(words: Sequence[str]) -> tuple[bool, str]:
    """Return whether firewalld says yes, and its first line.  Raises VmfenceError when it says neither yes nor no."""
    done = proc.run([_installed("firewall-cmd") or "firewall-cmd", *words], _ASK_S)
    if done.status not in (0, *_NO):
        raise VmfenceError(f"firewall-cmd {' '.join(words)} failed", _complaint(done))
    return done.status == 0, done.stdout.partition("\n")[0].strip()


def _read_rules(family: str) -> Rulesets:
    """Return the rules that there are.  Raises VmfenceError when a program cannot read them."""
    program = "ip6tables" if family == "ipv6" else "iptables"
    saved, warning = _output([f"{program}-save"])
    ruleset, _ = _output(["nft", "-j", "list", "ruleset"])
    legacy = _output([f"{program}-legacy-save"])[0] if f"{program}-legacy tables present" in warning else ""
    return Rulesets(family, ruleset, saved, legacy)


def _installed(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _output(argv: Sequence[str]) -> tuple[str, str]:
    """Return what a program wrote, and its warnings; nothing for one that is not installed.  Raises VmfenceError."""
    program = _installed(argv[0])
    if program is None:
        return "", ""
    done = proc.run([program, *argv[1:]], _ASK_S)
    if done.status:
        raise VmfenceError(f"{' '.join(argv)} failed", _complaint(done))
    return done.stdout, done.stderr


def _complaint(done: proc.Result) -> str:
    return (done.stderr or done.stdout).strip().partition("\n")[0]


def open_up(commands: Iterable[Argv]) -> None:
    """Run the firewall-cmd *commands*.  Raises VmfenceError at the first that fails."""
    for argv in commands:
        done = proc.run(list(argv), _ASK_S)
        if done.status:
            raise VmfenceError(f"{' '.join(argv)} failed", _complaint(done), "mend that, then run this again")
