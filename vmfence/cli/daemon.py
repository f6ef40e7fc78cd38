"""``vmfence host daemon``."""

from __future__ import annotations

import click

from vmfence.host import process
from vmfence.host.backends import binding
from vmfence.host.daemon import Options


@click.command()
@click.option("-f", "--config", metavar="FILE", help="Configuration; else /etc/vmfence.conf, /etc/fence_virt.conf.")
@click.option("-F", "--foreground", is_flag=True, help="Accepted for fence_virtd's sake: always in the foreground.")
@click.option("-d", "--debug", type=click.IntRange(0, 99), metavar="LEVEL", help="0: a line a request; 1 and up: more.")
@click.option("-w", "--wait-for-init", is_flag=True, help="Wait until libvirt, interface and port are to be had.")
@click.option("-p", "--pid-file", metavar="FILE", help="Write the process number there, and allow one daemon for it.")
def daemon(config: str | None, foreground: bool, debug: int | None, wait_for_init: bool, pid_file: str | None) -> None:
    """Run the daemon: wait for requests of fence agents and carry them out on libvirt.

    SIGHUP reads configuration and keys again; SIGTERM finishes what has begun and ends.
    """
    binding.load()  # without libvirt it can do nothing, and need not wait for it
    process.set_up_log()
    raise click.exceptions.Exit(process.run(Options(config, debug, wait_for_init, pid_file)))
