"""``vmfence cluster fence`` and ``vmfence cluster prove``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import click

from vmfence.cli import consent
from vmfence.cli.output import Progress, printable
from vmfence.cluster import fencing, proofs
from vmfence.cluster import prove as rehearsals
from vmfence.cluster.fencing import Attempt, Fencing, Means
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs, command_line
from vmfence.cluster.proofs import Proof, Record
from vmfence.cluster.prove import Ready, Rehearsal
from vmfence.cluster.watch import Sight
from vmfence.errors import UsageError, VmfenceError

_HOW = {rehearsals.REBOOT: "reboot", rehearsals.OFF: "off and on again"}
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done, and end.")
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command()
@click.argument("node")
@click.option("--off", "is_off", is_flag=True, help="Leave it off, instead of rebooting it.")
@click.option("--force", is_flag=True, help="Even this very node.")
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
    fencer's history calls it a success, and the host showed the guest not running and then running again; with --off,
    off.
    """
    means = _means()
    targets = fencing.locate(node, means.pacemaker.load_cib(), means.pacemaker)
    this_node = means.pacemaker.node_name()
    if targets[0].node.lower() == this_node.lower() and not force:
        raise UsageError(
            f"{this_node} is this very node", "nothing would be left to tell how it went", "say --force to do it"
        )
    target, before = fencing.first_shown(targets, means)
    is_off = is_off or target.stays_off
    action = "power off" if is_off else "reboot"
    what = f"{action} node {target.node}, guest {target.guest} ({before} at the host), over device {target.device}"
    if dry_run:
        command = command_line(means.pcs.fence(target.node, is_off))
        plan = {"node": target.node, "guest": target.guest, "device": target.device, "command": command}
        click.echo(json.dumps(plan, indent=2) if as_json else f"would {printable(what)}: {command}")
        return
    consent.require(printable(f"{what[0].upper()}{what[1:]}"), yes)
    attempt = Attempt(target, is_off, before, means)
    with Progress() as progress:
        progress.show(f"fencing {target.node}")
        try:
            attempt.run(timeout_s)
            if not is_off:
                attempt.await_start()
            found = attempt.result()
        except KeyboardInterrupt:
            progress.clear()
            name = printable(target.node)
            click.echo(f"the cluster may go on with it: vmfence cluster history {name}", err=True)
            raise
    if as_json:
        click.echo(json.dumps(fencing.as_dict(found), indent=2))
    else:
        _show(found)
    if fencing.faults(found):
        raise click.exceptions.Exit(VmfenceError.exit_code)


def _show(found: Fencing) -> None:
    for line in _story(found):
        click.echo(printable(line))
    for note in fencing.notes(found):
        click.echo(f"note: {printable(note)}", err=True)
    for fault in fencing.faults(found):
        click.echo(f"error: {printable(fault)}.", err=True)


def _story(found: Fencing) -> Iterator[str]:
    event, course, target = found.event, found.course, found.target
    if event is not None:
        by = f" by {event.delegate}" if event.delegate else ""
        yield f"cluster  {event.action} of {event.target}: {event.status}{by}, {event.completed or 'not ended'}"
    down = [(at_s, seen) for at_s, seen in course.changes if seen.sight in (Sight.HALTED, Sight.OFF)]
    words = [f"{seen} after {at_s:.1f} s" for at_s, seen in down]
    if course.back_s is not None:
        words.append(f"running again after {course.back_s:.1f} s")
    yield f"host     {target.guest}: {', '.join(words) or f'not seen off, is {course.last}'}"


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
    readies = [rehearsals.prepare(node, means) for node in _chosen(nodes, means)]
    methods = [_method(ready, by_off) for ready in readies]
    _show_plan(readies, methods)
    if dry_run:
        if as_json:
            pairs = zip(readies, methods)
            click.echo(json.dumps([{"node": ready.target.node, "method": method} for ready, method in pairs], indent=2))
        return
    results: list[Proof] = []
    with proofs.keep(path) as record:
        names = ", ".join(ready.target.node for ready in readies)
        consent.require(printable(f"Fence {names} now{', one after the other' if len(readies) > 1 else ''}"), yes)
        try:
            for ready, method in zip(readies, methods):
                results.append(_rehearse(ready, method, timeout_s, means, record, is_first=not results))
                if not as_json:
                    _show_proof(results[-1])
                if not results[-1].is_proven:
                    break
        finally:
            if as_json:
                click.echo(json.dumps([asdict(proof) for proof in results], indent=2))
            left = [printable(ready.target.node) for ready in readies[len(results) :]]
            if left:
                click.echo(f"not rehearsed: {', '.join(left)}", err=True)
    if not results[-1].is_proven:
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


def _method(ready: Ready, by_off: bool) -> str:
    return rehearsals.OFF if by_off or ready.target.stays_off else rehearsals.REBOOT


def _show_plan(readies: list[Ready], methods: list[str]) -> None:
    for ready, method in zip(readies, methods):
        target = ready.target
        line = f"{target.node}: {_HOW[method]}, guest {target.guest} ({ready.before}) over device {target.device}"
        click.echo(printable(f"{line} ({target.agent})"), err=True)


def _rehearse(ready: Ready, method: str, timeout_s: float, means: Means, record: Record, is_first: bool) -> Proof:
    """Rehearse one node and record what comes of it; a reboot that could not be seen is repeated by powering off."""
    node = ready.target.node
    with Progress() as progress:
        if not is_first:
            progress.show(f"{node}: waiting until the cluster is well")
            ready = rehearsals.prepare_again(node, means)
        rehearsal = Rehearsal(ready, method, means, progress.show, timeout_s)
        proof = _hold(rehearsal, record)
        if not rehearsal.is_unseen or method == rehearsals.OFF:
            return proof
        progress.clear()
        click.echo(printable(f"{node}: {proof.reason}; once more, by powering off"), err=True)
        progress.show(f"{node}: waiting until it is back and the cluster is well")
        ready = rehearsals.prepare_again(node, means, timeout_s)
        return _hold(Rehearsal(ready, rehearsals.OFF, means, progress.show, timeout_s), record)


def _hold(rehearsal: Rehearsal, record: Record) -> Proof:
    """Hold it and record it, whatever comes of it; nothing is recorded of what was not begun."""
    try:
        proof = rehearsal.hold()
    except KeyboardInterrupt:  # that must not look as if it had never been tried
        record.add(rehearsal.proof())
        node = printable(rehearsal.proof().node)
        click.echo(f"{node} may be off now; to start it: stonith_admin --unfence={node}", err=True)
        raise
    record.add(proof)
    return proof


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
