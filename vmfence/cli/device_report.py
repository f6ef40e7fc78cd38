"""What ``vmfence cluster add-device`` shows: pairs, differences, commands, result."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from vmfence.cli.output import printable, table
from vmfence.cluster.device import Plan
from vmfence.cluster.matching import Matching, Pair
from vmfence.errors import UsageError
from vmfence.findings import command_line


class Report:
    """What is shown step by step, or at the end as JSON.

    *is_done*: something was changed, None: that is not known.  *started*: the nodes on which the device runs, None: not
    waited for.
    """

    def __init__(self, as_json: bool, is_dry: bool) -> None:
        self._as_json, self._is_dry = as_json, is_dry
        self._pairs: Sequence[Pair] = ()
        self.started: tuple[str, ...] | None = None
        self.is_done: bool | None = False

    def matched(self, found: Matching) -> Sequence[Pair]:
        """Show the pairs and return them.  Raises the last of the faults, the others are shown.

        The last one decides the exit code: what was spelt wrong comes last, since the rest may follow from it.
        """
        self._pairs = found.pairs
        if not self._as_json:
            cells = [(one.node, one.guest.name, one.guest.uuid, one.guest_state, one.reason) for one in found.pairs]
            table(("NODE", "GUEST", "UUID", "STATE", "BECAUSE"), cells)
        faults = sorted(found.faults, key=lambda fault: isinstance(fault, UsageError))
        for fault in faults[:-1]:
            click.echo(f"error: {fault}", err=True)
        if faults:
            raise faults[-1]
        return found.pairs

    def planned(self, plan: Plan) -> None:
        """Show what is to be done, on stderr when stdout is for JSON: the question comes next."""
        for note in plan.notes:
            click.echo(f"note: {printable(note)}", err=True)
        if not self._as_json:
            for one in plan.differences:
                found, wanted = one.found or "not set", one.wanted or "removed"
                click.echo(f"{printable(one.name)}: {printable(found)} -> {printable(wanted)}")
        for step in plan.steps:
            click.echo(printable(command_line(step.argv)), err=self._as_json)

    def end(self, plan: Plan) -> None:
        """Show what it came to."""
        if self._as_json:
            click.echo(json.dumps(self._as_dict(plan), indent=2))
        elif not plan.steps:
            click.echo(f"Nothing was changed: the device {plan.device.id} is as it shall be.")
        elif self._is_dry:
            click.echo("Nothing was changed: --dry-run.")
        else:
            where = f", and started on {printable(', '.join(self.started))}" if self.started else ""
            click.echo(f"The device {plan.device.id} is as planned, read back from the CIB{where}.")

    def broken_off(self, plan: Plan, why: str) -> None:
        """Show as JSON what it came to when it ended with an error, which is told besides."""
        if self._as_json:
            click.echo(json.dumps({**self._as_dict(plan), "error": why}, indent=2))

    def _as_dict(self, plan: Plan) -> dict[str, object]:
        state = "new" if plan.existing is None else "different" if plan.differences else "same"
        return {
            "device": plan.device.id,
            "agent": plan.device.agent,
            "state": state,
            "pairs": [one.as_dict() for one in self._pairs],
            "options": dict(plan.device.options),
            "operations": [vars(one) for one in plan.device.operations],
            "properties": dict(plan.properties),
            "differences": [vars(one) for one in plan.differences],
            "commands": [step.argv for step in plan.steps],
            "notes": plan.notes,
            "changed": self.is_done,
            "started": self.started,
            "error": None,
        }
