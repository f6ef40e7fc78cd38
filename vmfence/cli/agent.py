"""``vmfence agent`` in the help: cli.entry starts the agent itself, before click is loaded."""

from __future__ import annotations

import click

from vmfence.agent.main import main


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent(arguments: tuple[str, ...]) -> None:
    """The fence agent that Pacemaker starts; also installed as fence_vmfence.

    All its options: vmfence agent --help.
    """
    raise click.exceptions.Exit(main(["fence_vmfence", *arguments]))
