"""``vmfence cluster fence``."""

from __future__ import annotations

import json

import click

from vmfence.cli import consent
from vmfence.cli.interruption import as_interrupt, lasting
from vmfence.cli.output import Progress, printable
from vmfence.cli.seconds import Seconds
from vmfence.cluster import fencing, targets, verdict
from vmfence.cluster.fencing import Fencing
from vmfence.cluster.means import Means
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.targets import Survey
from vmfence.errors import UsageError, VmfenceError
from vmfence.findings import command_line


@click.command()
@click.argument("node")
@click.option("--off", "is_off", is_flag=True, help="Leave it off, instead of rebooting it.")
@click.option("--force", is_flag=True, help="Even this very node, or one that is online while its guest is off.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(1, 86400),
    default=fencing.TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Wait so long for the cluster.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and end.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def fence(node: str, is_off: bool, force: bool, timeout_s: float, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Fence NODE through the cluster, and see at the host that it happened.

    Runs pcs stonith fence, and asks the host all the while what the guest is doing. Done (exit code 0) means: the
    fencer's history calls it a success, and the host showed the guest off (with --off), or not running and then running
    again. Where the host cannot show a reboot, the node must have been seen leaving the cluster and joining it anew.
    """
    means = Means(Pacemaker(), Pcs.detect())
    seen = targets.survey(node, means)
    _check_node(seen, means, force)
    is_off = is_off or seen.aim.stays_off
    what = f"{'power off' if is_off else 'reboot'} node {seen.aim.node}, {', '.join(map(str, seen.watched))}"
    what += f", over device {seen.aim.device}"
    if dry_run:
        _show_command(seen, command_line(means.pcs.fence(seen.aim.node, is_off)), what, as_json)
        return
    if not yes:
        consent.require(printable(f"{what[0].upper()}{what[1:]}"), is_agreed=False)
        seen = _look_again(seen, means, force)
    with as_interrupt(), Progress() as progress:
        try:
            found = fencing.fence(seen, is_off, means, lasting(progress.show), timeout_s)
        except KeyboardInterrupt:
            progress.clear()
            name = printable(seen.aim.node)
            click.echo(f"the cluster may go on with it: vmfence cluster history {name}", err=True)
            raise
    if as_json:
        click.echo(json.dumps(verdict.as_dict(found), indent=2))
    else:
        _show(found)
    if verdict.faults(found):
        raise click.exceptions.Exit(VmfenceError.exit_code)


def _check_node(seen: Survey, means: Means, force: bool) -> None:
    """Raise UsageError for this very node, VmfenceError when the guest cannot be the node's; not with *force*."""
    this_node = means.pacemaker.node_name()
    if force:
        return
    if seen.aim.node.lower() == this_node.lower():
        raise UsageError(
            f"{this_node} is this very node", "nothing would be left to tell how it went", "say --force to do it"
        )
    if seen.contradiction():
        remedy = "see which guest it is: vmfence cluster map; to fence it all the same, say --force"
        raise VmfenceError(seen.contradiction(), "so that guest is not this node's, and nothing was fenced", remedy)


def _look_again(before: Survey, means: Means, force: bool) -> Survey:
    """Return what is seen after the question, which may have stood for long.  Raises as _check_node()."""
    now = targets.survey(before.aim.node, means)
    if now.has_changed(before):
        raise targets.changed(before, now)
    _check_node(now, means, force)
    return now


def _show_command(seen: Survey, command: str, what: str, as_json: bool) -> None:
    guest = seen.watched[0].target.guest
    plan = {"node": seen.aim.node, "guest": guest, "device": seen.aim.device, "command": command}
    click.echo(json.dumps(plan, indent=2) if as_json else f"would {printable(what)}: {command}")


def _show(found: Fencing) -> None:
    for line in verdict.story(found):
        click.echo(printable(line))
    for note in verdict.notes(found):
        click.echo(f"note: {printable(note)}", err=True)
    for fault in verdict.faults(found):
        click.echo(f"error: {printable(fault)}.", err=True)
