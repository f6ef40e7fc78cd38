"""``vmfence guest`` and ``vmfence list``: commands for a guest."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from vmfence.cli.lazy import LazyGroup
from vmfence.guest import guests

_HASHES = click.Choice(guests.HASH_NAMES, case_sensitive=False)


def _number(_: click.Context, __: click.Parameter, seconds: float) -> float:
    """Return *seconds* if they are a number: "nan" is one of Python's, and within every range."""
    if math.isnan(seconds):
        raise click.BadParameter(f"{seconds} is not a number of seconds.")
    return seconds


@click.command("list")
@click.option(
    "-a",
    "--multicast-address",
    "address",
    metavar="ADDRESS",
    default="",
    help="Group to ask (225.0.0.12, or ff05::3:1).",
)
@click.option(
    "-i",
    "--ip-family",
    "family",
    type=click.Choice(["auto", "ipv4", "ipv6"]),
    default="auto",
    help="Family of the group, where no address tells it.",
)
@click.option("-T", "--ipaddr", metavar="ADDRESS", help="Ask the daemon at this literal address by TCP instead.")
@click.option(
    "-p",
    "--ipport",
    "port",
    type=click.IntRange(1, 65535),
    default=1229,
    show_default=True,
    help="Port of the daemon, and of its call-back.",
)
@click.option(
    "-k",
    "--key-file",
    metavar="FILE",
    default="/etc/cluster/fence_xvm.key",
    show_default=True,
    help="The key shared with the host.",
)
@click.option(
    "-c", "--hash", "hash_name", type=_HASHES, default="sha256", show_default=True, help="Hash of the signature."
)
@click.option(
    "-C", "--auth", "auth_name", type=_HASHES, default="sha256", show_default=True, help="Hash of the challenges."
)
@click.option(
    "-t",
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 86400, min_open=True),
    callback=_number,
    default=15,
    show_default=True,
    metavar="S",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON: name, uuid, state, on.")
def list_guests(as_json: bool, **inquiry: Any) -> None:
    """Show the guests that this machine may see: name, UUID, on or off, as fence_xvm -o list."""
    found = guests.list_guests(guests.Inquiry(**inquiry))
    if as_json:
        click.echo(json.dumps([record.as_dict() for record in found], indent=2, ensure_ascii=True))
        return
    for record in found:
        click.echo(record.line().encode("utf-8", "surrogateescape"))


guest = LazyGroup(
    {"list": ("vmfence.cli.guest", "list_guests", "The guests that this machine may see.")},
    "Commands for a guest that is a cluster node.",
    "guest",
)
