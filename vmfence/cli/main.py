"""The ``vmfence`` command: its groups, loaded when they are named, and what all of them share."""

from __future__ import annotations

import importlib
import os
import sys

import click

from vmfence import __version__
from vmfence.errors import ConfigErrors, VmfenceError

# Name -> (module, attribute, one line of help).  Help is here so that ``vmfence --help`` loads none of them.
COMMANDS = {
    "agent": ("vmfence.cli.agent", "agent", "The fence agent: options of fence_xvm, or key=value on stdin."),
    "demo": ("vmfence.cli.demo", "demo", "See it work: daemon and agent over loopback, no root, no hypervisor."),
    "guest": ("vmfence.cli.guest", "guest", "In a guest: list the guests that it may see."),
    "host": ("vmfence.cli.host", "host", "On the hypervisor machine: run the daemon."),
    "list": ("vmfence.cli.guest", "list_guests", "The guests that this machine may see (guest list)."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmfence", message="%(prog)s %(version)s")
def vmfence() -> None:
    """Fencing for Pacemaker clusters whose nodes are libvirt guests.

    Speaks the protocol of fence_virt in both directions: fence_xvm works against this daemon, this agent against
    fence_virtd.
    """


def run() -> int:
    """Run the command and return its exit code; our errors become lines on stderr, never a traceback."""
    try:
        vmfence.main(standalone_mode=False)
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        error.show()
        return 2 if isinstance(error, click.UsageError) else 1
    except click.Abort:
        click.echo("error: interrupted.", err=True)
        return 1
    except ConfigErrors as errors:
        for fault in errors.faults:
            click.echo(f"error: {fault}", err=True)
        return errors.exit_code
    except VmfenceError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader left (as head does); what was asked for has been done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0
