"""Which configuration a host command reads when none is named, told where it is not the usual one."""

from __future__ import annotations

import click

from vmfence.cli.output import printable
from vmfence.host import config_search
from vmfence.host.config_search import Place

option = click.option(
    "-f",
    "--config",
    metavar="FILE",
    help="Configuration; else the one that the service has, /etc/vmfence.conf, or /etc/fence_virt.conf.",
)


def find(explicit: str | None) -> str:
    """Return the path of the configuration to read.  Raises ConfigError, VmfenceError as config_search.find()."""
    place = config_search.find(explicit)
    if place.note:
        click.echo(note(place), err=True)
    return place.path


def note(place: Place) -> str:
    """Return the line that tells how *place* was found, "" where it is the usual one."""
    return printable(f"note: {place.note}") if place.note else ""
