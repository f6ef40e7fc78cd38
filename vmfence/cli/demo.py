"""``vmfence demo``."""

from __future__ import annotations

import click

from vmfence import demo as demonstration


@click.command()
def demo() -> None:
    """See it work: daemon and agent over loopback.

    Real processes, libvirt's built-in test driver, two guests; no root, no hypervisor, nothing left behind.
    """
    demonstration.run(click.echo)
