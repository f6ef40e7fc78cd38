"""What firewalld has, from its listings of all zones and policies: a few calls of firewall-cmd instead of one for each
question, of which each starts an interpreter.  Pure.

Format: ``firewall-cmd --list-all-zones``, ``--list-all-policies`` and ``--info-service`` of firewalld 1.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable

from vmfence.packetfilter.rules import Opening

Answer = tuple[bool, str]
_NUMBERED = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?/(\w+)")  # 22/tcp, 1200-1300/udp; others go by name: ntp/udp


@dataclass(frozen=True)
class Section:
    """One zone, policy or service: its *values* by the names of the listing, and its rich *rules*."""

    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rules: tuple[str, ...] = ()

    def get(self, name: str) -> tuple[str, ...]:
        """Return the words after *name*, none where it is not listed."""
        return self.values.get(name, ())

    def has_port(self, wanted: str) -> bool:
        """Whether *wanted* (1229/udp) is a port of it, or in a range.  Which port has a name is not known here."""
        number, _, protocol = wanted.partition("/")
        found = map(_NUMBERED.fullmatch, self.get("ports"))
        return any(one and one[3] == protocol and int(one[1]) <= int(number) <= int(one[2] or one[1]) for one in found)

    def may_have_port(self, wanted: str) -> bool:
        """Whether *wanted* (1229/udp) is a port of it, or may be the one that it has by name."""
        named = [port for port in self.get("ports") if not _NUMBERED.fullmatch(port)]
        return self.has_port(wanted) or any(port.endswith(wanted[wanted.index("/") :]) for port in named)

    def admits(self, opening: Opening, service: str) -> bool:
        """Whether it names *service*, or all that *opening* needs."""
        is_port = self.has_port(f"{opening.port}/{opening.protocol}")
        return service in self.get("services") or (is_port and (not opening.igmp or "igmp" in self.get("protocols")))


@dataclass(frozen=True)
class Listings:
    """Zones and policies by name, one kind of each: as firewalld runs, or as it keeps them.

    *services*: those of them that rich rules name, as far as they have been looked up.
    """

    zones: Mapping[str, Section] = field(default_factory=dict)
    policies: Mapping[str, Section] = field(default_factory=dict)
    services: Mapping[str, Section] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """Answers, as firewall-cmd would, from what runs *now* and what is *kept*; *ask* is asked the rest."""

    now: Listings
    kept: Listings
    ask: Callable[[Sequence[str]], Answer]

    def __call__(self, words: Sequence[str]) -> Answer:
        """Return whether firewalld says yes to *words*, and its first line.  Raises as *ask*."""
        zones = (self.kept if "--permanent" in words else self.now).zones
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if "--get-zone-of-interface" in options:
            name = options["--get-zone-of-interface"]
            bound = [zone for zone, one in zones.items() if name in one.get("interfaces")]
            return (True, bound[0]) if bound else (False, "no zone")
        if "--zone" not in options:
            return self.ask(words)
        zone = zones.get(options["--zone"], Section())
        is_yes = (
            options.get("--query-service") in zone.get("services")
            or options.get("--query-protocol") in zone.get("protocols")
            or ("--query-port" in options and zone.has_port(options["--query-port"]))
        )
        return is_yes, "yes" if is_yes else "no"


def sections(listing: str) -> dict[str, Section]:
    """Return what *listing* shows, by name.  Raises ValueError for what is no listing."""
    found: dict[str, Section] = {}
    name = ""
    for line in listing.splitlines():
        if line.startswith("\t") and name:
            found[name] = Section(found[name].values, (*found[name].rules, line.strip()))
        elif line.startswith("  ") and name and ":" in line:
            key, _, text = line.strip().partition(":")
            found[name].values[key] = tuple(text.split())
        elif line.startswith((" ", "\t")):
            raise ValueError(f"no setting of firewalld: {line!r}")
        elif line.strip():
            name = line.split()[0]
            found[name] = Section()
    return found
