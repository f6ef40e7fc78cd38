"""``vmfence host list``: the guests of this host, as libvirt tells them; needs no running daemon.

Where the host is one of a pool, the guests of all its hosts: those of the others as the daemon has heard of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import click

from vmfence.cli import config_choice
from vmfence.cli.output import Progress, printable, table
from vmfence.config import settings
from vmfence.config.settings import ListenerSettings, SerialSettings, Settings
from vmfence.errors import ConfigError, ConfigErrors, Unreachable, VmfenceError
from vmfence.host import choice, config_search, pool_facts, pool_list, pool_report
from vmfence.host.backends.inventory import GuestFacts, Inventory, candidate_uris, survey
from vmfence.host.pool_list import Row
from vmfence.host.pool_report import PoolReport
from vmfence.policy import Group

_HEAD = ("NAME", "UUID", "STATE", "BRIDGES", "MAY BE FENCED BY")
_POOL_HEAD = ("NAME", "UUID", "STATE", "HOST", "BRIDGES", "MAY BE FENCED BY")
_POOL_S = 5.0


@click.command("list")
@config_choice.option
@click.option(
    "--uri",
    "uris",
    metavar="URI",
    multiple=True,
    help="Ask libvirt there, not where the configuration says. Several: again.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_guests(config: str | None, uris: tuple[str, ...], as_json: bool) -> None:
    """Show the guests of this host from libvirt: name, UUID, state, bridges, who may fence it.

    Asks libvirt itself, not the daemon. Without a configuration it looks wherever guests usually are, users' sessions
    included. In a pool (backend cpg) the daemon is asked as well, for the guests of the other hosts, and which host has
    each. Exit code 4: some libvirt or daemon that should answer does not, so the list is incomplete. With a faulty
    configuration the libvirt that the running daemon asks counts; who may fence is not known then, and the exit code 1.
    """
    configured, fault = _configuration(config)
    named = uris or (configured.backend.uris if configured else _uris_of_daemon(fault))
    found, silent = _ask(named or candidate_uris())
    pool, trouble = (None, None) if uris or configured is None else _pool(configured)
    rows = pool_list.rows(found, pool)
    if as_json:
        click.echo(json.dumps([_record(row, configured) for row in rows], indent=2))
    else:
        unknown = "no configuration" if fault is None else "not known"
        table(_POOL_HEAD if pool else _HEAD, [_cells(row, configured, bool(pool), unknown) for row in rows])
    if found and not rows:
        _hint(named)
    if configured is not None and not silent and trouble is None:
        elsewhere = pool.facts() if pool else ()
        for doubt in (*(pool_list.doubts(pool) if pool else ()), *choice.unknown_targets(configured, found, elsewhere)):
            click.echo(printable(f"warning: {doubt}"), err=True)
    _tell_silent(silent, bool(named or not (found or fault)), fault or trouble)


def _tell_silent(silent: Sequence[Unreachable], is_wanted: bool, trouble: VmfenceError | None) -> None:
    """Tell who did not answer.  Raises the first of them when the list is incomplete without it."""
    errors: list[VmfenceError] = [*(silent if is_wanted else ()), *([trouble] if trouble else [])]
    for warning in () if is_wanted else silent:
        click.echo(printable(f"warning: {warning}"), err=True)
    for error in errors[1:]:
        click.echo(printable(f"error: {error}"), err=True)
    if errors:
        raise errors[0]


def _pool(configured: Settings) -> tuple[PoolReport | None, VmfenceError | None]:
    """Return what the daemon tells of the pool, None without one; or why the guests of other hosts are not known."""
    if not pool_facts.is_pool(configured):
        return None, None
    try:
        report = pool_report.ask(configured.daemon.control_socket, _POOL_S)
    except VmfenceError as error:
        return None, pool_list.incomplete(error)
    if report is None or not report.is_joined:
        return None, pool_list.incomplete(pool_list.not_joined(report))
    return report, None


def _configuration(path: str | None) -> tuple[Settings | None, VmfenceError | None]:
    """Return the configuration, None when there is none, and why one that is there cannot be used."""
    try:
        found = config_choice.find(path)
    except ConfigError:
        return None, None
    try:
        return settings.load(found), None
    except (ConfigError, ConfigErrors) as fault:
        if not config_search.paths_of(fault):
            raise
        return None, fault


def _uris_of_daemon(fault: VmfenceError | None) -> tuple[str, ...]:
    """Return where the daemon has its guests that may run with the configuration as it was before its *fault*."""
    if fault is None:
        return ()
    return config_search.daemon_uris(config_search.control_socket(config_search.paths_of(fault))[0])


def _hint(named: Sequence[str]) -> None:
    """Tell that there is no guest, and where there are some (spec faults 18)."""
    click.echo(printable(f"no guest at {', '.join(named or candidate_uris())}"), err=True)
    for other in _ask(uri for uri in candidate_uris() if named and uri not in named)[0]:
        if other.guests:
            click.echo(printable(f"but there are guests at {other}"), err=True)


def _ask(uris: Iterable[str]) -> tuple[list[Inventory], list[Unreachable]]:
    with Progress() as progress:
        progress.show("asking libvirt")
        return survey(dict.fromkeys(uris))


def _record(row: Row, configured: Settings | None) -> dict[str, object]:
    """Return one guest for JSON.  *groups* is null where no groups decide, *access* where nothing is configured.

    *hosts* is null where there is no pool; *persistent*, *uri* and the links where the guest is on another host alone.
    """
    guest, is_seen = row.guest, row.uri is not None
    return {
        "name": guest.name,
        "uuid": guest.uuid,
        "state": row.state,
        "persistent": guest.is_persistent if is_seen else None,
        "uri": row.uri,
        "bridges": guest.bridges if is_seen else None,
        "macvtap": guest.direct if is_seen else None,
        "unknown_networks": guest.unresolved if is_seen else None,
        "hosts": row.hosts,
        "access": _access(guest, configured),
        "groups": _groups(guest, configured),
    }


def _cells(row: Row, configured: Settings | None, is_pool: bool, unknown: str) -> tuple[str, ...]:
    guest = row.guest
    links = [*guest.bridges, *(f"{name} (macvtap)" for name in guest.direct)]
    links += [f"{name} (unknown network)" for name in guest.unresolved]
    shown = ", ".join(links) or "none" if row.uri is not None else "not seen from here"
    access = _access(guest, configured) or unknown
    places = (row.places,) if is_pool else ()
    return guest.name, guest.uuid, row.state, *places, shown, access


def _groups(guest: GuestFacts, configured: Settings | None) -> list[str] | None:
    """Return the labels of the groups that list *guest*; None without access rules."""
    if configured is None or configured.groups is None:
        return None
    rules = [Group(one.label, one.sources, one.targets) for one in configured.groups]
    return [rule.label for rule in rules if rule.lists(guest.name, guest.uuid)]


def _access(guest: GuestFacts, configured: Settings | None) -> str | None:
    """Return who may fence *guest*, as text; None when nothing is configured."""
    if configured is None:
        return None
    groups = _groups(guest, configured)
    if groups is not None:
        return ", ".join(groups) or "nobody"
    return "everybody" if any(map(_is_open, configured.listeners)) else "everybody with the key"


def _is_open(listener: ListenerSettings) -> bool:
    """Whether no key is needed: neither signature nor challenge."""
    return not isinstance(listener, SerialSettings) and {str(listener.hash), str(listener.auth)} == {"none"}
