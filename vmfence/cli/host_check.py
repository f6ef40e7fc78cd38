"""``vmfence host check``: would fencing work on this host?"""

from __future__ import annotations

import time
from typing import Any

import click

from vmfence import diagnose
from vmfence.cli import checking, config_choice
from vmfence.cli.output import Progress
from vmfence.diagnose import Report
from vmfence.errors import ConfigNotPermitted, VmfenceError
from vmfence.host import facts
from vmfence.host.checks import CHECKS
from vmfence.host.facts import Facts

ALL_S, FIRST_S = 9.0, 2.0


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
    changes nothing without --fix and fences nobody. Run it as root. Exit code 1: an error was found; 3: no error, but
    this user may not read the configuration.
    """
    if code is not None:
        checking.explain(CHECKS, code)
        return
    checking.known(CHECKS, *only, *skip)
    config = _named(config)
    found = gather(config)
    report = diagnose.judge(CHECKS, found, only, skip)
    if fix and checking.mend(report, yes):
        found = gather(config)
        report = diagnose.judge(CHECKS, found, only, skip)
    checking.show(report, quiet, as_json)
    ctx.exit(_exit_code(report, strict, found))


def _named(config: str | None) -> str | None:
    """Return the configuration to judge, told where it is not the usual one; None: why there is none is a finding."""
    try:
        return config_choice.find(config)
    except VmfenceError:
        return None


def gather(config: str | None) -> Facts:
    """Return the facts, all of them within ALL_S seconds; those that take longer are errors."""
    end = time.monotonic() + ALL_S
    with Progress() as progress:
        progress.show("looking at this host and asking its daemon")
        found: dict[str, Any] = diagnose.gather(facts.load(config), FIRST_S)
        found.update(diagnose.gather(facts.everything(found["settings"]), end - time.monotonic()))
    return facts.complete(config, found)


def _exit_code(report: Report, strict: bool, found: Facts) -> int:
    """Return that of all checks; what could not be looked at for lack of rights is not taken for well."""
    ends_with = checking.exit_code(report, strict)
    if not ends_with and isinstance(found.settings, ConfigNotPermitted):
        return ConfigNotPermitted.exit_code
    return ends_with
