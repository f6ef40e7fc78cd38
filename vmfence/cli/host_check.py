"""``vmfence host check``: would fencing work on this host?"""

from __future__ import annotations

import time
from typing import Any

import click

from vmfence import diagnose
from vmfence.cli import checking, config_choice
from vmfence.cli.output import Progress
from vmfence.diagnose import Report
from vmfence.errors import VmfenceError
from vmfence.host.check import facts
from vmfence.host.check.checks import CHECKS
from vmfence.host.check.facts import Facts

ALL_S, FIRST_S, PROGRAM_S = 9.0, 3.5, 3.0


@click.command()
@checking.check_options
@checking.fix_options
@config_choice.option
@click.pass_context
def check(
    ctx: click.Context,
    config: str | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    code: str | None,
    fix: bool,
    yes: bool,
) -> None:
    """Judge whether fencing would work on this host: findings with evidence and remedy.

    Reads configuration, keys, firewall, network and libvirt, asks the daemon, and sends it a request as a guest does;
    changes nothing without --fix and fences nobody. Run it as root. Exit code 1: an error was found; else 3: this user
    may not see all; else 4: not all could be judged.
    """
    if code is not None:
        checking.explain(CHECKS, code)
        return
    checking.known(CHECKS, only, skip)
    checking.fixing(fix, yes)
    is_told = False

    def judged() -> Report:
        nonlocal is_told
        found, note = gather(config)
        if note and not is_told:
            click.echo(note, err=True)
            is_told = True
        return diagnose.judge(CHECKS, found, only, skip)

    ctx.exit(checking.conclude(judged, strict=strict, as_json=as_json, quiet=quiet, fix=fix, yes=yes))


def gather(config: str | None) -> tuple[Facts, str]:
    """Return the facts, all of them within ALL_S seconds; those that take longer are errors.

    Also a note on where the configuration was found, "" where it is the usual one.
    """
    end = time.monotonic() + ALL_S
    with Progress() as progress:
        progress.show("looking at this host and asking its daemon")
        found: dict[str, Any] = diagnose.gather(facts.load(config), FIRST_S, PROGRAM_S)
        left_s = end - time.monotonic()
        found.update(diagnose.gather(facts.everything(found["settings"]), left_s, PROGRAM_S))
    place = found["place"]
    is_found = not isinstance(place, VmfenceError)
    return facts.complete(place.path if is_found else config, found), config_choice.note(place) if is_found else ""
