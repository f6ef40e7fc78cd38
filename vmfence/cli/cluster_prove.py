"""``vmfence cluster prove``."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import click

from vmfence.cli import consent
from vmfence.cli.interruption import as_interrupt, lasting
from vmfence.cli.output import Progress, printable
from vmfence.cli.seconds import Seconds
from vmfence.cluster import proofs
from vmfence.cluster import prove as rehearsals
from vmfence.cluster.means import Means
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.proofs import Proof, Record
from vmfence.cluster.prove import Rehearsal
from vmfence.cluster.targets import Survey
from vmfence.errors import UsageError, VmfenceError
from vmfence.findings import command_line

_HOW = {rehearsals.REBOOT: "reboot", rehearsals.OFF: "off and on again"}


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
    type=Seconds(1, 86400),
    default=rehearsals.BACK_S,
    show_default=True,
    metavar="S",
    help="Wait so long for a node to come back into the cluster.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and end.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
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

    Refuses where something else may fence the node, or bring it back: that would prove nothing.
    """
    if is_all and nodes:
        raise UsageError("--all is every node but this one, and nodes are named too", "", "give one of them")
    if not is_all and not nodes:
        raise UsageError("say which nodes", "", "name them, or give --all")
    means = Means(Pacemaker(), Pcs.detect())
    surveys = [rehearsals.prepare(node, means) for node in _chosen(nodes, means)]
    plans = [(seen, _method(seen, by_off)) for seen in surveys]
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
        tell = lasting(progress.show)
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


def _show_proof(proof: Proof) -> None:
    if proof.is_proven:
        by = f" by {proof.delegate}" if proof.delegate else ""
        seen = f"down after {proof.down_s} s, fenced{by} after {proof.fence_s} s, back after {proof.back_s} s"
        click.echo(printable(f"{proof.node}  proven  {_HOW[proof.method]}: {seen}"))
    else:
        click.echo(printable(f"{proof.node}  failed"))
        click.echo(f"error: {printable(f'{proof.node}: {proof.reason}')}.", err=True)
