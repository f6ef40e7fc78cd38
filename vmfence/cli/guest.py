"""``vmfence guest`` and ``vmfence list``: commands for a guest."""

from __future__ import annotations

import json
from typing import Any

import click

from vmfence.cli.inquiry_options import inquiry_options
from vmfence.cli.lazy import LazyGroup
from vmfence.cli.output import printable
from vmfence.cli.seconds import Seconds
from vmfence.guest import guests


def _tell(way: str) -> None:
    """Say on stderr which way was taken, where nobody named one."""
    click.echo(printable(way), err=True)


@click.command("list")
@inquiry_options
@click.option(
    "-t",
    "--timeout",
    "timeout_s",
    type=Seconds(0, 86400, min_open=True),
    default=15,
    show_default=True,
    metavar="S",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON: name, uuid, state, on.")
def list_guests(as_json: bool, **inquiry: Any) -> None:
    """Show the guests that this machine may see: name, UUID, on or off, as fence_xvm -o list."""
    found = guests.list_guests(guests.Inquiry(**inquiry), _tell)
    if as_json:
        click.echo(json.dumps([record.as_dict() for record in found], indent=2, ensure_ascii=True))
        return
    for record in found:
        click.echo(record.line().encode("utf-8", "surrogateescape"))


guest = LazyGroup(
    {
        "check": ("vmfence.cli.guest_check", "check", "Judge whether this guest could fence."),
        "list": ("vmfence.cli.guest", "list_guests", "The guests that this machine may see."),
    },
    "Commands for a guest that is a cluster node.",
    "guest",
)
