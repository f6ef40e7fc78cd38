"""``vmfence cluster properties`` and ``properties set``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from vmfence.cli import consent
from vmfence.cli.output import printable, table
from vmfence.cluster import properties as table_of
from vmfence.cluster.advice import advice
from vmfence.cluster.cib import Cib
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.errors import UsageError, VmfenceError
from vmfence.findings import command_line

_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_cib = click.option("--cib", "cib_file", metavar="FILE", help="Work on this file instead of the running cluster.")


@click.group(invoke_without_command=True)
@_cib
@_as_json
@click.pass_context
def properties(ctx: click.Context, cib_file: str | None, as_json: bool) -> None:
    """Show the cluster properties that matter to fencing: value, default, meaning, advice; or set them."""
    if ctx.invoked_subcommand is not None:
        ctx.obj = (cib_file, as_json)
        return
    pacemaker = Pacemaker(cib_file)
    cib, version = pacemaker.load_cib(), pacemaker.version()
    shown = [_shown(one, cib, version) for one in table_of.PROPERTIES]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    rows = [
        (one["name"], one["value"], "" if one["is_set"] else "default", one["meaning"])
        for one in shown
        if one["is_known"]
    ]
    table(("PROPERTY", "VALUE", "", "MEANING"), rows)
    _show_advice(cib, version)


def _shown(one: table_of.Property, cib: Cib, version: table_of.Version) -> dict[str, Any]:
    found = table_of.effective(cib, version, one.name)
    return {
        "name": found.spelled_name,
        "names": [name for name in (one.name, one.old_name) if name],
        "value": found.value,
        "is_set": found.is_set,
        "default": one.default(version),
        "is_known": version >= one.since,
        "meaning": one.meaning,
        "values": one.kind.values,
        "advice": list(advice(one, cib, version)),
    }


def _show_advice(cib: Cib, version: table_of.Version) -> None:
    for one in table_of.PROPERTIES:
        for words in advice(one, cib, version):
            click.echo(f"advice: {one.name_in(version)}: {printable(words)}.")


@properties.command("set")
@click.argument("pairs", metavar="NAME=VALUE...", nargs=-1, required=True)
@_cib
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@_as_json
@click.pass_context
def set_properties(
    ctx: click.Context, pairs: tuple[str, ...], cib_file: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Set cluster properties through pcs, under the name that this Pacemaker wants, and read them back.

    An empty value (NAME=) takes a setting away. Old and new names are good (stonith-enabled, fencing-enabled).
    """
    outer_file, outer_json = ctx.obj
    cib_file, as_json = cib_file or outer_file, as_json or outer_json
    parsed, pacemaker = _parsed(pairs), Pacemaker(cib_file)
    cib = pacemaker.load_cib()
    wanted = _with_other_names(_spelled(parsed, pacemaker), cib)
    changes = {name: value for name, value in wanted.items() if cib.properties.get(name, "") != value}
    pcs = Pcs.detect(cib_file)
    command = pcs.property_set(changes) if changes else []
    warnings = _warnings(changes, cib, pacemaker.version())
    _show_plan(changes, warnings, cib, pacemaker.version(), command, is_aside=as_json)
    is_changed = bool(changes) and not dry_run
    if is_changed:
        consent.require("Set these cluster properties", yes)
        _apply(pcs, command, changes, pacemaker)
    if as_json:
        shown = {"changes": changes, "command": command_line(command), "warnings": warnings, "is_changed": is_changed}
        click.echo(json.dumps(shown, indent=2))
    elif is_changed:
        click.echo("Set, and read back.")


def _parsed(pairs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return names and values.  Raises UsageError for what is no pair, an unknown property or a bad value."""
    parsed = []
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise UsageError(f"{pair!r} sets nothing", "", "give NAME=VALUE, or NAME= to take a setting away")
        table_of.check_value(name, value)
        parsed.append((name, value))
    return parsed


def _spelled(parsed: list[tuple[str, str]], pacemaker: Pacemaker) -> dict[str, str]:
    """Return the values by the name to write.  Raises UsageError for two values of one property."""
    version, listed = pacemaker.version(), pacemaker.option_names()
    wanted: dict[str, str] = {}
    for name, value in parsed:
        spelled = table_of.writable_name(name, version, listed)
        if wanted.setdefault(spelled, value) != value:
            raise UsageError(f"{spelled} is given two values", f"{wanted[spelled]!r} and {value!r}")
    return wanted


def _with_other_names(wanted: Mapping[str, str], cib: Cib) -> dict[str, str]:
    """Return *wanted*, and the removal of what stands under the other name of a property: it would mislead."""
    others = {
        other: ""
        for name in wanted
        for other in (table_of.find(name).name, table_of.find(name).old_name)
        if other != name and other in cib.properties
    }
    return {**wanted, **others}


def _warnings(changes: Mapping[str, str], cib: Cib, version: table_of.Version) -> list[str]:
    """Return what we advise against in *changes*."""
    after = replace(cib, properties={name: value for name, value in {**cib.properties, **changes}.items() if value})
    return [f"{name}: {words}" for name in changes for words in advice(table_of.find(name), after, version)]


def _show_plan(
    changes: Mapping[str, str],
    warnings: list[str],
    cib: Cib,
    version: table_of.Version,
    command: list[str],
    is_aside: bool,
) -> None:
    """Show what is to be done, *is_aside*: on stderr, where stdout is for JSON."""
    if not changes:
        click.echo("Nothing to change: all is set so already.", err=is_aside)
        return
    for name, value in changes.items():
        found = table_of.effective(cib, version, name)
        before = cib.properties.get(name, f"{found.value} (in force)")
        click.echo(f"{name}: {printable(before)} -> {printable(value) or 'not set'}", err=is_aside)
    click.echo(f"  {command_line(command)}", err=is_aside)
    for words in warnings:
        click.echo(f"warning: {printable(words)}", err=True)


def _apply(pcs: Pcs, command: list[str], changes: Mapping[str, str], pacemaker: Pacemaker) -> None:
    """Run pcs and read the CIB back.  Raises VmfenceError that tells what is set now."""
    try:
        pcs.run(command)
    except VmfenceError as error:
        _tell_state(error, changes, pacemaker)
        raise
    missing = _missing(changes, pacemaker.load_cib())
    if missing:
        why = f"the CIB does not have it: {', '.join(missing)}"
        raise VmfenceError("pcs reported success, but not all is set", why, "look with: vmfence cluster properties")


def _tell_state(error: VmfenceError, changes: Mapping[str, str], pacemaker: Pacemaker) -> None:
    """Add to *error* what is set now, read from the CIB."""
    try:
        missing = _missing(changes, pacemaker.load_cib())
    except VmfenceError:
        state = "what is set now could not be read"
    else:
        done = [name for name in changes if name not in missing]
        state = f"set all the same: {', '.join(done)}" if done else "nothing was changed"
    error.why = "; ".join(filter(None, (error.why.rstrip("."), state)))


def _missing(changes: Mapping[str, str], cib: Cib) -> list[str]:
    return [name for name, value in changes.items() if cib.properties.get(name, "") != value]
