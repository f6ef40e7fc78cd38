"""One question to all members about one guest, from its sending to the View.

Pure.  Ours answer with a Report.  fence_virtd cannot be asked such a thing; but on every request it tells anew of all
its guests before it answers, so a status request that it has to answer marks the end of what it tells (server/
cpg-virt.c: do_real_work).  One without guests has nothing to answer, unless its node id is the highest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vmfence.host.pool.directory import Directory
from vmfence.host.pool.effects import Standing
from vmfence.host.pool.known import Host
from vmfence.host.pool.messages import Away, Entry, Last, Report
from vmfence.host.pool.verdict import View

# A hypervisor is given five seconds to look a guest up, and that one is told of.
LOOK_S = 6.0
# Where the guest was found active, those that never had it are waited for so long.
GRACE_S = 1.0
PROBE_S = 2.0


@dataclass(frozen=True)
class Situation:
    """What the members have told of a guest: who has it active, who had it, who had it last; and whether all told."""

    active: frozenset[int]
    moved: frozenset[int]
    lasts: tuple[Last, ...]
    is_told: bool


def situation(directory: Directory, target: str) -> Situation:
    """Return what is told of the guest called *target*."""
    hosts = {node: directory.hosts[node] for node in directory.members}
    found = {node: entry for node, host in hosts.items() if (entry := host.find(target)) is not None}
    return Situation(
        frozenset(node for node, entry in found.items() if entry.is_active),
        frozenset(node for node, entry in found.items() if entry.moved),
        directory.lasts_of(target),
        all(host.is_listed and not host.is_of_before for host in hosts.values()),
    )


def standing(directory: Directory, target: str) -> Standing:
    """Return what is told of the guest called *target*, as far as it decides where to act."""
    members = frozenset((node, directory.hosts[node].joined_at) for node in directory.members)
    now = situation(directory, target)
    return Standing(target, members, now.active, now.moved)


@dataclass
class Probe:
    """A status request to one member with fence_virtd; *tried* are the names it was asked for."""

    node: int
    tried: set[str] = field(default_factory=set)
    seqno: int = 0
    sent_at: float = 0.0

    def next_text(self, host: Host, target: str) -> str | None:
        """Return the name to ask for next: of a guest that the host has, by either kind; else what is looked for.

        Even where it has no answer to that, it tells of its guests, and there is one to ask for.
        """
        known = host.find(target) or next(iter(host.guests.values()), None)
        texts = [known.name, known.uuid, target] if known is not None else [target]
        found = next((text for text in texts if text not in self.tried), None)
        if found is not None:
            self.tried.add(found)
        return found


@dataclass
class Look:
    """One question under way.  When the group changes it has to be asked anew."""

    target: str
    is_for_start: bool
    begun_at: float
    deadline: float
    reports: dict[int, Report] = field(default_factory=dict)
    offsets_s: dict[int, float] = field(default_factory=dict)
    probes: dict[int, Probe] = field(default_factory=dict)
    told: dict[int, tuple[Entry, ...]] = field(default_factory=dict)  # by fence_virtd
    mute: dict[int, str] = field(default_factory=dict)
    before: Situation | None = None

    def reported(self, node: int, report: Report, now: float) -> None:
        """Take the answer of one of ours, received at *now*."""
        self.reports[node] = report
        # The clock was read before we got this, so this is no more than how far it is ahead.
        self.offsets_s[node] = report.clock_s - now

    def is_over(self, directory: Directory, now: float) -> bool:
        """Whether there is nothing more to wait for."""
        waiting = self.waiting(directory)
        if not waiting or now >= min(self.begun_at + LOOK_S, self.deadline):
            return True
        if now < self.begun_at + GRACE_S or not self._is_seen_active():
            return False
        return not waiting & self._concerned(directory)

    def waiting(self, directory: Directory) -> frozenset[int]:
        """Return the members that have not answered."""
        return directory.members - self.reports.keys() - self.told.keys() - self.mute.keys()

    def view(self, directory: Directory) -> View:
        """Return what was found."""
        here = directory.members
        silent = {node: self.mute.get(node, "no answer in time") for node in self.waiting(directory)}
        silent.update({node: why for node, why in self.mute.items() if node in here})
        silent.update({node: each.trouble for node, each in self.reports.items() if each.trouble and node in here})
        sightings = self._sightings()
        away = self._away(directory)
        absent = directory.absent()
        return View(
            {node: entries for node, entries in sightings.items() if node in here},
            silent,
            frozenset(node for node in here if node in self.told or node in self.mute),
            away,
            frozenset(node for node in absent if node not in away),
            None if directory.configured is None else not absent,
            self._last(directory, away),
            directory.is_quorate,
            self._concerned(directory),
            self.offsets_s,
            self._is_quiet(directory),
            self._is_changed(directory),
            standing(directory, self.target),
        )

    def _is_changed(self, directory: Directory) -> bool:
        """Whether the members told of the guest while they were asked: some had answered before that, some after.

        What fence_virtd tells before it answers is its answer.
        """
        before, now = self.before, situation(directory, self.target)
        if before is None:
            return False
        changed = (before.active ^ now.active) | (before.moved ^ now.moved)
        later = {
            node
            for node, entries in self.told.items()
            if node in now.active and not any(entry.is_active for entry in entries)
        }
        return bool(later or changed & self.reports.keys())

    def _is_quiet(self, directory: Directory) -> bool:
        """Whether what is known of the guest was known before anybody was asked: so it did not move meanwhile."""
        has_left = {node for node, entries in self._sightings().items() if any(entry.moved for entry in entries)}
        now = situation(directory, self.target)
        is_same = self.before is not None and now == self.before
        return is_same and not now.active and has_left <= now.moved and now.is_told

    def _is_seen_active(self) -> bool:
        seen = [entry for report in self.reports.values() for entry in report.guests]
        seen += [entry for entries in self.told.values() for entry in entries]
        return any(entry.is_active for entry in seen)

    def _concerned(self, directory: Directory) -> frozenset[int]:
        found = {node for node in directory.members if directory.hosts[node].find(self.target) is not None}
        for uuid in {entry.uuid for report in self.reports.values() for entry in report.guests}:
            found |= {node for node in directory.members if uuid in directory.hosts[node].guests}
        return frozenset(found | {node for node, report in self.reports.items() if report.guests})

    def _last(self, directory: Directory, away: dict[int, Away]) -> frozenset[int]:
        """Return who may have had the guest last, as all together know: the directory has taken what they report."""
        uuids = {entry.uuid for entries in self._sightings().values() for entry in entries}
        uuids |= {each.entry.uuid for each in away.values() if each.entry is not None}
        return frozenset().union(*(directory.lasts.nodes(uuid) for uuid in uuids))

    def _sightings(self) -> dict[int, tuple[Entry, ...]]:
        found = {node: report.guests for node, report in self.reports.items() if not report.trouble}
        return {**found, **self.told}

    def _away(self, directory: Directory) -> dict[int, Away]:
        """Return what anybody remembers: the worst of it, and excused only by who remembers that it was shut off."""
        found: dict[int, Away] = {}
        for report in self.reports.values():
            for told in report.away:
                if told.node in directory.members or not _is_configured(directory, told.node):
                    continue
                is_seen = told.is_seen_leaving and told.node not in directory.unsure
                each = replace(told, is_seen_leaving=is_seen)
                found[told.node] = _worse(found.get(told.node, each), each)
        return found


def _is_configured(directory: Directory, node: int) -> bool:
    return directory.configured is None or node in directory.configured


def _worse(one: Away, other: Away) -> Away:
    """Return one memory of a host made of two: what was active counts more than what was shut off or not there.

    When it left is told by those who saw it; the others only tell since when they would have seen it.
    """
    entries = sorted(filter(None, (one.entry, other.entry)), key=lambda entry: entry.is_active)
    both = (one, other)
    seen = [each for each in both if each.is_seen_leaving]
    noted = [each.fence_before for each in seen or both if each.fence_before is not None]
    return Away(
        one.node,
        max(each.left_at for each in seen or both),
        entries[-1] if entries else None,
        one.is_excused or other.is_excused,
        bool(seen),
        max(noted) if noted else None,
    )
