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

from vmfence.cluster import fencing, prove, votes, watch
from vmfence.cluster.cib import Cib, Device, Level, Node
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.fencing import Attempt, Fencing, Means, Target
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.proofs import Proof
from vmfence.cluster.prove import Ready, Rehearsal
from vmfence.cluster.status import NodeStatus, Status
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
        return self.power[guest]

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
            event = FencingEvent(self.nature.event, action, node, "pcs", "n1", "n3", at, self.nature.reason)
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
    target, before = fencing.first_shown(fencing.locate("n2", world.cib, world), means)
    attempt = Attempt(target, is_off, before, means)
    attempt.run(timeout_s)
    if not is_off:
        attempt.await_start()
    return attempt.result()


def faults(world: World, is_off: bool = False) -> str:
    return "; ".join(fencing.faults(fence(world, is_off)))


# One fencing


def test_a_reboot_that_cluster_and_host_saw() -> None:
    world = World()
    found = fence(world)
    assert fencing.faults(found) == fencing.notes(found) == ()
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
    assert fencing.faults(found) == ()
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
    assert fencing.faults(found)
    assert "seen off all the same" in fencing.notes(found)[0]


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
    found = fence(world, is_off=True)
    assert fencing.faults(found) == ()
    assert "was off already" in fencing.notes(found)[0]


def test_a_result_is_fit_for_json() -> None:
    shown = fencing.as_dict(fence(World()))
    assert (shown["node"], shown["is_proven"], shown["guest"]["before"]) == ("n2", True, "running")
    assert [each["seen"] for each in shown["guest"]["seen"]] == ["running", "off", "running"]


# How a node is fenced


def test_node_names_are_found_in_any_case() -> None:
    target = fencing.locate("N2", CIB, World())[0]
    assert target == Target("n2", "lab-n2", "fence", "fence_vmfence", Inquiry())


def test_a_device_that_leaves_nodes_off_is_known() -> None:
    cib = replace(CIB, devices=(replace(DEVICE, options={**DEVICE.options, "pcmk_reboot_action": "off"}),))
    assert [fencing.locate("n2", each, World())[0].stays_off for each in (CIB, cib)] == [False, True]


def test_an_unknown_node_is_a_mistake_of_usage() -> None:
    with pytest.raises(UsageError, match="no node 'n7'") as caught:
        fencing.locate("n7", CIB, World())
    assert caught.value.remedy == "its nodes are: n1, n2, n3"


@pytest.mark.parametrize("change", [{"agent": "fence_ipmilan"}, {"id": "other"}])
def test_a_node_that_no_device_of_ours_fences(change: dict[str, str]) -> None:
    cib = replace(CIB, devices=(replace(DEVICE, **change),))  # type: ignore[arg-type]
    with pytest.raises(VmfenceError, match="no device whose host can be asked") as caught:
        fencing.locate("n2", cib, World())
    assert "add-device" in caught.value.remedy


def test_levels_decide_the_order() -> None:
    second = replace(DEVICE, id="second")
    world = World()
    world.devices = ("fence", "second")
    for level in (Level(1, "node", "N2", ("second",)), Level(1, "pattern", "n.*", ("second",))):
        cib = replace(CIB, devices=(DEVICE, second), levels=(Level(2, level.kind, level.target, ("fence",)), level))
        assert [target.device for target in fencing.locate("n2", cib, world)] == ["second", "fence"]


def test_of_several_devices_the_one_whose_host_shows_the_guest() -> None:
    world = World()
    world.devices = ("fence", "second")
    world.power["elsewhere"] = ABSENT
    first = replace(DEVICE, options={"pcmk_host_map": "n2:elsewhere"})
    cib = replace(CIB, devices=(first, replace(DEVICE, id="second")))
    target, shown = fencing.first_shown(fencing.locate("n2", cib, world), world.means())
    assert (target.device, shown) == ("second", RUNNING)


def test_a_firewall_that_admits_one_port_alone_is_told() -> None:
    world = World()
    asked: list[int | None] = []

    def look(inquiry: Inquiry, guest: str) -> Look:
        asked.append(inquiry.callback_port)
        return SILENT if inquiry.callback_port == 0 else RUNNING

    means = replace(world.means(), look=look)
    _, shown = fencing.first_shown(fencing.locate("n2", CIB, world), means)
    assert shown.sight is Sight.SILENT
    assert "TCP 1229 alone" in shown.detail
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

    assert watch.look(Inquiry(), "mine", fail) == Look(Sight.SILENT, "no host answered. look there")


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


def prepare(world: World, node: str = "n2", found: Votes | None = THREE_VOTES) -> Ready:
    world.votes = found
    return prove.prepare(node, world.means())


def test_a_healthy_cluster_is_ready() -> None:
    ready = prepare(World())
    assert (ready.target.guest, ready.before) == ("lab-n2", RUNNING)


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
    now = prove.Situation("n2", "n1", CIB, replace(whole, **status), (), THREE_VOTES)  # type: ignore[arg-type]
    assert reason in "; ".join(prove.obstacles(now))


def test_a_remote_node_has_no_votes_to_lose() -> None:
    world = World()
    world.nodes["n2"] = replace(world.nodes["n2"], is_remote=True)
    assert prepare(world, found=Votes(2, 2, {1: 1, 3: 1}, True))


def test_a_cluster_that_settles_is_waited_for() -> None:
    world = World()
    unwell("n3", is_pending=True)(world)
    world._after(10.0, lambda: unwell("n3", is_pending=False)(world))
    prove.prepare_again("n2", world.means())
    unwell("n3", is_pending=True)(world)
    with pytest.raises(VmfenceError, match="n3 is not well"):
        prove.prepare_again("n2", world.means())


# Rehearsals


def hold(world: World, method: str = prove.REBOOT, back_timeout_s: float = 600.0) -> Proof:
    return Rehearsal(prepare(world), method, world.means(), lambda _: None, back_timeout_s).hold()


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
        rehearsal = Rehearsal(prepare(world), prove.REBOOT, world.means(), lambda _: None)
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
    rehearsal = Rehearsal(prepare(world), prove.REBOOT, world.means(), lambda _: None)

    def interrupt() -> None:
        raise KeyboardInterrupt

    world._after(0.8, interrupt)
    with pytest.raises(KeyboardInterrupt):
        rehearsal.hold()
    proof = rehearsal.proof()
    assert (proof.is_proven, proof.reason) == (False, "interrupted")
    assert proof.down_s == pytest.approx(0.5, abs=0.1)


def test_no_file_is_left_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert hold(World()).is_proven
    assert list(tmp_path.iterdir()) == []
