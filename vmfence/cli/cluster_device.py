"""``vmfence cluster add-device``, ``map`` and ``remove-device``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from vmfence.cli import consent, device_options
from vmfence.cli.device_report import Report
from vmfence.cli.output import Progress, printable, table
from vmfence.cli.seconds import Seconds
from vmfence.cluster import apply, device, inquiry, machine, matching, nodemap, removal
from vmfence.cluster.cib import Cib
from vmfence.cluster.device import Cluster, Plan, Spec, Step
from vmfence.cluster.matching import Machine, Matching
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.errors import UsageError, VmfenceError
from vmfence.findings import command_line

_CIB = click.option("--cib", "cib_file", metavar="FILE", help="Work on this CIB file instead of the cluster.")
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done, and end.")
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_MAP_HEAD = ("NODE", "GUEST", "UUID", "STATE", "DEVICE", "PROBLEM")


@click.command("add-device")
@click.argument("name", default=device.DEFAULT_NAME)
@click.option("--map", "maps", metavar="NODE:GUEST", multiple=True, help="Guest (name or UUID) of a node. Again: more.")
@click.option("--node", "nodes", metavar="NODE", multiple=True, help="Only this node. Again: more.  [default: all]")
@click.option("--agent", type=click.Choice(inquiry.AGENTS), default="fence_vmfence", show_default=True)
@click.option("--static-list", "has_static_list", is_flag=True, help="Write the list of nodes besides the map.")
@click.option("--monitor-interval", metavar="TIME", default="60s", show_default=True, help="Time between two monitors.")
@click.option(
    "--monitor-timeout", metavar="TIME", default="", help="Time for a monitor.  [default: what the agent needs]"
)
@click.option("--offline", is_flag=True, help="Do not ask the host: --map must name all, and nothing is checked.")
@click.option("--force", is_flag=True, help="Even if a node that is online gets a guest that is not running.")
@click.option("--machine-uuid", metavar="UUID", help="UUID of this node.  [default: as its firmware shows it]")
@click.option("--wait", "wait_s", metavar="S", type=Seconds(0, 3600), default=60, show_default=True,
              help="Wait so long until it is started.")  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Do not wait until it is started.")
@_CIB
@_YES
@_DRY_RUN
@_JSON
@device_options.add
def add_device(
    name: str,
    maps: tuple[str, ...],
    nodes: tuple[str, ...],
    offline: bool,
    force: bool,
    machine_uuid: str | None,
    wait_s: float,
    no_wait: bool,
    cib_file: str | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Create the stonith device NAME, or change it into what is wanted.

    Finds the nodes in the CIB and the guests at the host, and maps them: by --map, by the machine UUID of this node,
    by equal name, by a prefix or suffix that fits once. Shows the pcs command, asks, runs it, reads the CIB back and
    waits until the device is started. What is not named here and stands in the device is removed.
    """
    given_map = matching.parse_map(maps)
    spec = Spec(name, options=device_options.take(given), **given)
    report = Report(as_json, dry_run)
    pacemaker, pcs, cluster = _open(cib_file)
    with Progress() as progress:
        progress.show("asking the host for its guests")
        guests = matching.unseen(given_map.values()) if offline else inquiry.guests_for(spec.options, spec.agent)
    me = Machine() if offline else _machine(pacemaker, machine_uuid)
    found = matching.match(_nodes(cluster.cib, nodes, given_map), guests, given_map, me)
    online = () if offline or cib_file else _online(pacemaker)
    pairs = report.matched(_without_stopped(found, list(matching.stopped(found.pairs, guests, online)), force))
    plan = device.make_plan(spec, pairs, guests, cluster, pcs)
    report.planned(plan)
    _check_agent(pacemaker, spec.agent, dry_run)
    if plan.steps and not dry_run:
        consent.require(f"{plan.steps[-1].what} in {cib_file or 'this cluster'}".capitalize(), yes)
        is_awaited = not (no_wait or cib_file or (plan.existing and plan.existing.is_disabled))
        try:
            _carry_out(plan, pcs, pacemaker, report, wait_s if is_awaited else None)
        except (VmfenceError, KeyboardInterrupt) as error:
            _tell_now(error, plan, cluster.cib, pacemaker, report)
            raise
    report.end(plan)


@click.command("map")
@_CIB
@_JSON
def show_map(cib_file: str | None, as_json: bool) -> None:
    """Show for each node by which device and as which guest it is fenced, and what that guest is doing at the host.

    Exit code 1: for some node that is not as it must be.
    """
    pacemaker = Pacemaker(cib_file)
    cib, version = pacemaker.load_cib(), pacemaker.version()
    with Progress() as progress:
        progress.show("asking the hosts for their guests")
        answers = inquiry.answers_of(nodemap.asked_devices(cib))
        found = nodemap.rows(cib, version, answers)
    for text in dict.fromkeys(str(answer) for answer in answers.values() if isinstance(answer, VmfenceError)):
        click.echo(f"warning: {text}", err=True)
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in found], indent=2))
    else:
        table(_MAP_HEAD, [_cells(row) for row in found])
        if not found:
            click.echo("no node, and no device that names one", err=True)
    if any(row.problem for row in found):
        raise click.exceptions.Exit(VmfenceError.exit_code)


@click.command("remove-device")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even if nodes are left without fencing.")
@_CIB
@_YES
@_DRY_RUN
@_JSON
def remove_device(name: str, force: bool, cib_file: str | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove the stonith device NAME, after telling which nodes it fences; not the last one of a node."""
    pacemaker, pcs, cluster = _open(cib_file)
    removal.require_device(name, cluster.cib)
    loss = removal.loss_of(name, cluster.cib, cluster.version, _fencer(cluster.cib, pacemaker))
    step = Step(f"remove the device {name}", pcs.delete_stonith(name, force))
    if not as_json:
        click.echo(f"it fences: {printable(', '.join(loss.covered)) or 'no node'}")
        click.echo(f"left without fencing: {printable(', '.join(loss.bare)) or 'no node'}")
        click.echo(printable(command_line(step.argv)))
    if loss.bare and not force:
        what, why = f"{name} was not removed", f"nothing else would fence {', '.join(map(repr, loss.bare))}"
        raise VmfenceError(what, why, "add another device first, or give --force")
    if not dry_run:
        consent.require(f"Remove the device {name}", yes)
        apply.carry_out([step], pcs, lambda: _presence(name, pacemaker))
        if pacemaker.load_cib().device(name) is not None:
            raise VmfenceError(f"the device {name} is still there", "pcs reported success", "look with: pcs stonith")
    if as_json:
        found = {"device": name, "covered": loss.covered, "bare": loss.bare, "command": step.argv}
        click.echo(json.dumps({**found, "removed": not dry_run}, indent=2))
    else:
        click.echo("Nothing was changed: --dry-run." if dry_run else f"The device {name} is removed.")


def _open(cib_file: str | None) -> tuple[Pacemaker, Pcs, Cluster]:
    """Return the cluster's tools and what it is now."""
    pacemaker = Pacemaker(cib_file)
    cluster = Cluster(pacemaker.load_cib(), pacemaker.version(), pacemaker.option_names())
    return pacemaker, Pcs.detect(cib_file), cluster


def _nodes(cib: Cib, wanted: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Return the nodes to map: those of the cluster that are *wanted*, or all; for an empty CIB those in *given*."""
    known = [node.name for node in cib.nodes] or list(given)
    if not known:
        remedy = "name nodes and guests with --map NODE:GUEST"
        raise VmfenceError("the CIB has no node", "the cluster has not been running yet", remedy)
    for name in wanted:
        if not any(matching.is_same(name, node) for node in known):
            raise UsageError(f"the cluster has no node {name!r}", f"its nodes are {', '.join(map(repr, known))}")
    return [node for node in known if not wanted or any(matching.is_same(node, name) for name in wanted)]


def _check_agent(pacemaker: Pacemaker, agent: str, is_dry: bool) -> None:
    """Raise VmfenceError, or with *is_dry* warn, when Pacemaker does not find *agent* on this node."""
    if agent in pacemaker.installed_agents():
        return
    remedy = "vmfence guest setup puts it there" if agent == "fence_vmfence" else "install it on every node"
    error = VmfenceError(f"the agent {agent} is not installed", "Pacemaker does not find it on this node", remedy)
    if not is_dry:
        raise error
    click.echo(f"warning: {error}", err=True)


def _machine(pacemaker: Pacemaker, uuid: str | None) -> Machine:
    """Return which node this is, with its UUID unless that cannot be read."""
    if uuid is not None:
        return Machine(pacemaker.node_name(), uuid)
    try:
        return Machine(pacemaker.node_name(), machine.machine_uuid())
    except VmfenceError as error:  # not root, or no firmware that tells: names have to do
        click.echo(f"warning: {error}", err=True)
        return Machine()


def _online(pacemaker: Pacemaker) -> tuple[str, ...]:
    return tuple(node.name for node in pacemaker.load_status().nodes if node.is_online)


def _without_stopped(found: Matching, stopped: list[VmfenceError], is_forced: bool) -> Matching:
    """Return *found* with the faults *stopped*; when the user insists they are told, and that is all."""
    if not is_forced:
        return Matching(found.pairs, (*found.faults, *stopped))
    for fault in stopped:
        click.echo(f"warning: {printable(str(fault))}", err=True)
    return found


def _carry_out(plan: Plan, pcs: Pcs, pacemaker: Pacemaker, report: Report, wait_s: float | None) -> None:
    """Carry out *plan*, read it back, and wait up to *wait_s* seconds until the device is started."""
    with Progress() as progress:
        apply.carry_out(plan.steps, pcs, lambda: apply.describe_now(plan, pacemaker), progress.show)
        progress.show("reading it back")
        apply.verify(plan, pacemaker)
        report.is_done = True
        if wait_s is not None:
            progress.show(f"waiting until {plan.device.id} is started")
            report.started = apply.await_start(plan, pacemaker, wait_s)


def _tell_now(error: BaseException, plan: Plan, before: Cib, pacemaker: Pacemaker, report: Report) -> None:
    """Tell what is there now, after *error* has ended it; errors of ours tell it themselves."""
    report.is_done = apply.has_changed(plan, before, pacemaker)
    if not isinstance(error, VmfenceError):
        now = printable(apply.describe_now(plan, pacemaker))
        remedy = "pcs may go on for a moment; look again with: vmfence cluster devices, and add-device once more"
        click.echo(f"{now}. {remedy}.", err=True)
    report.broken_off(plan, str(error) or "interrupted")


def _fencer(cib: Cib, pacemaker: Pacemaker) -> dict[str, tuple[str, ...]]:
    """Return which devices the running fencer would use for each node; for a CIB file nothing."""
    if pacemaker.cib_file is not None:
        return {}
    return {node.name: pacemaker.devices_for(node.name) for node in cib.nodes}


def _presence(name: str, pacemaker: Pacemaker) -> str:
    try:
        is_there = pacemaker.load_cib().device(name) is not None
    except VmfenceError as error:
        return f"What is there now is unknown: {str(error).rstrip('.')}"
    return f"The CIB shows that {name} is {'still there' if is_there else 'gone all the same'}"


def _cells(row: nodemap.Row) -> tuple[str, ...]:
    shown = row.as_dict()
    seen = (row.port, "", "unknown" if row.device else "")
    if row.guest:
        seen = (row.guest.name, row.guest.uuid, str(shown["state"]))
    return (row.node, *seen, f"{row.device} ({row.how})" if row.device else "", row.problem)
