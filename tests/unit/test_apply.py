"""Carrying out a plan: what is said when pcs fails in the middle, reading back, waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from unit.test_device_plan import V21, cib, planned
from unit.test_pcs import V011, Program
from vmfence.cluster.apply import Unfinished, await_start, carry_out, describe_now, verify, wait_started
from vmfence.cluster.cib import Cib
from vmfence.cluster.device import Spec
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.status import DeviceStatus, Status
from vmfence.errors import ClusterUnreachable, CommandError, DeadlineExceeded, VmfenceError
from vmfence.proc import Result

PLAN = planned(Spec("f", options={"timeout": "90"}))
APPLIED = cib(PLAN.device, stonith_timeout="100s")


class Cluster:
    """Stands for Pacemaker: a CIB, and what crm_mon says from one question to the next."""

    def __init__(self, found: Cib | VmfenceError = APPLIED, states: Sequence[DeviceStatus | None] = ()) -> None:
        self._found, self._states = found, list(states)

    def load_cib(self) -> Cib:
        if isinstance(self._found, VmfenceError):
            raise self._found
        return self._found

    def version(self) -> tuple[int, ...]:
        return V21

    def load_status(self) -> Status:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return Status((), () if state is None else (state,))


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FailsAt(Program):
    """Stands for a pcs that fails at one of its calls."""

    def __init__(self, call: int, error: VmfenceError | None = None) -> None:
        super().__init__()
        self._call, self._failure = call, error

    def __call__(self, argv, timeout_s, environment) -> Result:  # type: ignore[no-untyped-def]
        result = super().__call__(argv, timeout_s, environment)
        if len(self.seen) == self._call:
            if self._failure is not None:
                raise self._failure
            return replace(result, status=1, stderr="Error: no\n")
        return result


def test_steps_run_in_order_and_are_announced() -> None:
    program, said = Program(), []
    carry_out(PLAN.steps, Pcs(V011, run=program), lambda: "", said.append)
    assert program.seen == [step.argv for step in PLAN.steps]
    assert said == ["raise the cluster's timeout", "create the device f"]


def test_failure_at_the_second_step_tells_what_was_done() -> None:
    with pytest.raises(Unfinished) as caught:
        carry_out(PLAN.steps, Pcs(V011, run=FailsAt(2)), lambda: "The CIB shows now: nothing")
    assert str(caught.value) == (
        "could not create the device f. pcs failed with exit code 1. Error: no. "
        "done before: raise the cluster's timeout. The CIB shows now: nothing."
    )


def test_failure_at_the_first_step_tells_what_was_not_done() -> None:
    program = FailsAt(1, DeadlineExceeded("pcs did not end within 180 s"))
    with pytest.raises(Unfinished) as caught:
        carry_out(PLAN.steps, Pcs(V011, run=program), lambda: "now")
    assert "nothing was done before it. not done: create the device f. now" in str(caught.value)
    assert (caught.value.exit_code, len(program.seen)) == (DeadlineExceeded.exit_code, 1)


def test_what_is_there_after_a_failure() -> None:
    def now(found: Cib | VmfenceError) -> str:
        return describe_now(PLAN, Cluster(found))  # type: ignore[arg-type]

    assert now(APPLIED) == "The CIB shows all as wanted all the same"
    assert now(cib(stonith_timeout="100s")) == "The CIB shows now: there is no device f"
    assert now(ClusterUnreachable("it is gone")) == "What is there now is unknown: it is gone"


def test_reading_back() -> None:
    verify(PLAN, Cluster())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (cib(stonith_timeout="100s"), "there is no device f"),
        (cib(PLAN.device), "the property stonith-timeout is '60s', not '100s'"),
        (cib(replace(PLAN.device, agent="fence_x"), stonith_timeout="100s"), "has the agent 'fence_x'"),
        (cib(replace(PLAN.device, options={}), stonith_timeout="100s"), "timeout is '', not '90'"),
        (cib(replace(PLAN.device, operations=()), stonith_timeout="100s"), "monitor timeout is '', not '105s'"),
    ],
)
def test_success_of_pcs_is_not_believed(found: Cib, words: str) -> None:
    with pytest.raises(VmfenceError, match="has not taken the device f as planned") as caught:
        verify(PLAN, Cluster(found))  # type: ignore[arg-type]
    assert words in str(caught.value)


STARTING = DeviceStatus("f", "fence_vmfence", "Stopped")
STARTED = DeviceStatus("f", "fence_vmfence", "Started", is_active=True, nodes=("n2",))


def test_waits_until_it_is_started() -> None:
    clock = Clock()
    cluster = Cluster(states=[None, STARTING, STARTED])
    assert wait_started("f", cluster, 60, clock, clock.sleep) == ("n2",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "the cluster does not show it"),
        (STARTING, "its role is Stopped"),
        (replace(STARTED, is_failed=True), "its role is Started, and its last action failed"),
    ],
)
def test_does_not_wait_for_ever(state: DeviceStatus | None, words: str) -> None:
    clock = Clock()
    with pytest.raises(VmfenceError) as caught:
        wait_started("f", Cluster(states=[state]), 60, clock, clock.sleep)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert 60 <= clock.now < 62


def test_a_changed_device_counts_as_started_only_when_the_cluster_is_at_rest() -> None:
    """Until it is restarted the cluster shows the device as it was before the change."""
    changed = replace(PLAN, existing=PLAN.device)
    cluster = Cluster(states=[STARTED])
    assert await_start(changed, cluster, 60, Program(0)) == ("n2",)  # type: ignore[arg-type]
    for busy in (Program(124), Program(error=DeadlineExceeded("crm_resource did not end within 65 s"))):
        with pytest.raises(DeadlineExceeded, match="the cluster is not at rest after 60 s"):
            await_start(changed, cluster, 60, busy)  # type: ignore[arg-type]


def test_a_new_device_may_start_while_the_cluster_is_busy() -> None:
    program = Program(124)
    assert await_start(PLAN, Cluster(states=[STARTED]), 60, program) == ("n2",)  # type: ignore[arg-type]
    assert program.seen == [["crm_resource", "--wait", "--timeout=60s"]]


def test_the_cause_is_kept() -> None:
    with pytest.raises(Unfinished) as caught:
        carry_out(PLAN.steps, Pcs(V011, run=FailsAt(1)), lambda: "")
    assert isinstance(caught.value.__cause__, CommandError)
