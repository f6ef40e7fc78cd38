"""What may be said of a guest after every host was asked: running here or there, off, or not to be told.

Pure.  To call a guest off that runs nowhere in sight is the dangerous answer, so each reason against it is named here;
only without any is it given:

- the group is quorate, and every member answered;
- nobody has the guest active;
- who had it active last says that it ended there: not that it left, and not that it vanished; or all hosts there are
  were asked, or fenced, and it did not move meanwhile: then it is nowhere, wherever it was before;
- no host that is away had it; or every host that is away was fenced since it left, as it may have moved among them;
- what is known of those that are away is not of an earlier time: they were seen leaving, or fenced since we look.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmfence.errors import BackendError
from vmfence.host.pool.effects import Standing
from vmfence.host.pool.lasts import NOBODY_KNOWS
from vmfence.host.pool.messages import Away, Entry
from vmfence.protocol.reply import State

# A guest runs at one place alone in these states.  A paused one may be about to come from another host, or to leave.
EXECUTING = frozenset((State.RUNNING, State.BLOCKED, State.SHUTTING_DOWN))


class NotVouched(BackendError):
    """What a guest is cannot be told, or not all who may have it can be asked."""

    exit_code = 4


@dataclass(frozen=True)
class View:
    """What was found when all members were asked of one guest.

    *sightings*: by member, what it sees (usually one guest or none).  *silent*: members that did not tell, and why.
    *references*: members that are fence_virtd.  *away*: hosts that are not in the group, by node, as some member
    remembers them.  *unheard*: nodes of the cluster that are not in the group, and nobody knows what they had.
    *last*: who had it active last, as the members have seen.  *is_everybody_here*: no node of the cluster is missing,
    None if that is not known.  *concerned*: members that list it or see it.  *offsets_s*: by member, how far its clock
    is ahead of ours, at least.  *is_quiet*: it did not move, as far as the members know, while they were asked, and
    nobody had told before that it was active.  *is_changed*: they told otherwise while they were asked.
    *standing*: what they had told when all had answered.
    """

    sightings: dict[int, tuple[Entry, ...]]
    silent: dict[int, str] = field(default_factory=dict)
    references: frozenset[int] = frozenset()
    away: dict[int, Away] = field(default_factory=dict)
    unheard: frozenset[int] = frozenset()
    is_everybody_here: bool | None = True
    last: frozenset[int] = frozenset()
    is_quorate: bool = True
    concerned: frozenset[int] = frozenset()
    offsets_s: dict[int, float] = field(default_factory=dict)
    is_quiet: bool = False
    is_changed: bool = False
    standing: Standing | None = None

    def uuids(self) -> set[str]:
        """Return the UUIDs of all guests that answer to what was asked for, away or not."""
        seen = {entry.uuid for entries in self.sightings.values() for entry in entries}
        return seen | {away.entry.uuid for away in self.away.values() if away.entry is not None}

    def active(self) -> dict[int, Entry]:
        """Return where it is active."""
        return {n: entry for n, entries in sorted(self.sightings.items()) for entry in entries if entry.is_active}

    def is_seen_executing(self) -> bool:
        """Whether some host was seen to execute it."""
        return any(entry.is_executing for entry in self.active().values())

    def ended(self) -> dict[int, Entry]:
        """Return where it is shut off and did not only leave."""
        return {n: entry for n, entries in sorted(self.sightings.items()) for entry in entries if entry.is_off}

    def any_entry(self) -> Entry | None:
        """Return one of the guest's entries, an active one first."""
        seen = [entry for _, entries in sorted(self.sightings.items()) for entry in entries]
        seen += [away.entry for _, away in sorted(self.away.items()) if away.entry is not None]
        return next((entry for entry in seen if entry.is_active), seen[0] if seen else None)


def suspects(view: View, is_seen_active: bool) -> dict[int, Away]:
    """Return the hosts that are away and may be running the guest.

    One that had it shut off may have started it since, unless it was seen active elsewhere after that host had left:
    by a member (excused), or just now (*is_seen_active*).
    """
    return {
        node: away
        for node, away in view.away.items()
        if away.entry is not None and (away.entry.is_active or not (away.is_excused or is_seen_active))
    }


def unseen(view: View) -> frozenset[int]:
    """Return the hosts that are away and may have been back, and got guests, while nobody who is here looked."""
    return frozenset(node for node, away in view.away.items() if not away.is_seen_leaving)


def doubts(view: View, fenced: frozenset[int], is_seen_active: bool = False) -> list[str]:
    """Return why nobody can vouch that the guest is off; *fenced*: hosts known to be fenced since they left."""
    found = [] if view.is_quorate else ["the group of hosts is not quorate"]
    if view.is_everybody_here is None:
        found.append("Corosync does not tell which hosts there are")
    found += [f"host {node} does not tell: {why}" for node, why in sorted(view.silent.items())]
    found += [f"host {node} has it {_word(entry)}" for node, entry in view.active().items()]
    found += doubts_away(view, fenced, is_seen_active)
    found += [f"nobody who is here saw host {node} leave" for node in sorted(unseen(view) - fenced)]
    is_accounted = view.is_everybody_here is not None and not (view.away.keys() | view.unheard) - fenced
    if view.is_quiet and is_accounted and not view.references and view.any_entry() is not None:
        return found
    return found + doubts_about_last(view, fenced)


def doubts_after(view: View, ended_by_us: frozenset[int], fenced: frozenset[int]) -> list[str]:
    """Return why the guest may still run although the hosts *ended_by_us*, which had it, confirmed its end."""
    ended = view.ended()
    found = [f"host {node} has it {_word(entry)}" for node, entry in view.active().items()]
    found += [
        f"host {node} ended it and does not tell that it is off" for node in sorted(ended_by_us) if node not in ended
    ]
    found += [
        f"host {node} does not tell: {why}" for node, why in sorted(view.silent.items()) if node in view.concerned
    ]
    return found + doubts_away(view, fenced, is_seen_active=True)


def doubts_away(view: View, fenced: frozenset[int], is_seen_active: bool = False) -> list[str]:
    """Return why hosts that are away may run the guest."""
    suspected = suspects(view, is_seen_active)
    found = [
        f"host {node} had it {_word(away.entry)} when it left, and is not known to have been fenced"
        for node, away in sorted(suspected.items())
        if node not in fenced
    ]
    if suspected and not found:
        others = [node for node in sorted(view.away) if node not in fenced]
        found = [f"it may have moved to host {node}, which is not known to have been fenced" for node in others]
    return found + [
        f"host {node} is away and nobody knows what guests it has"
        for node in sorted(view.unheard - fenced)
        if not is_seen_active
    ]


def doubts_about_last(view: View, fenced: frozenset[int]) -> list[str]:
    """Return why it may run elsewhere than where it ran last."""
    ended, found, is_known = view.ended(), [], False
    for node in sorted(view.last - {NOBODY_KNOWS}):
        entries = view.sightings.get(node, ())
        if node in ended:
            is_known = True
            if node in view.references and not view.is_everybody_here:
                found.append(f"host {node} is fence_virtd, which does not tell whether it was migrated away")
        elif node in view.sightings and not entries:
            found.append(f"host {node} had it last and does not know it any more")
        elif node not in view.sightings and node in fenced:
            is_known = True
        elif node not in view.sightings and (node not in view.away or view.away[node].entry is None):
            found.append(f"host {node} had it last and cannot be asked")
    has_left = [node for node, entries in sorted(view.sightings.items()) if any(entry.moved for entry in entries)]
    had = [node for node, away in view.away.items() if away.entry is not None and node in fenced]
    if NOBODY_KNOWS in view.last or (has_left and not is_known):
        found.append("it was migrated away, and nobody has seen where to")
    if not is_known and not ended and not had and not found:
        found.append("no host says that it ended there")
    return found


def _word(entry: Entry | None) -> str:
    if entry is None:
        return "not"
    if entry.moved:
        return "migrated away"
    known = entry.state in State._value2member_map_
    return State(entry.state).name.lower().replace("_", " ") if known else f"in state {entry.state}"
