"""``vmfence cluster check``: would fencing work?"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import click

from vmfence import diagnose
from vmfence.cli import checking
from vmfence.cli.output import Progress
from vmfence.cluster import proofs
from vmfence.cluster.check import facts
from vmfence.cluster.check.checks import CHECKS
from vmfence.cluster.check.facts import Facts
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.diagnose import Report
from vmfence.errors import DeadlineExceeded, UsageError, VmfenceError

ALL_S, FIRST_S = 9.0, 4.0


@click.command()
@checking.check_options
@checking.fix_options
@click.option("--cib", metavar="FILE", help="Judge the configuration in FILE, and nothing of the running cluster.")
@click.option("--record", metavar="FILE", default=proofs.RECORD_FILE, show_default=True, help="Record of rehearsals.")
@click.pass_context
def check(
    ctx: click.Context,
    cib: str | None,
    record: str,
    strict: bool,
    as_json: bool,
    quiet: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    code: str | None,
    fix: bool,
    yes: bool,
) -> None:
    """Judge whether fencing would work, seen from this node: findings with evidence and remedy.

    Reads the configuration, the fencer, agents, keys, and asks the hosts; changes nothing without --fix and fences
    nobody. Run it as root on every node. Exit code 1: an error was found; else 3: this user may not see all; else 4:
    not all could be judged, for example because the cluster cannot be read.
    """
    if code is not None:
        checking.explain(CHECKS, code)
        return
    checking.known(CHECKS, only, skip)
    checking.fixing(fix, yes)
    if fix and cib is not None:
        raise UsageError("--fix mends this machine, and --cib judges a file", "", "leave one of them out")
    ctx.exit(
        checking.conclude(
            lambda: judge(cib, record, only, skip), strict=strict, as_json=as_json, quiet=quiet, fix=fix, yes=yes
        )
    )


def judge(cib: str | None, record: str, only: Collection[str], skip: Collection[str]) -> Report:
    """Return what the checks find now.  Raises the error of a file that cannot be read."""
    with Progress() as progress:
        progress.show("reading the cluster and asking the hosts")
        gathered = gather(Pacemaker(cib), record)
    if cib is not None and isinstance(gathered.cib, VmfenceError) and not isinstance(gathered.cib, DeadlineExceeded):
        raise gathered.cib
    return diagnose.judge(CHECKS, gathered, only, skip)


def gather(pacemaker: Pacemaker, record: str) -> Facts:
    """Return the facts, all of them within ALL_S seconds; those that take longer are errors."""
    end = time.monotonic() + ALL_S
    found: dict[str, Any] = diagnose.gather(facts.first_round(pacemaker, record), FIRST_S)
    second = facts.second_round(pacemaker, found["cib"])
    found.update(diagnose.gather(second, end - time.monotonic()))
    return facts.complete(found)
