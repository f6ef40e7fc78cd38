"""The ``vmfence`` command: its groups, loaded when they are named, and what all of them share."""

from __future__ import annotations

import contextlib
import sys

import click

from vmfence import __version__
from vmfence.cli.lazy import LazyGroup
from vmfence.cli.output import printable
from vmfence.errors import ConfigErrors, UsageError, VmfenceError

vmfence = LazyGroup(
    {
        "agent": ("vmfence.cli.agent", "agent", "The fence agent: options of fence_xvm, or key=value on stdin."),
        "cluster": ("vmfence.cli.cluster", "cluster", "Commands for a cluster node."),
        "demo": ("vmfence.cli.demo", "demo", "See it work: daemon and agent over loopback, no root, no hypervisor."),
        "guest": ("vmfence.cli.guest", "guest", "Commands for a guest that is a cluster node."),
        "host": ("vmfence.cli.host", "host", "Commands for the hypervisor machine."),
        "list": ("vmfence.cli.guest", "list_guests", "The guests that this machine may see (guest list)."),
    },
    """Fencing for Pacemaker clusters whose nodes are libvirt guests.

    Speaks the protocol of fence_virt in both directions: fence_xvm works against this daemon, this agent against
    fence_virtd.
    """,
    "vmfence",
)
click.version_option(__version__, prog_name="vmfence", message="%(prog)s %(version)s")(vmfence)


def run() -> int:
    """Run the command and return its exit code; our errors become lines on stderr, never a traceback."""
    try:
        code = vmfence.main(standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "vmfence"
        click.echo(f"error: {UsageError(error.format_message(), '', f'try: {path} --help')}", err=True)
        return UsageError.exit_code
    except click.ClickException as error:
        click.echo(f"error: {VmfenceError(error.format_message())}", err=True)
        return 1
    except click.Abort:
        click.echo("error: interrupted.", err=True)
        return 1
    except ConfigErrors as errors:
        for fault in errors.faults:
            click.echo(f"error: {fault}", err=True)
        return errors.exit_code
    except VmfenceError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        return error.exit_code
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or what is still in its buffer fails once more at the end, with exit code 120
        click.echo(f"error: {error.strerror or error}.", err=True)
        return 1
    return code if isinstance(code, int) else 0  # click returns the code of an Exit instead of raising it
