"""``vmfence host setup``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from vmfence.cli import config_choice, consent
from vmfence.cli.output import Output, Progress, printable
from vmfence.errors import NotPermitted
from vmfence.host import ground, steps
from vmfence.host import setup as host_setup
from vmfence.host.choice import Choice, choose
from vmfence.host.sections import LISTENERS
from vmfence.host.steps import State, Step
from vmfence.host.wishes import Wishes

_WIDTHS = (10, 14)


def _listeners(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of *given*, each once.  A listener of fence_virtd that is not set up here is an error."""
    words = tuple(dict.fromkeys(word for text in given for word in text.replace(",", " ").split()))
    choice = click.Choice(LISTENERS)
    return tuple(str(choice.convert(word, option, context)) for word in words)


@click.command()
@click.option("--uri", "uris", metavar="URI", multiple=True, help="Libvirt to serve; may be repeated. Else found.")
@click.option("--interface", metavar="NAME", help="Bridge of the guests. Else the one that they are attached to.")
@click.option(
    "--listener",
    "listeners",
    metavar="NAME",
    multiple=True,
    callback=_listeners,
    help=f"How guests ask: {', '.join(LISTENERS)}. Several: give it again, or separate them by blanks. Else chosen.",
)
@click.option(
    "--guest", "guests", metavar="NAME", multiple=True, help="Guest that gets a device and may ask. Else all."
)
@click.option("--define", is_flag=True, help="Add the devices that guests lack, after a question.")
@click.option(
    "--key-file", metavar="FILE", help="Shared key, made when missing.  [default: /etc/cluster/fence_xvm.key]"
)
@config_choice.option
@click.option("--no-firewall", is_flag=True, help="Leave the firewall alone.")
@click.option("--no-service", is_flag=True, help="Neither install nor start the systemd service.")
@click.option("--no-check", is_flag=True, help="Do not try at the end whether it works.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option("--yes", is_flag=True, help="Yes to the question of --define; nothing else is asked.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: changed, steps, next.")
def setup(
    uris: tuple[str, ...],
    no_firewall: bool,
    no_service: bool,
    no_check: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make this host ready: key, configuration, firewall, service; then try it. For root.

    Asks nothing, and leaves alone what is there already: a second run changes nothing, one after a failure goes on. An
    existing configuration, fence_virtd's too, is used as it is; options that contradict it are an error. By virtio,
    serial and vsock each guest needs a device: it tells the commands that add them, and adds them with --define.
    """
    wishes = Wishes(uris=uris, firewall=not no_firewall, service=not no_service, check=not no_check, **given)
    _check_rights(wishes, dry_run)
    progress = Progress()
    with progress:
        progress.show("asking libvirt")
        found = ground.survey(wishes)
        choice = choose(wishes, found)
        progress.show("looking at key, firewall and service")
        planned = host_setup.plan(wishes, choice, ground.inspect(wishes, choice.settings, found))
    _ask(planned, yes or dry_run)
    report = _Report(choice, planned, dry_run, as_json)
    try:
        for step in _watched(progress, planned, steps.carry_out(planned, dry_run)):
            report.add(step)
    finally:
        report.end()
    report.check_output()


def _ask(planned: Sequence[Step], is_agreed: bool) -> None:
    """Ask before guests are changed.  Raises as consent.require()."""
    lines = [f"  {step.what}" for step in planned if step.is_apart and step.act is not None]
    if lines:
        if not is_agreed:
            click.echo("\n".join(map(printable, lines)), err=True)
        consent.require(f"Change {len(lines)} definition{'' if len(lines) == 1 else 's'} of guests", is_agreed)


def _check_rights(wishes: Wishes, is_dry: bool) -> None:
    if os.geteuid() != 0 and not is_dry and (wishes.service or wishes.firewall):
        remedy = "run it as root, or see with --dry-run what it would do"
        raise NotPermitted("setup changes the files and services of this host", "", remedy)


def _watched(progress: Progress, planned: Iterable[Step], done: Iterator[Step]) -> Iterator[Step]:
    """Yield from *done*, showing of each of *planned* that it is under way."""
    for step in planned:
        progress.show(f"{step.name}: {step.what}")
        with progress:
            finished = next(done)
        yield finished
    yield from done  # raises what failed


class _Report:
    """Shows steps as they are done, or all at the end as JSON."""

    def __init__(self, choice: Choice, planned: Sequence[Step], is_dry: bool, as_json: bool) -> None:
        self._choice, self._planned, self._is_dry, self._as_json = choice, planned, is_dry, as_json
        self._steps: list[Step] = []
        self._output = Output()

    def check_output(self) -> None:
        """Raise VmfenceError when what was done could not be told: it was done all the same."""
        remedy = "all steps were carried out; to see how it stands run: vmfence host setup --dry-run"
        self._output.check(remedy if not self._is_dry else "nothing was changed")

    def add(self, step: Step) -> None:
        self._steps.append(step)
        if not self._as_json:
            self._output.echo("\n".join(map(printable, _lines(step))))

    def end(self) -> None:
        """Show what it came to, also when it was broken off."""
        for step in steps.unfinished(self._planned, len(self._steps)):
            self.add(step)
        states = [step.state for step in self._steps]
        is_ready = State.FAILED not in states
        commands = list(host_setup.next_commands(self._choice.settings)) if is_ready else []
        has_changed = steps.has_changed(self._planned, self._steps) and not self._is_dry
        if self._as_json:
            shown = [step.as_dict() for step in self._steps]
            self._output.echo(json.dumps({"changed": has_changed, "steps": shown, "next": commands}, indent=2))
            return
        self._output.echo(_summary(states, self._is_dry))
        if commands and not self._is_dry:
            is_complete = not {State.BY_HAND, State.LEFT_OUT} & set(states)
            when = "Next" if is_complete else "Next, when that is done"
            self._output.echo(printable(f"{when}, on a guest {host_setup.condition(self._choice.settings)}:"))
            self._output.echo("".join(f"  {printable(command)}\n" for command in commands), nl=False)


def _summary(states: list[State], is_dry: bool) -> str:
    if is_dry:
        is_blocked = State.FAILED in states
        return "Nothing was changed: --dry-run." + (" It would stop at what failed." if is_blocked else "")
    if State.FAILED in states:
        return "Stopped. Mend what failed and run it again: what is done stays done."
    if State.DONE not in states and State.BY_HAND in states:
        return "Nothing was changed. See what is to be done by hand."
    if State.DONE not in states:
        return "Nothing was changed: all was as it must be."
    if State.BY_HAND in states:
        return "All but what is to be done by hand is set up."
    return "All but what was left out is set up." if State.LEFT_OUT in states else "This host is set up."


def _lines(step: Step) -> list[str]:
    state, name = (f"{text:<{width}}" for text, width in zip((step.state.value, step.name), _WIDTHS))
    indent = " " * sum(_WIDTHS)
    has_reason = bool(step.why) and step.state not in (State.DONE, State.FAILED)  # error: line tells why it failed
    lines = [f"{state}{name}{step.what}" + (f" ({step.why.rstrip('.')})" if has_reason else "")]
    is_shown = step.state is not State.DONE
    lines += [f"{indent}  {command}" for command in step.commands if is_shown]
    return lines + [f"{indent}note: {note}" for note in step.notes]
