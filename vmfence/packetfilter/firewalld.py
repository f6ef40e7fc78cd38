"""What firewalld has still to be told, and which of its chains that changes.  Pure: a Query asks it.

Exit codes, words and names of chains are those of firewalld 1.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from vmfence.packetfilter.rules import Opening

# The service of firewalld that a host's listeners need, where they use this port.
SERVICE = "vmfence"
_SERVICE_PORT = 1229
Argv = tuple[str, ...]
# Runs firewall-cmd with these words; returns whether it said yes, and its first line of output.
Query = Callable[[Sequence[str]], tuple[bool, str]]


@dataclass(frozen=True)
class Zone:
    """The zone of an opening now, the *kept* one that it has after the next boot, and a *doubt* about that."""

    name: str
    kept: str
    doubt: str = ""


@dataclass(frozen=True)
class Needs:
    """*zones*: one for each opening; *commands*: what is missing, in this order; *doubts*: what nobody can tell.

    *kept*: the zone of each opening after the next reload.
    """

    zones: tuple[str, ...] = ()
    commands: tuple[Argv, ...] = ()
    doubts: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def chains(self, opening: Opening) -> tuple[str, ...]:
        """Return the chains that will admit *opening* once the commands have been run; none if they need not."""
        port = f"--add-port={opening.port}/{opening.protocol}"
        told = [zone for zone in dict.fromkeys(self.zones) if ("firewall-cmd", f"--zone={zone}", port) in self.commands]
        return tuple(name for zone in told for name in (f"filter_IN_{zone}_allow", f"IN_{zone}_allow"))


def firewalld_missing(query: Query, wanted: Iterable[Opening], service_file: str = "") -> Needs:
    """Return the zone of each opening and the firewall-cmd command lines that are still needed, in their order.

    The permanent half is our service in *service_file*, or ports without one and where it does not fit.  Now it is
    ports: firewalld takes a new service only by a reload, which would forget what others told it for the time being.
    """
    zones: list[Zone] = []
    commands: list[Argv] = []
    for opening in wanted:
        zone = _zone(query, opening.interface)
        zones.append(zone)
        commands += [argv for argv in _zone_missing(query, zone, opening, service_file) if argv not in commands]
    doubts = dict.fromkeys(zone.doubt for zone in zones if zone.doubt)
    names = tuple(zone.name for zone in zones)
    return Needs(names, tuple(commands), tuple(doubts), tuple(zone.kept for zone in zones))


def _zone(query: Query, interface: str | None) -> Zone:
    default = query(["--get-default-zone"])[1]
    if interface is None:
        return Zone(default, default)
    has_zone, name = query([f"--get-zone-of-interface={interface}"])
    is_kept, kept = query(["--permanent", f"--get-zone-of-interface={interface}"])
    if not has_zone:
        return Zone(default, kept if is_kept else default)
    if is_kept or name == default or name.startswith("libvirt"):  # libvirt binds the bridges of its networks anew
        return Zone(name, kept if is_kept else name)
    what = f"firewalld has {interface} in zone {name} for the time being: after the next boot it may be in {default}"
    return Zone(
        name, name, f"{what}; to keep it: firewall-cmd --permanent --zone={name} --change-interface={interface}"
    )


def _zone_missing(query: Query, zone: Zone, opening: Opening, service_file: str) -> Iterator[Argv]:
    items = [f"port={opening.port}/{opening.protocol}", *(["protocol=igmp"] if opening.igmp else [])]
    has_service = bool(service_file) and opening.port == _SERVICE_PORT

    def lacks(*where: str) -> bool:
        served = has_service and query([*where, f"--query-service={SERVICE}"])[0]
        return not served and not all(query([*where, f"--query-{item}"])[0] for item in items)

    # A reload leaves the interface in the zone it is in now.
    for name in dict.fromkeys((zone.name, zone.kept)):
        at = f"--zone={name}"
        if not lacks("--permanent", at):
            continue
        if not has_service:
            yield from (("firewall-cmd", "--permanent", at, f"--add-{item}") for item in items)
            continue
        if not query(["--permanent", f"--path-service={SERVICE}"])[0]:
            yield ("firewall-cmd", "--permanent", f"--new-service-from-file={service_file}", f"--name={SERVICE}")
        yield ("firewall-cmd", "--permanent", at, f"--add-service={SERVICE}")
    if lacks(f"--zone={zone.name}"):
        yield from (("firewall-cmd", f"--zone={zone.name}", f"--add-{item}") for item in items)


def opened(commands: Iterable[Argv]) -> str:
    """Return what firewalld lets in by *commands*, and from where: all interfaces of a zone share what it has."""
    zones: dict[str, dict[str, None]] = {}
    for argv in commands:
        options = dict(word.lstrip("-").split("=", 1) for word in argv if "=" in word)
        for item in ("add-port", "add-protocol", "add-service"):
            if "zone" in options and item in options:
                zones.setdefault(options["zone"], {})[f"{item[len('add-') :]} {options[item]}"] = None
    return "; ".join(f"{', '.join(items)} from all interfaces of zone {zone}" for zone, items in zones.items())
