"""``vmfence cluster fence`` and ``vmfence cluster prove``."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import click

from vmfence.cli import consent
from vmfence.cli.interruption import as_interrupt
from vmfence.cli.output import Progress, printable
from vmfence.cluster import fencing, proofs, targets, verdict
from vmfence.cluster import prove as rehearsals
from vmfence.cluster.fencing import Fencing
from vmfence.cluster.means import Means, Tell
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs, command_line
from vmfence.cluster.proofs import Proof, Record
from vmfence.cluster.prove import Rehearsal
from vmfence.cluster.targets import Survey
from vmfence.errors import UsageError, VmfenceError

_HOW = {rehearsals.REBOOT: "reboot", rehearsals.OFF: "off and on again"}
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done, and end.")
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command()
@click.argument("node")
@click.option("--off", "is_off", is_flag=True, help="Leave it off, instead of rebooting it.")
@click.option("--force", is_flag=True, help="Even this very node, or one that is online while its guest is off.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1, 86400),
    default=fencing.TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Wait so long for the cluster.",
)
@_YES
@_DRY_RUN
@_JSON
def fence(node: str, is_off: bool, force: bool, timeout_s: float, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Fence NODE through the cluster, and see at the host that it happened.

    Runs pcs stonith fence, and asks the host all the while what the guest is doing. Done (exit code 0) means: the
    fencer's history calls it a success, and the host showed the guest off (with --off), or not running and then running
    again. Where the host cannot show a reboot, the node must have been seen leaving the cluster and joining it anew.
    """
    means = _means()
    seen = targets.survey(node, means)
    _check_node(seen, means, force)
    is_off = is_off or seen.aim.stays_off
    what = f"{'power off' if is_off else 'reboot'} node {seen.aim.node}, {', '.join(map(str, seen.watched))}"
    what += f", over device {seen.aim.device}"
    if dry_run:
        _show_command(seen, command_line(means.pcs.fence(seen.aim.node, is_off)), what, as_json)
        return
    if not yes:
        consent.require(printable(f"{what[0].upper()}{what[1:]}"), yes)
        seen = _look_again(seen, means, force)
    with as_interrupt(), Progress() as progress:
        try:
            found = fencing.fence(seen, is_off, means, _teller(progress), timeout_s)
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
        raise rehearsals.changed(before, now)
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


@click.command()
@click.argument("nodes", metavar="NODE...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Every node but this one.")
@click.option(
    "--by-off",
    is_flag=True,
    help="Do not reboot: power off, wait until it has left the cluster, power on again.",
)
@click.option("--record", "path", metavar="FILE", default=proofs.RECORD_FILE, show_default=True, help="Keep results.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1, 86400),
    default=rehearsals.BACK_S,
    show_default=True,
    metavar="S",
    help="Wait so long for a node to come back into the cluster.",
)
@_YES
@_DRY_RUN
@_JSON
def prove(
    nodes: tuple[str, ...],
    is_all: bool,
    by_off: bool,
    path: str,
    timeout_s: float,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Rehearse: fence NODE after NODE, and record that it works.

    Each is fenced through the cluster while all others are well and have quorum without it, watched going down at the
    host and coming back into the cluster. A reboot that the host is too fast or too busy to show is no proof: then the
    node is powered off and on once. The first failure ends it. check tells how old the last proof of a node is.
    """
    if bool(nodes) == is_all:
        raise UsageError("say which nodes", "", "name them, or give --all")
    means = _means()
    plans = [
        (seen, _method(seen, by_off)) for seen in (rehearsals.prepare(node, means) for node in _chosen(nodes, means))
    ]
    _show_plan(plans)
    if dry_run:
        if as_json:
            click.echo(json.dumps([{"node": seen.aim.node, "method": method} for seen, method in plans], indent=2))
        return
    with proofs.keep(path) as record:
        names = ", ".join(seen.aim.node for seen, _ in plans)
        consent.require(printable(f"Fence {names} now{', one after the other' if len(plans) > 1 else ''}"), yes)
        with as_interrupt():
            is_proven = _rehearse_all(plans, timeout_s, means, record, as_json)
    if not is_proven:
        raise click.exceptions.Exit(VmfenceError.exit_code)


def _chosen(nodes: tuple[str, ...], means: Means) -> tuple[str, ...]:
    """Return the nodes to rehearse, each once.  Raises VmfenceError when none is left."""
    if nodes:
        return tuple({node.lower(): node for node in nodes}.values())
    this_node = means.pacemaker.node_name()
    others = tuple(one.name for one in means.pacemaker.load_cib().nodes if one.name.lower() != this_node.lower())
    if not others:
        raise VmfenceError("there is no node to rehearse", f"{this_node} is the only one")
    click.echo(f"{printable(this_node)} is this node: prove it from another one", err=True)
    return others


def _method(seen: Survey, by_off: bool) -> str:
    return rehearsals.OFF if by_off or seen.aim.stays_off else rehearsals.REBOOT


def _show_plan(plans: list[tuple[Survey, str]]) -> None:
    for seen, method in plans:
        aim, found = seen.aim, seen.watched[0]
        line = f"{aim.node}: {_HOW[method]}, guest {found.target.guest} ({found.look}) over device {aim.device}"
        click.echo(printable(f"{line} ({aim.agent})"), err=True)


def _rehearse_all(
    plans: list[tuple[Survey, str]], timeout_s: float, means: Means, record: Record, as_json: bool
) -> bool:
    """Rehearse until one fails, and return whether all are proven; however it ends, what was done is shown."""
    results: dict[str, Proof] = {}
    try:
        for seen, method in plans:
            _rehearse(seen, method, timeout_s, means, record, results)
            proof = results[seen.aim.node]
            if not as_json:
                _show_proof(proof)
            if not proof.is_proven:
                break
    finally:
        if as_json:
            click.echo(json.dumps([asdict(proof) for proof in results.values()], indent=2))
        left = [printable(seen.aim.node) for seen, _ in plans if seen.aim.node not in results]
        if left:
            click.echo(f"not rehearsed: {', '.join(left)}", err=True)
    return all(proof.is_proven for proof in results.values())


def _rehearse(
    before: Survey, method: str, timeout_s: float, means: Means, record: Record, results: dict[str, Proof]
) -> None:
    """Rehearse one node, and put what came of it into *results*; a reboot that could not be seen is repeated by
    powering off."""
    node = before.aim.node
    with Progress() as progress:
        tell = _teller(progress)
        tell(f"{node}: looking whether the cluster is well")
        now = rehearsals.prepare_again(before, means, rehearsals.SETTLE_S if results else 0.0)
        rehearsal = Rehearsal(now, method, means, tell, timeout_s)
        _hold(rehearsal, record, results)
        if not rehearsal.is_unseen or method == rehearsals.OFF:
            return
        progress.clear()
        click.echo(printable(f"{node}: {results[node].reason}; once more, by powering off"), err=True)
        tell(f"{node}: waiting until it is back and the cluster is well")
        now = rehearsals.prepare_again(before, means, timeout_s)
        _hold(Rehearsal(now, rehearsals.OFF, means, tell, timeout_s), record, results)


def _hold(rehearsal: Rehearsal, record: Record, results: dict[str, Proof]) -> None:
    """Hold it, and record it whatever comes of it; nothing is recorded of what was not begun.

    Before anything is fenced it is recorded as interrupted: who is killed halfway leaves that.
    """
    rehearsal.begin()
    record.add(rehearsal.proof())
    try:
        rehearsal.hold()
    except KeyboardInterrupt:
        remedy = command_line(["stonith_admin", f"--unfence={rehearsal.proof().node}"])
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(printable(f"{rehearsal.proof().node} may be off now; to start it: {remedy}"), err=True)
        raise
    finally:
        proof = results[rehearsal.proof().node] = rehearsal.proof()
        record.replace(proof)


def _teller(progress: Progress) -> Tell:
    """Return what shows who is waited for: a terminal that is gone must not end a rehearsal halfway."""

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):
            progress.show(text)

    return tell


def _show_proof(proof: Proof) -> None:
    if proof.is_proven:
        by = f" by {proof.delegate}" if proof.delegate else ""
        seen = f"down after {proof.down_s} s, fenced{by} after {proof.fence_s} s, back after {proof.back_s} s"
        click.echo(printable(f"{proof.node}  proven  {_HOW[proof.method]}: {seen}"))
    else:
        click.echo(printable(f"{proof.node}  failed"))
        click.echo(f"error: {printable(f'{proof.node}: {proof.reason}')}.", err=True)


def _means() -> Means:
    return Means(Pacemaker(), Pcs.detect())
