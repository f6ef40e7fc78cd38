"""Groups of commands that are imported when they are named, so that each starts with what it needs."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

import click

from vmfence.errors import UsageError, VmfenceError

# Name -> (module, attribute, one line of help).  Help stands here so that the list of commands imports none of them.
Commands = dict[str, tuple[str, str, str]]


_MAY_BE_EMPTY = ("machine_uuid",)  # empty: the firmware shows none


class _Text(click.types.StringParamType):
    """Text that says something: an empty one, as of a variable that is not set, would choose something in silence."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return *value*.  Fails for an empty one, unless that is the default."""
        if value == "" and param is not None and param.default != "":
            self.fail("it is empty: give a value, or leave it out", param, ctx)
        return super().convert(value, param, ctx)


_TEXT = _Text()


class LazyGroup(click.Group):
    """A group made of a table of commands."""

    def __init__(self, table: Commands, help_text: str, name: str | None = None) -> None:
        super().__init__(name, help=help_text, context_settings={"help_option_names": ["-h", "--help"]})
        self._table = table

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command show the help, as a fault: click did that in another way before 8.2."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return sorted(self._table)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that *args* name, and the rest of them.  An unknown one is a usage error, with the nearest
        name: click suggests none, or since 8.3 in other words."""
        name = args[0]
        if name[:1].isalnum() and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            nearest = difflib.get_close_matches(name, self._table, 1)
            path = f"{ctx.command_path} {nearest[0]}" if nearest else ""
            remedy = f"did you mean {path}?" if nearest else f"the commands are {', '.join(self.list_commands(ctx))}"
            raise UsageError(f"{ctx.command_path} has no command {name!r}", "", remedy)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, imported now.  Raises VmfenceError when it needs a package that is not installed."""
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            remedy = f"install it with: {sys.executable or 'python3'} -m pip install {error.name}"
            raise VmfenceError(f"the Python package {error.name} is not installed", "", remedy) from error
        for parameter in command.params:
            if parameter.type is click.STRING and parameter.name not in _MAY_BE_EMPTY:
                parameter.type = _TEXT
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in self.list_commands(ctx)])
