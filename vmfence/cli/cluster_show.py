"""``vmfence cluster devices``, ``agents``, ``describe`` and ``history``: what there is, changing nothing."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import click

from vmfence.cli.cluster_properties import properties
from vmfence.cli.output import printable, table
from vmfence.cluster import hostmap
from vmfence.cluster.cib import Device
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.status import DeviceStatus

__all__ = ["agents", "describe", "devices", "history", "properties"]

_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_cib = click.option("--cib", "cib_file", metavar="FILE", help="Read this file instead of the running cluster.")
_SECRET = ("pass", "secret", "token", "community", "snmp_priv", "snmp_auth")
_HIDDEN = "(hidden)"


@click.command()
@_cib
@_as_json
def devices(cib_file: str | None, as_json: bool) -> None:
    """Show the stonith devices: agent, state, where they are started, which nodes they fence by which name.

    Passwords among the options are not shown.
    """
    pacemaker = Pacemaker(cib_file)
    found = pacemaker.load_cib().devices
    running = {} if cib_file else {one.id: one for one in pacemaker.load_status().devices}
    shown = [_device(one, running.get(one.id), pacemaker, cib_file is None) for one in found]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    if not shown:
        click.echo("No stonith device is configured: nothing can be fenced. Make one with: vmfence cluster add-device")
    rows = [[one["id"], one["agent"], one["state"], " ".join(one["started_on"]), _targets(one)] for one in shown]
    table(("DEVICE", "AGENT", "STATE", "ON", "FENCES"), rows)
    for one in shown:
        for fault in one["faults"]:
            click.echo(f"warning: {one['id']}: {printable(fault)}", err=True)


def _device(device: Device, running: DeviceStatus | None, pacemaker: Pacemaker, is_live: bool) -> dict[str, Any]:
    version = pacemaker.version()
    is_secret = {name: any(word in name.lower() for word in _SECRET) for name in device.options}
    ports = hostmap.ports_of(device, version)
    return {
        "id": device.id,
        "agent": device.agent,
        "state": _state(device, running, is_live),
        "started_on": list(running.nodes) if running else [],
        "fences": dict(ports),
        "faults": list(hostmap.parse_host_map(device.options.get("pcmk_host_map", ""), version).faults),
        "options": {name: _HIDDEN if is_secret[name] else value for name, value in device.options.items()},
        "operations": [asdict(one) for one in device.operations],
        "meta": dict(device.meta),
    }


def _state(device: Device, running: DeviceStatus | None, is_live: bool) -> str:
    if device.is_disabled:
        return "disabled"
    if not is_live:
        return "configured"
    if running is None:
        return "unknown"
    if running.is_failed:
        return "failed"
    return running.role.lower() or "unknown"


def _targets(shown: dict[str, Any]) -> str:
    pairs = [node if node == port else f"{node} as {port}" for node, port in shown["fences"].items()]
    return ", ".join(pairs) or "what its agent lists"


@click.command()
@_as_json
def agents(as_json: bool) -> None:
    """List the fence agents that Pacemaker finds on this node (stonith_admin -I)."""
    names = sorted(Pacemaker().installed_agents())
    click.echo(json.dumps(names, indent=2) if as_json else "\n".join(map(printable, names)))


@click.command()
@click.argument("agent")
@_as_json
def describe(agent: str, as_json: bool) -> None:
    """Show what the fence agent AGENT says of itself: its parameters and actions (stonith_admin -M)."""
    found = Pacemaker().agent_metadata(agent)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(f"{printable(found.name or agent)}: {printable(found.shortdesc)}\n")
    for line in found.longdesc.splitlines():
        click.echo(printable(line))
    click.echo()
    rows = []
    for one in found.parameters:
        marks = [mark for mark, is_so in (("deprecated", one.deprecated), ("required", one.required)) if is_so]
        marks += [f"instead of {one.obsoletes}"] if one.obsoletes else []
        meaning = one.shortdesc + (f" [{', '.join(marks)}]" if marks else "")
        rows.append((one.name, "|".join(one.choices) or one.type, one.default, meaning.replace("\n", " ")))
    table(("PARAMETER", "TYPE", "DEFAULT", "MEANING"), rows)
    click.echo(f"\nactions: {printable(' '.join(found.actions))}")


@click.command()
@click.argument("node", required=False)
@_as_json
def history(node: str | None, as_json: bool) -> None:
    """Show what the cluster fenced, newest first: of NODE, or all.

    The fencer remembers it until the last node of the cluster is stopped.
    """
    events = sorted(Pacemaker().fencing_history(node), key=_age)
    if as_json:
        click.echo(json.dumps([{**asdict(one), "completed_at": one.completed_at()} for one in events], indent=2))
        return
    if not events:
        click.echo("The cluster remembers no fencing" + (f" of {printable(node)}." if node else "."))
    head = ("WHEN", "ACTION", "NODE", "RESULT", "BY", "ASKED BY", "REASON")
    table(head, [_event_row(one) for one in events])


def _age(event: FencingEvent) -> float:
    """Sort by age, what is pending first; what has no readable time comes last."""
    at = event.completed_at()
    if at is None:
        return float("-inf") if event.status == "pending" else float("inf")
    return -at


def _event_row(event: FencingEvent) -> tuple[str, ...]:
    at = event.completed_at()
    when = event.completed if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    asked_by = "@".join(filter(None, (event.client, event.origin)))
    return when, event.action, event.target, event.status, event.delegate, asked_by, event.reason
