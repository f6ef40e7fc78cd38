"""Carry out a plan through pcs, read the CIB back, wait until the device is started.

Success is what was read back, not what pcs said.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable

from vmfence.cluster.cib import Cib
from vmfence.cluster.device import Plan, Step, compare
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs, command_line
from vmfence.cluster.properties import effective
from vmfence.errors import DeadlineExceeded, VmfenceError

POLL_S = 0.5


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


def wait_started(
    device: str,
    pacemaker: Pacemaker,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, ...]:
    """Return the nodes on which *device* runs, once it does.

    Raises DeadlineExceeded after *timeout_s*, with what the cluster says of it; and what Pacemaker.load_status raises.
    """
    end = clock() + timeout_s
    while True:
        found = next((one for one in pacemaker.load_status().devices if one.id == device), None)
        if found is not None and found.is_started:
            return found.nodes
        if clock() >= end:
            state = "the cluster does not show it" if found is None else f"its role is {found.role}"
            failed = ", and its last action failed" if found is not None and found.is_failed else ""
            remedy = "see why with: vmfence cluster check"
            raise DeadlineExceeded(f"the device {device} is not started after {timeout_s:g} s", state + failed, remedy)
        sleep(POLL_S)


def _named(steps: Sequence[Step]) -> str:
    return ", ".join(step.what for step in steps)


def _removal(plan: Plan) -> str:
    return command_line(["vmfence", "cluster", "remove-device", plan.device.id])
