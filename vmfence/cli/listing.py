"""``vmfence host list``: the guests of this host, as libvirt tells them; needs no running daemon."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import click

from vmfence.cli import config_choice
from vmfence.cli.output import Progress, printable, table
from vmfence.config import settings
from vmfence.config.settings import ListenerSettings, SerialSettings, Settings
from vmfence.errors import ConfigError, Unreachable
from vmfence.host import choice
from vmfence.host.backends.inventory import GuestFacts, Inventory, candidate_uris, survey
from vmfence.policy import Group

_HEAD = ("NAME", "UUID", "STATE", "BRIDGES", "MAY BE FENCED BY")


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
    included. Exit code 4: some libvirt that should answer does not, so the list is incomplete.
    """
    configured = _configuration(config)
    named = uris or (configured.backend.uris if configured else ())
    found, silent = _ask(named or candidate_uris())
    guests = [(one, guest) for one in found for guest in one.guests]
    if as_json:
        click.echo(json.dumps([_record(one, guest, configured) for one, guest in guests], indent=2))
    else:
        table(_HEAD, [_row(guest, configured) for _, guest in guests])
    if found and not guests:
        _hint(named)
    if configured is not None and not silent:
        for doubt in choice.unknown_targets(configured, found):
            click.echo(printable(f"warning: {doubt}"), err=True)
    for error in silent[1:] if named or not found else silent:
        click.echo(printable(f"{'error' if named or not found else 'warning'}: {error}"), err=True)
    if silent and (named or not found):
        raise silent[0]


def _configuration(path: str | None) -> Settings | None:
    """Return the configuration, None when there is none.  Raises ConfigError, ConfigErrors for a faulty one."""
    try:
        found = config_choice.find(path)
    except ConfigError:
        return None
    return settings.load(found)


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


def _record(inventory: Inventory, guest: GuestFacts, configured: Settings | None) -> dict[str, object]:
    """Return one guest for JSON.  *groups* is null where no groups decide, *access* where nothing is configured."""
    groups = _groups(guest, configured)
    return {
        "name": guest.name,
        "uuid": guest.uuid,
        "state": guest.state_text,
        "persistent": guest.is_persistent,
        "uri": inventory.uri,
        "bridges": guest.bridges,
        "macvtap": guest.direct,
        "unknown_networks": guest.unresolved,
        "access": _access(guest, configured),
        "groups": groups,
    }


def _row(guest: GuestFacts, configured: Settings | None) -> tuple[str, ...]:
    links = [*guest.bridges, *(f"{name} (macvtap)" for name in guest.direct)]
    links += [f"{name} (unknown network)" for name in guest.unresolved]
    access = _access(guest, configured) or "no configuration"
    return guest.name, guest.uuid, guest.state_text, ", ".join(links) or "none", access


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
