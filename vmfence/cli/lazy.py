"""Groups of commands that are imported when they are named, so that each starts with what it needs."""

from __future__ import annotations

import importlib
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

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, imported now.  Raises VmfenceError when it needs a package that is not installed."""
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            remedy = "on a host: pip install 'vmfence[host]'"
            raise VmfenceError(f"the Python package {error.name} is not installed", "", remedy) from error
        for parameter in command.params:
            if parameter.type is click.STRING and parameter.name not in _MAY_BE_EMPTY:
                parameter.type = _TEXT
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in self.list_commands(ctx)])
