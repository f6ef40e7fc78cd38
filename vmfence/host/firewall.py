"""The host's firewall: what stands between the guests' requests and the daemon.

firewalld is told what to let in.  Rules of other programs (nftables, iptables, ufw) are read to see whether they can
stop a request, and never changed: somebody else owns them, so the missing rule is given as text.  look() asks the
system, open_up() alone changes it.  Exit codes and words are those of firewalld 1.3.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from vmfence import proc
from vmfence.config.settings import PORT, MulticastSettings, Settings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.host.packet_rules import Opening, iptables_missing, nft_missing

SERVICE = "vmfence"
SERVICE_FILE = os.path.join(os.path.dirname(__file__), "data", "vmfence.xml")
_ASK_S = 20.0
Argv = tuple[str, ...]
# Runs firewall-cmd with these words; returns whether it said yes, and its first line of output.
Query = Callable[[Sequence[str]], tuple[bool, str]]


@dataclass(frozen=True)
class Firewall:
    """What was found.  *kind*: firewalld, rules, or none; *zones*: of firewalld, one for each opening.

    *commands*: what firewalld has still to be told; *rules*: commands for an administrator, where rules may stop us.
    """

    kind: str
    zones: tuple[str, ...] = ()
    commands: tuple[Argv, ...] = ()
    rules: tuple[str, ...] = ()


def openings(settings: Settings, interface_of: Callable[[str], str | None]) -> tuple[Opening, ...]:
    """Return what the listeners of *settings* need; *interface_of* finds the interface that has an address."""
    found = []
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            found.append(Opening("udp", one.port, one.interface, one.family, igmp=one.family == "ipv4"))
        elif isinstance(one, TcpSettings) and not one.address.startswith("127.") and one.address != "::1":
            found.append(Opening("tcp", one.port, interface_of(one.address), one.family))
    return tuple(found)


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
    """Return what this machine's firewall needs for *wanted*.  Raises VmfenceError when it gives no answer."""
    if not wanted:
        return Firewall("none")
    if _says_yes(["firewall-cmd", "--state"])[0]:
        return Firewall("firewalld", *firewalld_missing(lambda words: _says_yes(["firewall-cmd", *words]), wanted))
    rules = [rule for opening in wanted for rule in _rules_missing(opening)]
    return Firewall("rules", rules=tuple(dict.fromkeys(rules))) if rules else Firewall("none")


def _rules_missing(opening: Opening) -> tuple[str, ...]:
    _, ruleset = _output(["nft", "-j", "list", "ruleset"])
    saved = _output(["ip6tables-save" if opening.family == "ipv6" else "iptables-save"])[1]
    try:
        return (nft_missing(ruleset, opening) if ruleset else ()) + iptables_missing(saved, opening)
    except (ValueError, LookupError, TypeError) as error:
        remedy = "open it yourself and give --no-firewall"
        raise VmfenceError("cannot read the rules of nft and iptables", repr(error), remedy) from error


def _says_yes(argv: Sequence[str]) -> tuple[bool, str]:
    """Return whether the program ended with 0, and its first line."""
    is_good, output = _output(argv)
    return is_good, output.partition("\n")[0].strip()


def _output(argv: Sequence[str]) -> tuple[bool, str]:
    """Return whether the program succeeded, and what it wrote; one that is not installed writes nothing."""
    program = shutil.which(argv[0], path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        return False, ""
    done = proc.run([program, *argv[1:]], _ASK_S)
    return done.status == 0, done.stdout if done.status == 0 else ""


def open_up(commands: Iterable[Argv]) -> None:
    """Run the firewall-cmd *commands*.  Raises VmfenceError at the first that fails."""
    for argv in commands:
        done = proc.run(list(argv), _ASK_S)
        if done.status:
            why = (done.stderr or done.stdout).strip().partition("\n")[0]
            raise VmfenceError(f"{' '.join(argv)} failed", why, "mend that, then run this again")
