"""Options of ``add-device`` that become options of the device: made from the tables of the agent and of Pacemaker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, TypeVar

import click

from vmfence.agent import options as agent_options
from vmfence.agent.options import Option
from vmfence.agent.values import nearest
from vmfence.cluster.options import PCMK
from vmfence.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
_PREFIX = "device_"
_NOT_SET = ("target", "action")  # what Pacemaker sends by itself


def add(command: Command) -> Command:
    """Add an option for every parameter of the agent and every pcmk_* one, and --option for any by name."""
    found = [click.option(*_names(one.name), metavar=_metavar(one), help=_help(one)) for one in _settable()]
    found += [click.option(*_names(name), metavar="VALUE", help=text) for name, text in PCMK.items()]
    found.append(
        click.option("--option", "pairs", metavar="NAME=VALUE", multiple=True, help="Any option of the device.")
    )
    for option in reversed(found):
        command = option(command)
    return command


def take(given: dict[str, Any]) -> dict[str, str]:
    """Take the options of the device out of *given* and return them by name.

    Raises UsageError for one that is given twice, that the agent does not have, or whose value it would refuse.
    """
    named = {name: given.pop(name) for name in list(given) if name.startswith(_PREFIX)}
    options = {name[len(_PREFIX) :]: value for name, value in named.items() if value is not None}
    for name, value in _pairs(given.pop("pairs")):
        if name in options:
            raise UsageError(f"{name} is given twice", "", "give it once")
        options[name] = value
    for name, value in options.items():
        _check(name, value, given["agent"])
    return options


def _settable() -> list[Option]:
    return [option for option in agent_options.OPTIONS if option.field not in _NOT_SET]


def _names(name: str) -> tuple[str, str]:
    return f"--{name.replace('_', '-')}", _PREFIX + name


def _metavar(option: Option) -> str:
    return (option.value or "number").upper()


def _help(option: Option) -> str:
    return f"{option.explained(agent_options.OURS)}."


def _pairs(texts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{text!r} is no option of a device", "", "write --option NAME=VALUE")
        yield name, value


def _check(name: str, value: str, agent: str) -> None:
    """Check an option of the agent; the rest is Pacemaker's.  An empty value is refused with the others later."""
    if name in PCMK or name.startswith("pcmk_") or not value:
        return
    known = {option.name: option for option in agent_options.accepted(agent)}
    option = known.get(name)
    if option is None and name in agent_options.BY_NAME:
        owner = agent_options.owner(agent_options.BY_NAME[name])
        raise UsageError(f"{agent} has no option {name}", f"{owner} has it", "choose it with --agent")
    if option is None and agent == agent_options.OURS:
        raise UsageError(f"{agent} has no option {name!r}", nearest(name, list(known)), f"{agent} -h lists them")
    if option is not None and option.field not in _NOT_SET:
        option.kind.read(value)
