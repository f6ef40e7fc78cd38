"""Carry out a plan through pcs, read the CIB back, wait until the device is started.

Success is what was read back, not what pcs said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Callable

from vmfence import proc
from vmfence.cluster.cib import Cib
from vmfence.cluster.device import Plan, Step, compare
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs, Run
from vmfence.cluster.properties import effective
from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.findings import command_line

POLL_S = 0.5
_AT_REST_S = 3.0  # at rest nothing is to come; crm_mon may be a moment behind
_LATE_S = 5.0  # crm_resource ends by itself, but looks at its clock only every few seconds


class Unfinished(VmfenceError):
    """A step failed: the text says which, why, what was done before, what was not, and what the CIB shows now."""

    def __init__(self, failed: Step, cause: VmfenceError, done: Sequence[Step], left: Sequence[Step], now: str) -> None:
        self.failed, self.cause, self.done, self.left = failed, cause, tuple(done), tuple(left)
        self.exit_code = cause.exit_code
        story = [str(cause).rstrip(".")]
        story += [f"done before: {_named(done)}"] if done else ["nothing was done before it"]
        story += [f"not done: {_named(left)}"] if left else []
        super().__init__(f"could not {failed.what}", f"{'. '.join(story)}. {now}")


def carry_out(
    steps: Sequence[Step], pcs: Pcs, read_back: Callable[[], str], announce: Callable[[str], None] = lambda _: None
) -> None:
    """Run *steps* in turn, each of them announced.

    *read_back* says what is there now, for the error.  Raises Unfinished at the first that fails.
    """
    for index, step in enumerate(steps):
        announce(step.what)
        try:
            pcs.run(step.argv)
        except VmfenceError as error:
            raise Unfinished(step, error, steps[:index], steps[index + 1 :], read_back()) from error


def has_changed(plan: Plan, before: Cib, pacemaker: Pacemaker) -> bool | None:
    """Whether the CIB is another one than *before*, in what *plan* is about; None when it cannot be read."""
    try:
        now = pacemaker.load_cib()
    except VmfenceError:
        return None
    return now.device(plan.device.id) != plan.existing or now.properties != before.properties


def describe_now(plan: Plan, pacemaker: Pacemaker) -> str:
    """Return what the CIB shows of *plan* now, as a sentence; never raises for a CIB that cannot be read."""
    try:
        faults = faults_of(plan, pacemaker.load_cib(), pacemaker.version())
    except VmfenceError as error:
        return f"What is there now is unknown: {str(error).rstrip('.')}"
    return f"The CIB shows now: {'; '.join(faults)}" if faults else "The CIB shows all as wanted all the same"


def verify(plan: Plan, pacemaker: Pacemaker) -> None:
    """Read the CIB back.  Raises VmfenceError when device or properties are not as planned."""
    faults = faults_of(plan, pacemaker.load_cib(), pacemaker.version())
    if faults:
        remedy = f"look at it with: vmfence cluster devices; try again, or remove it: {_removal(plan)}"
        raise VmfenceError(
            f"the cluster has not taken the device {plan.device.id} as planned", "; ".join(faults), remedy
        )


def faults_of(plan: Plan, cib: Cib, version: tuple[int, ...]) -> list[str]:
    """Return what *cib* has not as *plan* wants it."""
    found = cib.device(plan.device.id)
    if found is None:
        faults = [f"there is no device {plan.device.id}"]
    elif found.agent != plan.device.agent:
        faults = [f"the device {found.id} has the agent {found.agent!r}"]
    else:
        differences = compare(plan.device, found, version)
        faults = [f"{one.name} is {one.found!r}, not {one.wanted!r}" for one in differences]
    for name, wanted in plan.properties.items():
        value = effective(cib, version, name).value
        faults += [] if value == wanted else [f"the property {name} is {value!r}, not {wanted!r}"]
    return faults


def await_start(plan: Plan, pacemaker: Pacemaker, timeout_s: float, run: Run = proc.run) -> tuple[str, ...]:
    """Return the nodes on which the device of *plan*, just applied, runs.

    Raises VmfenceError when it does not start, DeadlineExceeded when the cluster is still busy after *timeout_s*.
    """
    is_at_rest = settle(timeout_s, run)
    if plan.existing and not is_at_rest:
        why, remedy = "the device is as planned in the CIB, and may be about to restart", "see: vmfence cluster check"
        raise DeadlineExceeded(f"the cluster is not at rest after {timeout_s:g} s", why, remedy)
    return wait_started(plan.device.id, pacemaker, _AT_REST_S if is_at_rest else timeout_s)


def settle(timeout_s: float, run: Run = proc.run) -> bool:
    """Wait until the cluster has nothing left to do, and return whether that came within *timeout_s*.

    After a change a device counts as started until the cluster has restarted it: what it says before tells nothing.
    """
    argv = ["crm_resource", "--wait", f"--timeout={math.ceil(timeout_s)}s"]
    try:
        return run(argv, timeout_s + _LATE_S, {"PATH": proc.system_path()}).status == 0
    except DeadlineExceeded:
        return False


def wait_started(
    device: str,
    pacemaker: Pacemaker,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, ...]:
    """Return the nodes on which *device* runs, once it does.

    Raises VmfenceError after *timeout_s*, with what the cluster says of it; and what Pacemaker.load_status raises.
    """
    end = clock() + timeout_s
    while True:
        found = next((one for one in pacemaker.load_status().devices if one.id == device), None)
        if found is not None and found.is_started:
            return found.nodes
        if clock() >= end:
            state = "the cluster does not show it" if found is None else f"its role is {found.role}"
            failed = ", and its last action failed" if found is not None and found.is_failed else ""
            what = f"the device {device} is in the CIB as planned, but not started"
            raise VmfenceError(what, state + failed, "see why with: vmfence cluster check, and crm_mon -1 -r")
        sleep(POLL_S)


def _named(steps: Sequence[Step]) -> str:
    return ", ".join(step.what for step in steps)


def _removal(plan: Plan) -> str:
    return command_line(["vmfence", "cluster", "remove-device", plan.device.id])
