"""``vmfence host``: commands for the hypervisor machine."""

from __future__ import annotations

import json

import click

from vmfence import keyfile
from vmfence.errors import UsageError
from vmfence.host import daemon as host_daemon

KEY_FILE = "/etc/cluster/fence_xvm.key"


@click.group()
def host() -> None:
    """Commands for the hypervisor machine."""


@host.command()
@click.option("-f", "--config", metavar="FILE", help="Configuration; else /etc/vmfence.conf, /etc/fence_virt.conf.")
@click.option("-F", "--foreground", is_flag=True, help="Accepted for fence_virtd's sake: always in the foreground.")
@click.option(
    "-d", "--debug", type=click.IntRange(0, 99), metavar="LEVEL", help="0: one line a request. 1 and up: more."
)
@click.option("-w", "--wait-for-init", is_flag=True, help="Wait until libvirt and the interface are there.")
@click.option("-p", "--pid-file", metavar="FILE", help="Write the process number there, and allow one daemon for it.")
def daemon(config: str | None, foreground: bool, debug: int | None, wait_for_init: bool, pid_file: str | None) -> None:
    """Run the daemon: wait for requests of fence agents and carry them out on libvirt.

    SIGHUP reads configuration and keys again; SIGTERM finishes what has begun and ends.
    """
    host_daemon.set_up_log()
    raise click.exceptions.Exit(host_daemon.run(host_daemon.Options(config, debug, wait_for_init, pid_file)))


@host.command()
@click.argument("path", metavar="[FILE]", default=KEY_FILE)
@click.option("--bytes", "size", type=click.IntRange(32, 4096), default=4096, show_default=True, help="Its size.")
@click.option("--force", is_flag=True, help="Replace a key that is there; the old one is kept under a dated name.")
@click.option("--check", is_flag=True, help="Make nothing: judge the key in FILE and show its fingerprint.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: path, fingerprint, warnings.")
def keygen(path: str, size: int, force: bool, check: bool, as_json: bool) -> None:
    """Make the shared key (/etc/cluster/fence_xvm.key), or judge one.

    Shows its path and SHA-256 fingerprint, never the key. The same fingerprint on host and guest is the same key.
    """
    if check and force:
        raise UsageError("--check makes nothing, --force replaces", "", "give one of them")
    key = keyfile.read(path) if check else keyfile.create(path, size, force)
    warnings = keyfile.judge(path)
    if as_json:
        found = {"path": path, "fingerprint": keyfile.fingerprint(key), "warnings": [str(w) for w in warnings]}
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(f"{path}\nSHA256 {keyfile.fingerprint(key)}")
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
