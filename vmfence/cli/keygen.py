"""``vmfence host keygen``."""

from __future__ import annotations

import json
import os
import shlex

import click

from vmfence import keyfile
from vmfence.cli.output import Output, printable
from vmfence.errors import KeyFileError, UsageError

KEY_FILE = "/etc/cluster/fence_xvm.key"


@click.command()
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
    is_replaced = force and os.path.lexists(path)
    key = keyfile.read(path) if check else keyfile.create(path, size, force)
    warnings = keyfile.judge(path)
    output = Output()
    if is_replaced:
        click.echo(
            "the old key stands beside it under a dated name; every guest needs the new one, and the daemon:", err=True
        )
        click.echo("  systemctl reload vmfence", err=True)
    if as_json:
        found = {"path": path, "fingerprint": keyfile.fingerprint(key), "warnings": [str(w) for w in warnings]}
        output.echo(json.dumps(found, indent=2))
    else:
        # As bytes: a path need not be UTF-8, and the key is there already.
        output.echo(os.fsencode(f"{path}\nSHA256 {keyfile.fingerprint(key)}"))
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
    output.check(f"{'nothing was changed' if check else 'the key was made'}; to see it run: {_shown(path)}")
    if check and keyfile.is_known_weak(key):
        raise KeyFileError(f"the key {path} is as good as none", "it is a known weak one", "make a new one: --force")


def _shown(path: str) -> str:
    return printable(shlex.join(["vmfence", "host", "keygen", "--check", path]))
