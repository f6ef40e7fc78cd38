"""The host's firewall: what stands between the guests' requests and the daemon.

firewalld is told what to let in.  Rules of other programs (nftables, iptables, ufw) are read to see whether they can
stop a request, and never changed: somebody else owns them, so the missing rule is given as text.  look() asks the
system, open_up() alone changes it.  What cannot be read is told as a doubt, never taken for "no rules".  Exit codes and
words are those of firewalld 1.3.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from vmfence import proc
from vmfence.config.settings import PORT, MulticastSettings, Settings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.host.iptables_rules import iptables_missing, tables_of
from vmfence.host.nft_rules import nft_missing
from vmfence.host.packet_rules import Opening

SERVICE = "vmfence"
SERVICE_FILE = os.path.join(os.path.dirname(__file__), "data", "vmfence.xml")
_ASK_S = 20.0
# How firewall-cmd says no: to a query, to a zone of an interface that has none, to a service that it does not know.
_NO = (1, 2, 101)
_FIREWALLD_CHAIN = "INPUT_ZONES"
Argv = tuple[str, ...]
# Runs firewall-cmd with these words; returns whether it said yes, and its first line of output.
Query = Callable[[Sequence[str]], tuple[bool, str]]


@dataclass(frozen=True)
class Firewall:
    """What was found.  *zones*: of firewalld, one for each opening; none when firewalld does not run.

    *commands*: what firewalld has still to be told; *rules*: commands for an administrator, where rules of others may
    stop us; *doubts*: why it cannot be said whether they do.
    """

    zones: tuple[str, ...] = ()
    commands: tuple[Argv, ...] = ()
    rules: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def openings(
    settings: Settings, interface_of: Callable[[str], str | None], bridges: Iterable[str] = ()
) -> tuple[Opening, ...]:
    """Return what the listeners of *settings* need.

    *interface_of* finds the interface that has an address.  A listener without an interface of its own needs an opening
    for each of *bridges*, those that guests are attached to.
    """
    found: list[Opening] = []
    everywhere = tuple(bridges) or (None,)
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            where = everywhere if one.interface is None else (one.interface,)
            is_ipv4 = one.family == "ipv4"
            found += [Opening("udp", one.port, each, one.family, is_ipv4, one.address) for each in where]
        elif isinstance(one, TcpSettings) and not one.address.startswith("127.") and one.address != "::1":
            interface = interface_of(one.address)
            where = everywhere if interface is None else (interface,)
            found += [Opening("tcp", one.port, each, one.family, address=_literal(one.address)) for each in where]
    return tuple(found)


def _literal(address: str) -> str:
    """Return *address* if requests go to just that one, else nothing: it is a name, or any address."""
    try:
        return "" if ipaddress.ip_address(address).is_unspecified else address
    except ValueError:
        return ""


def firewalld_missing(query: Query, wanted: Iterable[Opening]) -> tuple[tuple[str, ...], tuple[Argv, ...]]:
    """Return the zone of each opening and the firewall-cmd command lines that are still needed, in their order.

    The permanent half is our service, or ports where it does not fit.  Now it is ports: firewalld takes a new service
    only by a reload, which would forget what others told it for the time being.
    """
    zones, commands = [], []
    for opening in wanted:
        zone = _zone(query, opening.interface)
        zones.append(zone)
        commands += [argv for argv in _zone_missing(query, zone, opening) if argv not in commands]
    return tuple(zones), tuple(commands)


def _zone(query: Query, interface: str | None) -> str:
    has_zone, zone = query([f"--get-zone-of-interface={interface}"]) if interface else (False, "")
    return zone if has_zone else query(["--get-default-zone"])[1]


def _zone_missing(query: Query, zone: str, opening: Opening) -> Iterator[Argv]:
    at = f"--zone={zone}"
    items = [f"port={opening.port}/{opening.protocol}", *(["protocol=igmp"] if opening.igmp else [])]

    def lacks(*where: str) -> bool:
        served = opening.port == PORT and query([*where, at, f"--query-service={SERVICE}"])[0]
        return not served and not all(query([*where, at, f"--query-{item}"])[0] for item in items)

    if lacks("--permanent") and opening.port == PORT:
        if not query(["--permanent", f"--path-service={SERVICE}"])[0]:
            yield ("firewall-cmd", "--permanent", f"--new-service-from-file={SERVICE_FILE}", f"--name={SERVICE}")
        yield ("firewall-cmd", "--permanent", at, f"--add-service={SERVICE}")
    elif lacks("--permanent"):
        yield from (("firewall-cmd", "--permanent", at, f"--add-{item}") for item in items)
    if lacks():
        yield from (("firewall-cmd", at, f"--add-{item}") for item in items)


def look(wanted: Sequence[Opening]) -> Firewall:
    """Return what this machine's firewall needs for *wanted*."""
    if not wanted:
        return Firewall()
    doubts: list[str] = []
    has_firewalld = False
    zones: tuple[str, ...] = ()
    commands: tuple[Argv, ...] = ()
    try:
        has_firewalld = _has_firewalld()
        if has_firewalld:
            zones, commands = firewalld_missing(_firewall_cmd, wanted)
    except VmfenceError as error:
        doubts.append(str(error))
    rules: list[str] = []
    for family in dict.fromkeys(opening.family for opening in wanted):
        try:
            rules += _rules_missing([one for one in wanted if one.family == family], family, has_firewalld)
        except VmfenceError as error:
            doubts.append(str(error))
    return Firewall(zones, commands, tuple(dict.fromkeys(rules)), tuple(dict.fromkeys(doubts)))


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


def _rules_missing(wanted: Sequence[Opening], family: str, has_firewalld: bool) -> list[str]:
    """Return the commands that rules of nft and iptables call for.  Raises VmfenceError when one cannot be read."""
    program = "ip6tables" if family == "ipv6" else "iptables"
    saved, warning = _output([f"{program}-save"])
    ruleset, _ = _output(["nft", "-j", "list", "ruleset"])
    legacy = _output([f"{program}-legacy-save"])[0] if f"{program}-legacy tables present" in warning else ""
    try:
        tables = tables_of(saved)
        others = {("ip6" if family == "ipv6" else "ip", name) for name in tables}
        others |= {(each, "firewalld") for each in ("inet", "ip", "ip6")} if has_firewalld else set()
        is_firewalld = has_firewalld and _FIREWALLD_CHAIN in tables.get("filter", ())  # its backend of old
        found: list[str] = []
        for opening in wanted:
            found += nft_missing(ruleset, opening, others) if ruleset else ()
            found += () if is_firewalld else iptables_missing(saved, opening)
            found += iptables_missing(legacy, opening, f"{program}-legacy")
        return found
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise VmfenceError(f"cannot understand the rules of nft and {program}", repr(error)) from error


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
