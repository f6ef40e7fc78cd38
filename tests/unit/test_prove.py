"""Fencing and rehearsals believe nobody alone: cluster, fencer's history and host must tell the same story."""

from __future__ import annotations

import heapq
import itertools
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import pytest

from vmfence.cluster import fencing, prove, targets, verdict, votes, watch
from vmfence.cluster.cib import Cib, Device, Level, Node
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.fencing import Fencing
from vmfence.cluster.means import Means
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.proofs import Proof
from vmfence.cluster.prove import Rehearsal
from vmfence.cluster.status import NodeStatus, Status
from vmfence.cluster.targets import Survey, Target
from vmfence.cluster.votes import Votes
from vmfence.cluster.watch import Course, Look, Sight
from vmfence.errors import ClusterUnreachable, DeadlineExceeded, UsageError, VmfenceError
from vmfence.guest.guests import Inquiry
from vmfence.proc import Result
from vmfence.protocol.reply import Record, State

RUNNING, IS_OFF = Look(Sight.RUNNING, "running"), Look(Sight.OFF, "shut off")
SILENT, ABSENT = Look(Sight.SILENT, "no host answered"), Look(Sight.ABSENT)
DEVICE = Device("fence", "fence_vmfence", {"pcmk_host_map": "n1:lab-n1;n2:lab-n2;n3:lab-n3"}, {}, ())
CIB = Cib(
    nodes=tuple(Node(f"n{number}", str(number)) for number in (1, 2, 3)),
    devices=(DEVICE,),
    levels=(),
    properties={},
    bans={},
    resources=(),
    ids=frozenset({"fence"}),
)
THREE_VOTES = Votes(2, 3, {1: 1, 2: 1, 3: 1}, True)


@dataclass
class Nature:
    """How the world of a test behaves, in seconds after the command; None: never."""

    off_s: float | None = 0.5
    on_s: float | None = 1.0
    event: str = "success"
    reason: str = ""
    ends_s: float | None = 2.0
    status: int = 0
    back_s: float | None = 5.0  # after the guest runs
    unfence_status: int = 0
    blind: tuple[float, float] = (0.0, 0.0)  # when the host's daemon does not answer


class World(Pacemaker):
    """A cluster of n1 (this node), n2 and n3 with its host; time passes when somebody waits or asks."""

    def __init__(self, nature: Nature | None = None) -> None:
        super().__init__()
        self.nature = nature or Nature()
        self.now = 100.0
        self.began = 0.0
        self.power = {f"lab-n{number}": RUNNING for number in (1, 2, 3)}
        self.nodes = {f"n{number}": NodeStatus(f"n{number}", is_online=True) for number in (1, 2, 3)}
        self.events: list[FencingEvent] = []
        self.commands: list[list[str]] = []
        self.cib = CIB
        self.devices: tuple[str, ...] = ("fence",)
        self.is_readable = True
        self.uuids: dict[str, str] = {}  # of guests under another name
        self.joins = {1: 1, 2: 1, 3: 1}
        self.votes: Votes | None = THREE_VOTES
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def means(self) -> Means:
        return Means(
            self,
            Pcs((0, 11, 5)),
            self.start,
            self.look,
            self.ask_all,
            self.count_votes,
            lambda: self.joins,
            lambda: self.now,
            self.sleep,
        )

    # what the program asks

    def version(self) -> tuple[int, ...]:
        return (2, 1, 5)

    def load_cib(self) -> Cib:
        return self.cib

    def load_status(self) -> Status:
        self.sleep(0.05)
        if not self.is_readable:
            raise ClusterUnreachable("no cluster is running on this node")
        return Status(tuple(self.nodes.values()), (), with_quorum=True, dc="n1", is_fencing_enabled=True)

    def node_name(self) -> str:
        return "n1"

    def devices_for(self, node: str) -> tuple[str, ...]:
        return self.devices

    def fencing_history(self, node: str | None = None) -> tuple[FencingEvent, ...]:
        return tuple(event for event in self.events if node in (None, event.target))

    def look(self, inquiry: Inquiry, guest: str) -> Look:
        self.sleep(0.01)
        begin, end = self.nature.blind
        since = self.now - self.began
        if self.began and begin <= since < end:
            self.sleep(end - since)
        shown = self.power[guest]
        is_shown = shown.sight not in (Sight.SILENT, Sight.ABSENT)
        return replace(shown, uuid=self.uuids.get(guest, guest) if is_shown else "")

    def count_votes(self) -> Votes:
        if self.votes is None:
            raise ClusterUnreachable("corosync does not answer on this node")
        return self.votes

    def ask_all(self, inquiry: Inquiry) -> list[Record]:
        return []

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self._plan and self._plan[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._plan)
            happen()
        self.now = end

    @contextmanager
    def start(self, argv: list[str], log_path: str, environment: Mapping[str, str] | None) -> Iterator[Command]:
        self.commands.append(argv)
        self.began = self.now
        nature, node = self.nature, next(name for name in self.nodes if name in argv[-1] or name in argv[-2])
        guest, command = f"lab-{node}", Command()
        if argv[0] == "stonith_admin":
            command.status_then = nature.unfence_status
            if not nature.unfence_status:
                self._after(nature.on_s, lambda: self._switch_on(node))
        else:
            command.status_then = nature.status
            self._after(nature.off_s, lambda: self._switch_off(node))
            if argv[-1] != "--off":
                self._after(nature.on_s, lambda: self._switch_on(node))
            self._after(nature.off_s or 0.1, lambda: self._tell(node, "off" if argv[-1] == "--off" else "reboot"))
        self._after(nature.ends_s, command.end)
        with open(log_path, "w") as log:
            log.write("Error: unable to fence\n" if command.status_then else "")
        assert guest in self.power
        yield command

    # what happens

    def _after(self, seconds: float | None, happen: Callable[[], None]) -> None:
        if seconds is not None:
            heapq.heappush(self._plan, (self.now + seconds, next(self._order), happen))

    def _switch_off(self, node: str) -> None:
        self.power[f"lab-{node}"] = IS_OFF
        self.nodes[node] = NodeStatus(node)

    def _switch_on(self, node: str) -> None:
        self.power[f"lab-{node}"] = RUNNING
        self._after(self.nature.back_s, lambda: self.nodes.update({node: NodeStatus(node, is_online=True)}))

    def _tell(self, node: str, action: str) -> None:
        if self.nature.event:
            at = f"2026-11-23 12:00:{len(self.events):02} +00:00"
            client = "stonith_admin.77"
            event = FencingEvent(self.nature.event, action, node, client, "n1", "n3", at, self.nature.reason)
            self.events.insert(0, event)


class Command:
    """A program in the background."""

    status: int | None = None
    status_then = 0

    def is_alive(self) -> bool:
        return self.status is None

    def end(self) -> None:
        self.status = self.status_then


def fence(world: World, is_off: bool = False, timeout_s: float = 300.0) -> Fencing:
    means = world.means()
    return fencing.fence(targets.survey("n2", means), is_off, means, lambda _: None, timeout_s)


def faults(world: World, is_off: bool = False) -> str:
    return "; ".join(verdict.faults(fence(world, is_off)))


# One fencing


def test_a_reboot_that_cluster_and_host_saw() -> None:
    world = World()
    found = fence(world)
    assert verdict.faults(found) == verdict.notes(found) == ()
    assert world.commands == [["pcs", "stonith", "fence", "n2"]]
    assert found.course.off_s == pytest.approx(0.5, abs=0.1)
    assert found.course.back_s == pytest.approx(1.0, abs=0.1)
    assert found.event is not None
    assert found.event.delegate == "n3"


def halted(world: World) -> None:
    """Let nobody see a guest off, only on its way."""
    switch_off = world._switch_off

    def halt(node: str) -> None:
        switch_off(node)
        world.power[f"lab-{node}"] = Look(Sight.HALTED, "paused")

    world._switch_off = halt  # type: ignore[method-assign]


def test_a_reboot_may_be_too_fast_for_more_than_a_halt() -> None:
    world = World()
    halted(world)
    found = fence(world)
    assert verdict.faults(found) == ()
    assert found.course.off_s is None
    assert found.course.down_s == pytest.approx(0.5, abs=0.1)


def test_a_halt_is_not_off() -> None:
    world = World()
    halted(world)
    assert "was not seen off at the host: it was paused" in faults(world, is_off=True)


def test_powering_off_waits_for_no_start() -> None:
    world = World()
    assert faults(world, is_off=True) == ""
    assert world.commands == [["pcs", "stonith", "fence", "n2", "--off"]]
    assert world.power["lab-n2"] is IS_OFF


def test_a_start_after_the_end_of_the_command_is_waited_for() -> None:
    assert faults(World(Nature(on_s=20.0))) == ""


@pytest.mark.parametrize(
    ("nature", "fault"),
    [
        (Nature(off_s=None), "fenced according to the cluster, but guest lab-n2 was not seen off .* it was running"),
        (Nature(on_s=None), r"lab-n2 went down after 0\.\d s and was not seen running again: shut off"),
        (Nature(event=""), "the fencer's history has no new event for it"),
        (Nature(event="failed", reason="No data"), "the fencer's history calls it failed: No data"),
        (Nature(event="pending"), "the fencer has not ended it yet"),
        (Nature(status=1), "the cluster's command failed: .*unable to fence"),
        (Nature(status=1, event="", off_s=None), "not fenced according to the cluster, but guest lab-n2 was not seen"),
        (Nature(blind=(0.4, 2.5)), r"showed nothing for 2\.\d s, as fence_virtd does while it reboots"),
        (Nature(ends_s=None), "did not end within 300 s"),
    ],
)
def test_whoever_tells_another_story_is_named(nature: Nature, fault: str) -> None:
    assert re.search(fault, faults(World(nature)))


def test_a_guest_seen_off_although_the_command_failed_is_told() -> None:
    found = fence(World(Nature(status=1)))
    assert verdict.faults(found)
    assert "seen off all the same" in verdict.notes(found)[0]


def test_a_guest_that_only_vanished_from_the_list_is_no_proof() -> None:
    world = World(Nature(off_s=None))
    world._after(0.5, lambda: world.power.update({"lab-n2": ABSENT}))
    world._after(1.0, lambda: world.power.update({"lab-n2": RUNNING}))
    assert "its list lacked the guest, which proves nothing" in faults(world)


def test_a_host_that_never_answers_is_no_proof() -> None:
    world = World()
    world.power["lab-n2"] = SILENT
    world._switch_off = world._switch_on = lambda node: None  # type: ignore[method-assign]
    assert "it never answered (no host answered)" in faults(world)


def test_a_guest_that_did_not_stay_off() -> None:
    world = World()
    world._after(1.5, lambda: world._switch_on("n2"))
    assert "did not stay so" in faults(world, is_off=True)


def test_an_older_event_proves_nothing() -> None:
    world = World(Nature(event=""))
    world.events = [FencingEvent("success", "reboot", "n2", "pcs", "n1", "n3", "2026-11-22 12:00:00 +00:00")]
    assert "no new event" in faults(world)


def test_an_event_of_another_node_proves_nothing() -> None:
    world = World(Nature(event=""))
    other = FencingEvent("success", "reboot", "n3", "pcs", "n1", "n1", "2026-11-23 12:00:00 +00:00")
    world._after(0.5, lambda: world.events.append(other))
    assert "no new event" in faults(world)


def test_a_failure_before_a_success_is_forgiven() -> None:
    world = World()
    failed = FencingEvent("failed", "reboot", "n2", "pcs", "n1", "n1", "2026-11-23 11:59:59 +00:00")
    world._after(0.3, lambda: world.events.insert(0, failed))
    assert faults(world) == ""


def test_nothing_is_begun_while_a_fencing_is_pending() -> None:
    world = World()
    world.events = [FencingEvent("pending", "reboot", "n2", "pcs", "n3")]
    with pytest.raises(VmfenceError, match="under way already"):
        fence(world)
    assert world.commands == []


def test_a_guest_that_was_off_proves_nothing_and_is_no_fault() -> None:
    world = World()
    world.power["lab-n2"] = IS_OFF
    unwell("n2", is_online=False)(world)
    found = fence(world, is_off=True)
    assert verdict.faults(found) == ()
    assert "was off already" in verdict.notes(found)[0]


def test_a_guest_that_is_off_while_its_node_is_online_is_another_ones() -> None:
    for is_off in (True, False):
        world = World()
        world.power["lab-n2"] = IS_OFF
        seen = targets.survey("n2", world.means())
        assert "n2 is online in the cluster, but guest lab-n2 of device fence is off" in seen.contradiction()
        found = fence(world, is_off)
        assert "so it is not its guest" in "; ".join(verdict.faults(found))
        assert verdict.notes(found) == ()


def test_a_guest_that_was_off_and_stays_so_is_not_rebooted() -> None:
    world = World(Nature(off_s=None, on_s=None))
    world.power["lab-n2"] = IS_OFF
    unwell("n2", is_online=False)(world)
    assert "was off before, and was not seen running after that: shut off" in faults(world)
    world.nature.on_s = 1.0
    assert faults(world) == ""


def test_who_goes_off_at_the_question_did_not_go_down() -> None:
    """The survey is older than the first look: that one counts."""
    world = World(Nature(off_s=None))
    seen = targets.survey("n2", world.means())
    world.power["lab-n2"] = IS_OFF
    found = fencing.fence(seen, True, world.means(), lambda _: None)
    assert found.course.off_s is None
    assert verdict.faults(found)


def unseen(world: World) -> World:
    """Let the host be blind while it reboots, as fence_virtd is, and corosync count the join."""
    world.nature.blind = (0.4, 2.5)
    world._after(4.0, lambda: world.joins.update({2: 2}))
    return world


def test_a_reboot_that_the_host_cannot_show_is_judged_by_the_cluster() -> None:
    found = fence(unseen(World()))
    assert verdict.faults(found) == ()
    assert "judged by the cluster: the node left it and joined anew" in verdict.notes(found)[0]
    assert verdict.as_dict(found)["rejoined_s"] > 2.5


def no_new_join(world: World) -> None:
    world.joins = {}


def off_the_cluster(world: World) -> None:
    unwell("n2", is_online=False)(world)


def stays_away(world: World) -> None:
    world.nature.back_s = None


def panics(world: World) -> None:
    world.cib = replace(CIB, properties={"fence-reaction": "Panic"})


def has_sbd(world: World) -> None:
    world.cib = replace(CIB, properties={"have-watchdog": "true"})


@pytest.mark.parametrize("change", [panics, has_sbd, no_new_join, off_the_cluster, stays_away])
def test_where_the_cluster_proves_nothing_a_way_out_is_named(change: Callable[[World], None]) -> None:
    world = unseen(World())
    change(world)
    assert "an off is seen for sure: vmfence cluster fence --off n2" in faults(world)


def test_an_on_or_another_fencing_is_no_evidence() -> None:
    world = World(Nature(event=""))
    for action, client in (("on", "stonith_admin.77"), ("off", "pacemaker-controld.5")):
        event = FencingEvent("success", action, "n2", client, "n1", "n1", "2026-11-23 12:00:00 +00:00")
        world._after(0.5, lambda event=event: world.events.append(event))  # type: ignore[misc]
        assert ("no new event" in faults(world)) is (action == "on")


def test_our_own_event_counts_before_that_of_another() -> None:
    world = World(Nature(event="failed"))
    other = FencingEvent("success", "reboot", "n2", "pacemaker-controld.5", "n3", "n3", "2026-11-23 12:09:00 +00:00")
    world._after(0.7, lambda: world.events.append(other))
    assert "history calls it failed" in faults(world)


def test_a_reboot_may_stand_in_the_history_as_an_off() -> None:
    world = World()
    tell = world._tell
    world._tell = lambda node, action: tell(node, "off")  # type: ignore[method-assign]
    assert faults(world) == ""
    world._tell = lambda node, action: tell(node, "reboot")  # type: ignore[method-assign]
    assert "no new event" in faults(world, is_off=True)


def several(world: World, guest: str, uuid: str, agent: str = "fence_vmfence") -> World:
    """Let a second device lead n2 to *guest*."""
    other = replace(DEVICE, id="second", agent=agent, options={"pcmk_host_map": f"n2:{guest}"})
    world.cib, world.devices = replace(CIB, devices=(DEVICE, other)), ("fence", "second")
    world.power.setdefault(guest, RUNNING)
    world.uuids[guest] = uuid
    return world


def test_devices_that_lead_to_different_guests_prove_nothing() -> None:
    world = several(World(), "lab-n3", "lab-n3")
    found = fence(world)
    assert [target.guest for target, _ in found.watched] == ["lab-n2", "lab-n3"]
    assert "lead to different guests" in "; ".join(verdict.faults(found))
    assert "lab-n3 (not seen off, is running)" in "; ".join(verdict.faults(found))
    with pytest.raises(VmfenceError, match="do not all lead to one guest: fence: guest lab-n2 .* second: guest lab-n3"):
        prepare(several(World(), "lab-n3", "lab-n3"))


def test_of_different_guests_the_one_that_went_down_is_told_first() -> None:
    world = several(World(), "lab-n3", "lab-n3")
    world._switch_off = lambda node: world.power.update({"lab-n3": IS_OFF})  # type: ignore[method-assign]
    world._switch_on = lambda node: world.power.update({"lab-n3": RUNNING})  # type: ignore[method-assign]
    shown = verdict.as_dict(fence(world))
    assert (shown["guest"]["name"], shown["other_guests"][0]["name"]) == ("lab-n3", "lab-n2")
    assert not shown["is_proven"]


def test_two_names_of_one_guest_are_one_guest() -> None:
    world = several(World(), "88000000-a", "lab-n2")
    world.power["88000000-a"] = RUNNING
    assert faults(world) == ""
    proof = hold(several(World(), "88000000-a", "lab-n2", "fence_xvm"))
    assert proof.is_proven
    assert (proof.device, proof.agent) == ("fence or second", "fence_vmfence or fence_xvm")


def test_a_device_that_leads_nowhere_forbids_a_rehearsal() -> None:
    world = several(World(), "gone", "")
    world.power["gone"] = ABSENT
    with pytest.raises(VmfenceError, match=r"second: guest gone \(not in the host's list at the host\)"):
        prepare(world)


# What else could have done it


def other_kind(world: World) -> None:
    several(world, "lab-n2", "lab-n2", "fence_ipmilan")


def other_kind_beside_ours(world: World) -> None:
    other_kind(world)
    world.cib = replace(world.cib, levels=(Level(1, "node", "n2", ("fence", "second")),))


def other_kind_later(world: World) -> None:
    other_kind(world)
    levels = (Level(1, "node", "n2", ("fence",)), Level(2, "node", "n2", ("second",)))
    world.cib = replace(world.cib, levels=levels)


def other_kind_elsewhere(world: World) -> None:
    other_kind(world)
    world.cib, world.devices = replace(world.cib, bans={"second": frozenset({"N1"})}), ("fence",)


def trusted_watchdog(world: World) -> None:
    world.cib = replace(CIB, properties={"stonith-watchdog-timeout": "-1"})


def unreadable_watchdog(world: World) -> None:
    world.cib = replace(CIB, properties={"stonith-watchdog-timeout": "soon"})


def registered_by_hand(world: World) -> None:
    world.devices = ("fence", "stray")


MENDED = "for the time of the rehearsal: "


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_kind, f"device second (fence_ipmilan) may fence it too, .*; {MENDED}pcs stonith disable second"),
        (other_kind_beside_ours, f"device second .*; {MENDED}take it out of the fencing level of ours"),
        (other_kind_later, f"device second .*; {MENDED}pcs stonith disable second"),
        (other_kind_elsewhere, "device second (fence_ipmilan) may fence it too"),
        (
            trusted_watchdog,
            "the watchdog (stonith-watchdog-timeout=-1) may fence it too, .* set .*=0",
        ),
        (unreadable_watchdog, "the watchdog (stonith-watchdog-timeout=soon) may fence it too"),
        (registered_by_hand, "device stray (not in the configuration) .*: stonith_admin --deregister=stray"),
        (panics, "fence-reaction=Panic resets a node that hears of its own fencing, .* set fence-reaction=stop"),
        (has_sbd, "SBD (have-watchdog=true) resets a node that hears of its own fencing"),
    ],
)
def test_nothing_is_rehearsed_that_would_prove_nothing(change: Callable[[World], None], reason: str) -> None:
    world = World()
    change(world)
    with pytest.raises(VmfenceError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        prepare(world)
    assert world.commands == []


def ours_alone_in_the_levels(world: World) -> None:
    other_kind(world)
    world.cib = replace(world.cib, levels=(Level(1, "node", "n2", ("fence",)),))


def other_kind_of_another_node(world: World) -> None:
    other_kind_elsewhere(world)
    devices = (DEVICE, replace(world.cib.devices[1], options={"pcmk_host_list": "n3"}))
    world.cib = replace(world.cib, devices=devices)


def newer_name_in_an_older_pacemaker(world: World) -> None:
    world.cib = replace(CIB, properties={"fencing-reaction": "panic"})


def no_watchdog(world: World) -> None:
    world.cib = replace(CIB, properties={"have-watchdog": "false", "stonith-watchdog-timeout": "0s"})


@pytest.mark.parametrize(
    "change", [ours_alone_in_the_levels, other_kind_of_another_node, newer_name_in_an_older_pacemaker, no_watchdog]
)
def test_what_cannot_have_done_it_forbids_no_rehearsal(change: Callable[[World], None]) -> None:
    world = World()
    change(world)
    proof = hold(world)
    assert (proof.device, proof.is_proven) == ("fence", True)


def test_a_device_of_another_kind_that_may_have_done_it_is_told() -> None:
    world = World()
    other_kind(world)
    found = fence(world)
    assert verdict.faults(found) == ()
    assert "device second (fence_ipmilan) may have fenced it" in verdict.notes(found)[0]
    assert verdict.as_dict(found)["other_means"] == ["device second (fence_ipmilan)"]
    assert verdict.as_dict(fence(World()))["other_means"] == []


def test_our_device_that_this_node_may_not_use_is_watched_too() -> None:
    world = World()
    world.cib, world.devices = replace(CIB, bans={"fence": frozenset({"n1"})}), ()
    assert hold(world).is_proven


@pytest.mark.parametrize(
    ("delegate", "fault"),
    [("a human", "confirmed by hand that n2 is down"), ("n2", "n2 itself reported it"), ("", "")],
)
def test_who_carried_it_out_is_judged(delegate: str, fault: str) -> None:
    world = World()
    tell = world._tell

    def by(node: str, action: str) -> None:
        tell(node, action)
        world.events[0] = replace(world.events[0], delegate=delegate)

    world._tell = by  # type: ignore[method-assign]
    told = faults(world)
    assert fault in told and bool(told) is bool(fault)


def test_trouble_with_this_machine_in_the_middle_is_a_fault_and_the_guest_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guest is off already when the descriptors, or the memory, run out."""
    world = World()
    start = world.start

    @contextmanager
    def fail(argv: list[str], log_path: str, environment: Mapping[str, str] | None) -> Iterator[Command]:
        with start(argv, log_path, environment) as command:
            if argv[0] == "pcs":
                world.sleep(1.0)
                raise OSError(24, "Too many open files")
            yield command

    monkeypatch.setattr(world, "start", fail)
    proof = hold(world, prove.OFF)
    assert "cannot run pcs. Too many open files" in proof.reason
    assert world.power["lab-n2"] is RUNNING


def test_a_folder_for_temporary_files_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    assert hold(World()).is_proven


def test_a_result_is_fit_for_json() -> None:
    shown = verdict.as_dict(fence(World()))
    assert (shown["node"], shown["is_proven"], shown["guest"]["before"]) == ("n2", True, "running")
    assert [each["seen"] for each in shown["guest"]["seen"]] == ["running", "off", "running"]


# How a node is fenced


def test_a_remedy_names_the_port_of_the_device_and_not_one_of_the_moment() -> None:
    world = World()
    world.power["lab-n2"] = SILENT
    with pytest.raises(VmfenceError) as caught:
        prepare(world)
    assert caught.value.remedy == "see why nobody answers by multicast default group port 1229: vmfence guest check"


def test_node_names_are_found_in_any_case() -> None:
    target = targets.locate("N2", CIB, World()).targets[0]
    assert target == Target("n2", "lab-n2", "fence", "fence_vmfence", Inquiry())


def test_a_device_that_leaves_nodes_off_is_known() -> None:
    cib = replace(CIB, devices=(replace(DEVICE, options={**DEVICE.options, "pcmk_reboot_action": "off"}),))
    assert [targets.locate("n2", each, World()).stays_off for each in (CIB, cib)] == [False, True]


def test_an_unknown_node_is_a_mistake_of_usage() -> None:
    with pytest.raises(UsageError, match="no node 'n7'") as caught:
        targets.locate("n7", CIB, World())
    assert caught.value.remedy == "its nodes are: n1, n2, n3"


@pytest.mark.parametrize("change", [{"agent": "fence_ipmilan"}, {"id": "other"}])
def test_a_node_that_no_device_of_ours_fences(change: dict[str, str]) -> None:
    cib = replace(CIB, devices=(replace(DEVICE, **change),))  # type: ignore[arg-type]
    with pytest.raises(VmfenceError, match="no device whose host can be asked") as caught:
        targets.locate("n2", cib, World())
    assert "add-device" in caught.value.remedy


def test_levels_decide_the_order() -> None:
    second = replace(DEVICE, id="second")
    world = World()
    world.devices = ("fence", "second")
    for level in (Level(1, "node", "N2", ("second",)), Level(1, "pattern", "n.*", ("second",))):
        cib = replace(CIB, devices=(DEVICE, second), levels=(Level(2, level.kind, level.target, ("fence",)), level))
        assert [target.device for target in targets.locate("n2", cib, world).targets] == ["second", "fence"]


def test_of_several_devices_the_one_whose_host_shows_the_guest() -> None:
    world = World()
    world.devices = ("fence", "second")
    world.power["elsewhere"] = ABSENT
    first = replace(DEVICE, options={"pcmk_host_map": "n2:elsewhere"})
    cib = replace(CIB, devices=(first, replace(DEVICE, id="second")))
    (watched,) = targets.look_at(targets.locate("n2", cib, world), world.means()).watched
    assert (watched.target.device, watched.look) == ("second", RUNNING)


def test_a_firewall_that_admits_one_port_alone_is_told() -> None:
    world = World()
    asked: list[int | None] = []

    def look(inquiry: Inquiry, guest: str) -> Look:
        asked.append(inquiry.callback_port)
        return SILENT if inquiry.callback_port == 0 else RUNNING

    means = replace(world.means(), look=look)
    (watched,) = targets.survey("n2", means).watched
    assert watched.look.sight is Sight.SILENT
    assert "TCP 1229 alone" in watched.look.detail
    assert asked == [0, None]


# Looking


@pytest.mark.parametrize(
    ("states", "sight"),
    [
        ([State.RUNNING], Sight.RUNNING),
        ([State.BLOCKED], Sight.RUNNING),
        ([State.SHUT_OFF], Sight.OFF),
        ([State.CRASHED], Sight.OFF),
        ([State.PAUSED], Sight.HALTED),
        ([State.SHUTTING_DOWN], Sight.HALTED),
        ([State.SUSPENDED], Sight.HALTED),
        ([State.NONE], Sight.UNCLEAR),
        ([99], Sight.UNCLEAR),
        ([State.RUNNING, State.SHUT_OFF], Sight.UNCLEAR),
        ([], Sight.ABSENT),
    ],
)
def test_what_a_state_shows(states: list[int], sight: Sight) -> None:
    others = [Record("other", "00000000-0000-4000-8000-000000000001", State.SHUT_OFF)]
    records = others + [Record("mine", "00000000-0000-4000-8000-00000000000A", state) for state in states]
    for name in ("mine", "00000000-0000-4000-8000-00000000000a"):
        assert watch.look(Inquiry(), name, lambda _: records).sight is sight


def test_a_host_that_fails_is_silent_and_says_why() -> None:
    def fail(_: Inquiry) -> list[Record]:
        raise DeadlineExceeded("no host answered", "", "look there")

    assert watch.look(Inquiry(), "mine", fail) == Look(Sight.SILENT, "no host answered")


def test_a_watcher_leaves_the_agents_port_alone() -> None:
    assert watch.unobtrusive(Inquiry(timeout_s=30)).callback_port == 0


def test_a_gap_is_the_time_without_an_answer_that_shows_the_guest() -> None:
    course = Course()
    for at_s, seen in ((0.1, RUNNING), (0.5, SILENT), (2.0, ABSENT), (4.0, RUNNING), (4.1, RUNNING)):
        course.add(at_s, seen)
    assert course.gap_s == pytest.approx(3.9)
    assert course.off_s is course.back_s is None


# Votes

QUORUMTOOL = """Quorum information
------------------
Date:             Sun Nov 22 14:52:27 2026
Quorum provider:  corosync_votequorum
Nodes:            2
Node ID:          1
Ring ID:          1.9
Quorate:          Yes

Votequorum information
----------------------
Expected votes:   3
Highest expected: 3
Total votes:      3
Quorum:           2  {blocked}
Flags:            Quorate Qdevice

Membership information
----------------------
    Nodeid      Votes    Qdevice Name
         1          1    A,V,NMW 10.88.0.11 (local)
0x00000002          1    A,V,NMW 10.88.0.12
         0          1            Qdevice
"""


def test_votes_are_read_with_those_of_a_quorum_device() -> None:
    found = votes.parse(QUORUMTOOL)
    assert found == Votes(2, 3, {1: 1, 2: 1, 0: 1}, True)
    assert found.without(2) == 2
    assert votes.parse(QUORUMTOOL.replace("{blocked}", "Activity blocked").replace("Yes", "No")).is_quorate is False


def test_cut_or_foreign_text_is_no_vote() -> None:
    for length in range(0, QUORUMTOOL.index("0x00000002") - 60, 7):
        with pytest.raises(VmfenceError, match="cannot tell the votes"):
            votes.parse(QUORUMTOOL[:length])


def test_corosync_that_does_not_run_is_told() -> None:
    def run(argv: list[str], timeout_s: float, environment: Mapping[str, str]) -> Result:
        return Result(tuple(argv), 1, "", "Cannot initialize CMAP service\n")

    with pytest.raises(ClusterUnreachable, match="Cannot initialize CMAP service") as caught:
        votes.load(run)
    assert caught.value.exit_code == 4


# Whether a rehearsal may begin


def prepare(world: World, node: str = "n2", found: Votes | None = THREE_VOTES) -> Survey:
    world.votes = found
    return prove.prepare(node, world.means())


def test_a_healthy_cluster_is_ready() -> None:
    (seen,) = prepare(World()).sightings
    assert (seen.target.guest, seen.look) == ("lab-n2", RUNNING)


def unwell(name: str, **condition: bool) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.nodes[name] = replace(world.nodes[name], **condition)  # type: ignore[arg-type]

    return change


def pending_elsewhere(world: World) -> None:
    world.events = [FencingEvent("pending", "reboot", "n3", "pcs", "n3")]


def silent_host(world: World) -> None:
    world.power["lab-n2"] = SILENT


def guest_off(world: World) -> None:
    world.power["lab-n2"] = IS_OFF


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (unwell("n2", is_online=False), "n2 cannot be rehearsed now. it is not well: offline"),
        (unwell("n2", is_pending=True), "it is not well: online, pending"),
        (unwell("n2", is_maintenance=True), "it is not well: online, in maintenance"),
        (unwell("n3", is_unclean=True), "n3 is not well: online, unclean"),
        (pending_elsewhere, "a fencing of n3 is under way"),
        (silent_host, "its guest lab-n2 is not seen running at the host: no host answered"),
        (guest_off, "its guest lab-n2 is not seen running at the host: shut off"),
    ],
)
def test_nothing_is_rehearsed_while_anything_is_wrong(change: Callable[[World], None], reason: str) -> None:
    world = World()
    change(world)
    with pytest.raises(VmfenceError) as caught:
        prepare(world)
    assert reason in str(caught.value)
    assert world.commands == []


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Votes(2, 2, {2: 1, 1: 1}, True), "the rest has 1 of 2 votes and needs 2"),
        (Votes(2, 3, {1: 1, 3: 1}, True), "corosync does not list it"),
    ],
)
def test_the_rest_must_keep_quorum(found: Votes, reason: str) -> None:
    with pytest.raises(VmfenceError, match=reason):
        prepare(World(), found=found)


def test_two_nodes_with_the_two_node_rule_may_be_rehearsed() -> None:
    assert prepare(World(), found=Votes(1, 2, {1: 1, 2: 1}, True))


def test_votes_that_are_not_known_are_an_obstacle() -> None:
    with pytest.raises(VmfenceError, match="votes of the rest are not known: corosync does not answer"):
        prepare(World(), found=None)


def test_this_node_is_refused_with_the_reason() -> None:
    with pytest.raises(VmfenceError, match="it is this node: run this on another one"):
        prepare(World(), "n1")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"with_quorum": False}, "the cluster has no quorum"),
        ({"with_quorum": None}, "the cluster has no quorum"),
        ({"is_fencing_enabled": False}, "fencing is disabled"),
        ({"nodes": ()}, "crm_mon does not show it"),
    ],
)
def test_obstacles_of_the_whole_cluster(status: dict[str, object], reason: str) -> None:
    whole = World().load_status()
    now = prove.Situation("n2", "n1", 2, replace(whole, **status), (), THREE_VOTES)  # type: ignore[arg-type]
    assert reason in "; ".join(prove.obstacles(now))


def test_a_remote_node_has_no_votes_to_lose() -> None:
    world = World()
    world.nodes["n2"] = replace(world.nodes["n2"], is_remote=True)
    assert prepare(world, found=Votes(2, 2, {1: 1, 3: 1}, True))


def test_a_cluster_that_settles_is_waited_for() -> None:
    world = World()
    before = prepare(world)
    unwell("n3", is_pending=True)(world)
    world._after(10.0, lambda: unwell("n3", is_pending=False)(world))
    prove.prepare_again(before, world.means(), 60.0)
    unwell("n3", is_pending=True)(world)
    with pytest.raises(VmfenceError, match="n3 is not well"):
        prove.prepare_again(before, world.means(), 60.0)


def gone_off(world: World) -> None:
    world.power["lab-n2"] = IS_OFF


def lost_votes(world: World) -> None:
    world.votes = Votes(2, 2, {1: 1, 2: 1}, True)


def other_guest(world: World) -> None:
    world.cib = replace(CIB, devices=(replace(DEVICE, options={"pcmk_host_map": "n2:lab-n3"}),))


def same_name_elsewhere(world: World) -> None:
    world.uuids["lab-n2"] = "another"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (gone_off, "its guest lab-n2 is not seen running at the host: shut off"),
        (lost_votes, "needs 2 for quorum"),
        (other_guest, "have changed meanwhile: fence: guest lab-n2 .*; now fence: guest lab-n3"),
        (same_name_elsewhere, "have changed meanwhile"),
    ],
)
def test_what_changes_at_the_question_is_noticed(change: Callable[[World], None], reason: str) -> None:
    world = World()
    before = prepare(world)
    change(world)
    with pytest.raises(VmfenceError, match=reason):
        prove.prepare_again(before, world.means())


def test_a_guest_that_goes_off_at_the_last_moment_is_not_rehearsed() -> None:
    world = World()
    rehearsal = Rehearsal(prepare(world), prove.REBOOT, world.means(), lambda _: None)
    gone_off(world)
    with pytest.raises(VmfenceError, match="n2 was not fenced. its guest lab-n2 is shut off by now"):
        rehearsal.begin()
    assert world.commands == []


# Rehearsals


def hold(world: World, method: str = prove.REBOOT, back_timeout_s: float = 600.0) -> Proof:
    rehearsal = begin(world, method, back_timeout_s)
    return rehearsal.hold()


def begin(world: World, method: str = prove.REBOOT, back_timeout_s: float = 600.0) -> Rehearsal:
    rehearsal = Rehearsal(prepare(world), method, world.means(), lambda _: None, back_timeout_s)
    rehearsal.begin()
    return rehearsal


@pytest.mark.parametrize("method", [prove.REBOOT, prove.OFF])
def test_a_rehearsal_that_works(method: str) -> None:
    world = World()
    proof = hold(world, method)
    assert proof.is_proven, proof.reason
    assert (proof.node, proof.method, proof.guest, proof.device, proof.delegate) == (
        "n2",
        method,
        "lab-n2",
        "fence",
        "n3",
    )
    assert proof.down_s is not None
    assert proof.fence_s is not None
    assert proof.back_s is not None
    assert 0 < proof.down_s < proof.fence_s < proof.back_s
    assert world.nodes["n2"].is_online
    assert world.power["lab-n2"] is RUNNING


def test_powering_off_starts_the_node_again_only_after_it_has_left() -> None:
    world = World()
    switch_off = world._switch_off

    def off_and_noticed_late(node: str) -> None:
        switch_off(node)
        world.nodes[node] = NodeStatus(node, is_online=True)
        world._after(10.0, lambda: world.nodes.update({node: NodeStatus(node)}))

    world._switch_off = off_and_noticed_late  # type: ignore[method-assign]
    assert hold(world, prove.OFF).is_proven
    assert world.commands[1] == ["stonith_admin", "--unfence=n2"]
    assert world.began > 100 + 10


@pytest.mark.parametrize(
    ("nature", "reason"),
    [
        (Nature(off_s=None), "not seen off at the host"),
        (Nature(status=1), "the cluster's command failed"),
        (Nature(event="failed"), "history calls it failed"),
        (Nature(on_s=None), "not seen running again"),
        (Nature(back_s=None), r"did not come back into the cluster in 600 s \(offline\): .*pcs cluster enable n2"),
    ],
)
def test_a_rehearsal_that_fails_says_why(nature: Nature, reason: str) -> None:
    proof = hold(World(nature))
    assert not proof.is_proven
    assert proof.back_s is None
    assert re.search(reason, proof.reason)


def test_a_reboot_that_nobody_saw_is_told_from_one_that_failed() -> None:
    for nature, is_unseen in ((Nature(blind=(0.4, 2.5)), True), (Nature(off_s=None, event="failed"), False)):
        world = World(nature)
        rehearsal = begin(world)
        assert not rehearsal.hold().is_proven
        assert rehearsal.is_unseen is is_unseen


def test_a_node_that_never_left_the_cluster_is_not_proven() -> None:
    world = World()
    switch_off = world._switch_off

    def off_unnoticed(node: str) -> None:
        switch_off(node)
        world.nodes[node] = NodeStatus(node, is_online=True)

    world._switch_off = off_unnoticed  # type: ignore[method-assign]
    assert "not seen to leave the cluster: online" in hold(world).reason


def test_a_node_too_fast_for_crm_mon_is_known_by_its_new_join() -> None:
    world = World()
    switch_off = world._switch_off

    def off_and_at_once_back(node: str) -> None:
        switch_off(node)
        world.nodes[node] = NodeStatus(node, is_online=True)
        world._after(1.5, lambda: world.joins.update({2: 2}))

    world._switch_off = off_and_at_once_back  # type: ignore[method-assign]
    assert hold(world).is_proven


def test_joins_that_are_not_known_leave_it_to_crm_mon() -> None:
    world = World()
    world.joins = {}
    assert hold(world).is_proven


def test_joins_are_read_under_both_names() -> None:
    new = "runtime.members.2.ip (str) = r(0)\nruntime.members.2.join_count (u32) = 3\n"
    old = (
        "runtime.totem.pg.mrp.srp.members.1.join_count (u32) = 1\nruntime.totem.pg.mrp.srp.members.1.status (str) = j\n"
    )
    assert votes.parse_joins(new + old) == {2: 3, 1: 1}
    assert votes.parse_joins("") == {}


def test_a_node_on_its_way_in_has_left_before() -> None:
    world = World()
    switch_off = world._switch_off

    def off_and_fast(node: str) -> None:
        switch_off(node)
        world.nodes[node] = NodeStatus(node, is_online=True, is_pending=True)

    world._switch_off = off_and_fast  # type: ignore[method-assign]
    assert hold(world).is_proven


def test_a_node_that_is_back_before_the_command_ends() -> None:
    assert hold(World(Nature(back_s=0.6, ends_s=4.0))).is_proven


def test_a_guest_is_started_again_even_if_its_fencing_failed() -> None:
    world = World(Nature(event="failed"))
    proof = hold(world, prove.OFF)
    assert not proof.is_proven
    assert world.power["lab-n2"] is RUNNING


def test_a_guest_that_cannot_be_started_again_is_told_with_the_command() -> None:
    proof = hold(World(Nature(unfence_status=1)), prove.OFF)
    assert not proof.is_proven
    assert "could not be started again" in proof.reason
    assert "virsh start lab-n2" in proof.reason


def test_a_guest_that_runs_is_not_started() -> None:
    world = World(Nature(off_s=None))
    assert not hold(world, prove.OFF).is_proven
    assert len(world.commands) == 1


def test_what_was_seen_before_an_interruption_is_kept_as_a_failure() -> None:
    world = World()
    rehearsal = begin(world)

    def interrupt() -> None:
        raise KeyboardInterrupt

    world._after(0.8, interrupt)
    with pytest.raises(KeyboardInterrupt):
        rehearsal.hold()
    proof = rehearsal.proof()
    assert (proof.is_proven, proof.reason) == (False, "interrupted; if it is off, start it: stonith_admin --unfence=n2")
    assert proof.down_s == pytest.approx(0.5, abs=0.1)


def test_no_file_is_left_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert hold(World()).is_proven
    assert list(tmp_path.iterdir()) == []
