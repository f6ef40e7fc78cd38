"""Groups of commands that are imported when they are named, so that each starts with what it needs."""

from __future__ import annotations

import importlib

import click

# Name -> (module, attribute, one line of help).  Help stands here so that the list of commands imports none of them.
Commands = dict[str, tuple[str, str, str]]


class LazyGroup(click.Group):
    """A group made of a table of commands."""

    def __init__(self, table: Commands, help_text: str, name: str | None = None) -> None:
        super().__init__(name, help=help_text, context_settings={"help_option_names": ["-h", "--help"]})
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, imported now."""
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in self.list_commands(ctx)])
