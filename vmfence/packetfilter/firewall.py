"""This machine's firewall: what stands between a guest's request and the daemon, or its call-back and the guest.

firewalld is told what to let in.  Rules of other programs (nftables, iptables, ufw) are read to see whether they can
stop a request, and never changed: somebody else owns them, so the missing rule is given as text.  firewalld's own are
read as well: what one zone lets in, another zone, a rich rule or a policy may stop, now or after the next reload.
look() asks the system, open_up() alone changes it.  What cannot be read is told as a doubt, never taken for "no rules".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable

from vmfence import proc, together
from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.packetfilter.firewalld import SERVICE, Argv, Needs, firewalld_missing
from vmfence.packetfilter.kept import Later, services_named, stops_later, stops_now
from vmfence.packetfilter.listing import Answers, Listings, sections
from vmfence.packetfilter.origins import Origins, read_origins
from vmfence.packetfilter.outgoing import mirrored, turned
from vmfence.packetfilter.rules import Opening
from vmfence.packetfilter.rulesets import Obstacle, Rulesets
from vmfence.packetfilter.tables import read_tables

_SYS_CLASS_NET = "/sys/class/net"
_LOOPBACK = "lo"
_UNPRIVILEGED = (1024, 65535)
_ASK_S = 20.0  # less in a check, which limits all programs: see proc.limited()
# How firewall-cmd says no: to a query, to a zone of an interface that has none, to a service that it does not know.
_NO = (1, 2, 101)
_USAGE = 2  # before 0.9 firewalld has no policies
_SERVICES_MAX = 8  # that are looked up; what rich rules say of more counts as perhaps
# Reads the rules of one family of addresses, as read_rules() does; or hands out again what was read.
Reader = Callable[[str], Rulesets]


@dataclass
class _Findings:
    """What one look finds; *now*, *kept*: of firewalld, if it runs, and *needs*: what it has still to be told."""

    obstacles: list[Obstacle] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    later: tuple[Later, ...] = ()
    now: Listings = Listings()
    kept: Listings = Listings()
    needs: Needs | None = None
    is_of_origin: bool = False

    def doubt(self, error: VmfenceError) -> None:
        self.doubts.append(str(error))
        self.hung += [str(error)] if isinstance(error, DeadlineExceeded) else []


@dataclass(frozen=True)
class Firewall:
    """What was found.  *zones*: of firewalld, one for each opening; none when firewalld does not run.

    *commands*: what firewalld has still to be told; *rules*: commands for an administrator, where rules of others may
    stop us; *doubts*: why it cannot be said whether they do.  *later*: what firewalld keeps and does not do yet.
    *hung*: those of the doubts that come from a program that did not end.  *obstacles*: what the rules do, firewalld's
    own as well; *told*: those of the doubts that tell no more than these.  *is_of_origin*: the other doubts are about
    rules that tell senders apart, of which this host's own request shows nothing.
    """

    zones: tuple[str, ...] = ()
    commands: tuple[Argv, ...] = ()
    rules: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    later: tuple[Later, ...] = ()
    hung: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    told: tuple[str, ...] = ()
    is_of_origin: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """The doubts, and what will, or may, stop us later."""
        later = (f"after firewalld's next reload: {one.what}; to prevent it: {one.command}" for one in self.later)
        return (*self.doubts, *later)


def look(wanted: Sequence[Opening], service_file: str = "", read: Reader | None = None) -> Firewall:
    """Return what this machine's firewall needs for *wanted*.

    *service_file*: the service that firewalld is to know for it, "" for ports.  *read*: see read_rules().
    """
    if not wanted:
        return Firewall()
    found = _Findings()
    try:
        if _has_firewalld():
            _ask_firewalld(found, wanted, service_file)
    except VmfenceError as error:
        found.doubt(error)
    except ValueError as error:
        found.doubt(VmfenceError("cannot understand what firewall-cmd lists", str(error)))
    for family in dict.fromkeys(opening.family for opening in wanted):
        try:
            rulesets = (read or read_rules)(family)
            found.doubts += _unread(rulesets)
            for number, opening in enumerate(wanted):
                if opening.family == family:
                    _judge(found, rulesets, opening, number)
        except VmfenceError as error:
            found.doubt(error)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            program = "ip6tables" if family == "ipv6" else "iptables"
            found.doubt(VmfenceError(f"cannot understand the rules of nft and {program}", repr(error)))
    needs = found.needs or Needs()
    return Firewall(
        needs.zones,
        needs.commands,
        tuple(dict.fromkeys(found.rules)),
        tuple(dict.fromkeys((*found.doubts, *needs.doubts))),
        found.later,
        tuple(found.hung),
        tuple(dict.fromkeys(found.obstacles)),
        tuple(found.told),
        found.is_of_origin,
    )


def look_out(
    wanted: Sequence[Opening], read: Reader | None = None, local_ports: tuple[int, int] = _UNPRIVILEGED
) -> Firewall:
    """Return what lets out what *wanted* says, connections to that port by that interface, and lets in their answers.

    *read*: see read_rules(); *local_ports*: those that this host connects from.  Raises VmfenceError when the rules
    cannot be read; those of a program that is not installed are a doubt.
    """
    found: list[Obstacle] = []
    doubts: list[str] = []
    for family in dict.fromkeys(opening.family for opening in wanted):
        try:
            rulesets = (read or read_rules)(family)
            doubts += _unread(rulesets)
            for opening in wanted:
                if opening.family == family:
                    one = replace(opening, origins=read_origins(opening.interface, family))
                    found += _outgoing(rulesets, one)
                    answers = replace(one, answered=local_ports)
                    for each in rulesets.obstacles(answers, _ports(one.interface)):
                        if rulesets.is_firewalld(each):
                            doubts.append(f"firewalld may stop {answers}: {'; '.join(each.stoppage.by)}")
                        else:
                            found.append(each)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise VmfenceError("cannot understand the rules for what leaves this machine", repr(error)) from error
    commands = dict.fromkeys(each.command for each in found)
    return Firewall(rules=tuple(commands), doubts=tuple(dict.fromkeys(doubts)), obstacles=tuple(dict.fromkeys(found)))


def _outgoing(rulesets: Rulesets, opening: Opening) -> Iterator[Obstacle]:
    """Yield what stops *opening* on its way out; where anything does, also what stops this host's calls to itself.

    Those are of its own requests, as checks make them: they leave by lo, where the same rules often stop them.
    """
    outward = mirrored(rulesets)
    found = list(map(_turned, outward.obstacles(opening)))
    yield from found
    if found and opening.interface:
        own = replace(opening, interface=_LOOPBACK, origins=Origins(), address="")
        yield from (_turned(each) for each in outward.obstacles(own) if each.stoppage.is_certain)


def _turned(obstacle: Obstacle) -> Obstacle:
    by = tuple(map(turned, obstacle.stoppage.by))
    return replace(obstacle, command=turned(obstacle.command), stoppage=replace(obstacle.stoppage, by=by))


def _ask_firewalld(found: _Findings, wanted: Sequence[Opening], service_file: str) -> None:
    """Add what firewalld says.  Raises VmfenceError; ValueError for what is no listing."""
    found.now, found.kept = _listings()
    found.needs = firewalld_missing(Answers(found.now, found.kept, _asked_once()), wanted, service_file)
    pairs = zip(wanted, found.needs.kept)
    later = [each for one, zone in pairs for each in stops_later(found.now, found.kept, zone, one, SERVICE)]
    found.later = tuple(dict.fromkeys(later))


def _listings() -> tuple[Listings, Listings]:
    """Return what runs now, and what is kept.  Raises VmfenceError; ValueError for what is no listing."""
    program = _installed("firewall-cmd") or "firewall-cmd"
    asked = [(*kept, what) for kept in ((), ("--permanent",)) for what in ("--list-all-zones", "--list-all-policies")]
    answers = _at_once([[program, *words] for words in asked])  # each starts an interpreter
    for words, done in zip(asked, answers):
        if done.status and not (done.status == _USAGE and words[-1] == "--list-all-policies"):
            raise VmfenceError(f"firewall-cmd {' '.join(words)} failed", _complaint(done))
    zones, policies, kept_zones, kept_policies = (sections("" if done.status else done.stdout) for done in answers)
    found = Listings(zones, policies), Listings(kept_zones, kept_policies)
    now, kept = (_with_services(program, each, where) for each, where in zip(found, ([], ["--permanent"])))
    return now, kept


def _with_services(program: str, listings: Listings, where: Sequence[str]) -> Listings:
    """Return *listings* with the services that matter.  Raises VmfenceError; ValueError for what is no listing."""
    names = sorted(services_named(listings))[:_SERVICES_MAX]
    answers = _at_once([[program, *where, f"--info-service={name}"] for name in names])
    found = {name: one for done in answers if not done.status for name, one in sections(done.stdout).items()}
    return replace(listings, services=found)


def _judge(found: _Findings, rulesets: Rulesets, opening: Opening, number: int) -> None:
    """Add what may stop *opening*, the one of that *number*."""
    needs = found.needs
    one = replace(opening, origins=read_origins(opening.interface, opening.family))
    for each in rulesets.obstacles(one, _ports(one.interface), needs.chains(opening) if needs else ()):
        if needs is None or not rulesets.is_firewalld(each):
            found.rules.append(each.command)
            found.obstacles.append(each)
        else:
            _judge_firewalld(found, opening, needs.zones[number], each)


def _judge_firewalld(found: _Findings, opening: Opening, zone: str, obstacle: Obstacle) -> None:
    """Add what firewalld's own rules stop, as its listings explain it, or else a doubt."""
    causes = tuple(stops_now(found.now, found.kept, zone, opening, SERVICE))
    doubt = f"firewalld may stop {opening} in spite of its zone"
    for cause in causes:
        found.obstacles.append(replace(obstacle, command=cause.command, stoppage=obstacle.stoppage.told_as(cause.what)))
        found.told.append(f"{doubt}: {cause.what}; to prevent it: {cause.command}")
        found.doubts.append(found.told[-1])
    if not causes:
        found.is_of_origin |= obstacle.stoppage.is_of_origin
        found.doubts.append(
            f"{doubt}: by a zone bound to a source, a rich rule, a policy or panic mode; look at firewall-cmd "
            "--list-all-zones and firewall-cmd --list-all-policies"
        )


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


def _asked_once() -> Callable[[Sequence[str]], tuple[bool, str]]:
    """Return _firewall_cmd(), which asks nothing twice: not the default zone for each interface again."""
    known: dict[tuple[str, ...], tuple[bool, str]] = {}

    def ask(words: Sequence[str]) -> tuple[bool, str]:
        asked = tuple(words)
        if asked not in known:
            known[asked] = _firewall_cmd(asked)
        return known[asked]

    return ask


def _firewall_cmd(words: Sequence[str]) -> tuple[bool, str]:
    """Return whether firewalld says yes, and its first line.  Raises VmfenceError when it says neither yes nor no."""
    done = proc.run([_installed("firewall-cmd") or "firewall-cmd", *words], _ASK_S)
    if done.status not in (0, *_NO):
        raise VmfenceError(f"firewall-cmd {' '.join(words)} failed", _complaint(done))
    return done.status == 0, done.stdout.partition("\n")[0].strip()


def read_rules(family: str) -> Rulesets:
    """Return the rules that there are.  Raises VmfenceError when a program cannot read them."""
    program = "ip6tables" if family == "ipv6" else "iptables"
    programs = {"saved": [f"{program}-save"], "nft": ["nft", "-j", "list", "ruleset"]}
    (saved, warning), (ruleset, _) = _all_of({name: partial(_output, argv) for name, argv in programs.items()})
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


def _at_once(argvs: Iterable[list[str]]) -> list[proc.Result]:
    """Run them at the same time.  Raises VmfenceError when any of them cannot be run, or does not end."""
    return _all_of({str(number): partial(proc.run, argv, _ASK_S) for number, argv in enumerate(argvs)})


def _all_of(calls: Mapping[str, Callable[[], Any]]) -> list[Any]:
    """Return what all *calls* return, made at the same time.  Raises VmfenceError, which tells of all that fail."""
    answers = list(together.call(calls, _ASK_S + 1).values())
    failed = [one for one in answers if isinstance(one, VmfenceError)]
    if len(failed) > 1:
        kind = DeadlineExceeded if any(isinstance(one, DeadlineExceeded) for one in failed) else VmfenceError
        whats = "; ".join(dict.fromkeys(": ".join(filter(None, (one.what, one.why))) for one in failed))
        raise kind(whats, "", failed[0].remedy)
    if failed:
        raise failed[0]
    return answers


def _complaint(done: proc.Result) -> str:
    return (done.stderr or done.stdout).strip().partition("\n")[0]


def open_up(commands: Iterable[Argv]) -> None:
    """Run the firewall-cmd *commands*.  Raises VmfenceError at the first that fails."""
    for argv in commands:
        done = proc.run(list(argv), _ASK_S)
        if done.status:
            raise VmfenceError(f"{' '.join(argv)} failed", _complaint(done), "mend that, then run this again")
