"""``vmfence host status`` and ``vmfence host history``."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from vmfence.cli import config_choice
from vmfence.cli.output import printable
from vmfence.config import settings as configuration
from vmfence.config.settings import CONTROL_SOCKET, Settings
from vmfence.errors import ConfigError, ConfigErrors, ConfigNotPermitted, UsageError, VmfenceError
from vmfence.findings import counted
from vmfence.host import config_search, control
from vmfence.host import history as past
from vmfence.host.history import Event

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_ASK_S = 2.0
_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command()
@config_choice.option
@click.option("-s", "--socket", "path", metavar="FILE", help="Its control socket; no configuration is read then.")
@_as_json
def status(config: str | None, path: str | None, as_json: bool) -> None:
    """Show the running daemon: listeners, hypervisors, keys, counts, and what it rejected last.

    For root and the group vmfence.
    """
    found = control.ask(path or _socket(config))
    found["stale"] = control.stale_files(found)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(map(printable, _status_lines(found))))


def _socket(config: str | None) -> str:
    """Return the control socket that the configuration names, a faulty one too: the daemon may run with an older one.

    Who may not read it is served at the usual one.  Raises VmfenceError for one that was named and is not there.
    """
    try:
        return configuration.load(config_choice.find(config)).daemon.control_socket
    except ConfigNotPermitted:
        if config is not None:
            raise
        return CONTROL_SOCKET
    except (ConfigError, ConfigErrors) as fault:
        paths = config_search.paths_of(fault)
        if config is not None and not paths:
            raise
        click.echo(printable(f"warning: {fault}"), err=True)
        return config_search.control_socket(paths)[0]


@click.command()
@click.option("--since", metavar="TIME", help='How far back: "2h", "3d", or a date "2026-11-23 03:00".')
@click.option("-H", "--guest", metavar="NAME", help="Only this guest, by name or UUID.")
@click.option("--follow", is_flag=True, help="Then show what comes, until interrupted.")
@config_choice.option
@_as_json
def history(since: str | None, guest: str | None, follow: bool, config: str | None, as_json: bool) -> None:
    """Show who fenced whom: when, by whom, with what result, how long it took."""
    begin = 0.0 if since is None else _moment(since)
    folder = _state_dir(config)
    shown = 0
    try:
        for event in past.follow(folder) if follow else past.read(folder):
            if event.at >= begin and (guest is None or guest == event.guest or guest.lower() == event.uuid):
                click.echo(json.dumps(asdict(event)) if as_json else printable(_event_line(event)))
                shown += 1
    except KeyboardInterrupt:
        if not follow:
            raise
    if not shown:
        about = (f" of {guest}" if guest is not None else "") + (f" since {_time(begin)}" if since is not None else "")
        click.echo(printable(f"The history in {folder} has no record{about}."), err=True)


def _state_dir(config: str | None) -> str:
    """Return the folder that the running daemon writes to; that of the configuration where none runs with it.

    They differ when the daemon has refused to reload, or was not told to.
    """
    try:
        settings = configuration.load(config_choice.find(config))
    except (ConfigError, ConfigErrors) as fault:
        status = _running(config_search.control_socket(config_search.paths_of(fault))[0])
        if status is None or isinstance(fault, ConfigNotPermitted):
            raise
        click.echo(printable(f"warning: {fault}"), err=True)
        return str(status["state_dir"])
    wanted = os.path.abspath(settings.daemon.state_dir)
    found = _folder_in_use(settings)
    if found is not None and found != wanted:
        note = f"note: the daemon that runs writes to {found}, not to {wanted} as {settings.path} says now"
        click.echo(printable(note), err=True)
    return found or settings.daemon.state_dir


def _folder_in_use(settings: Settings) -> str | None:
    """Return the state_dir of the daemon that runs with the file of *settings*, None where none is heard."""
    for place in dict.fromkeys((settings.daemon.control_socket, CONTROL_SOCKET)):
        status = _running(place)
        if status is not None and status["config"] == os.path.abspath(settings.path):
            return str(status["state_dir"])
    return None


def _running(place: str) -> dict[str, Any] | None:
    try:
        return control.ask(place, _ASK_S)
    except VmfenceError:
        return None


def _event_line(event: Event) -> str:
    detail = f"  {event.detail}" if event.detail else ""
    who = f"{event.origin} ({event.via})"
    return f"{_time(event.at)}  {event.action:<7} {event.guest:<32} {event.result:<7} {event.ms:>6} ms  {who}{detail}"


def _status_lines(found: dict[str, Any]) -> Iterable[str]:
    up = _duration(time.time() - found["started_at"])
    yield f"{found['program']}, process {found['pid']}, up {up}, configuration {found['config']}"
    for path in found["stale"]:
        if os.path.lexists(path):
            yield f"changed since the daemon read it: {path}; have it read with: {control.reload_command(found['pid'])}"
        else:
            yield f"gone since the daemon read it: {path}; put it back, the next start fails without it"
    refused = found["refused_reload"]
    if refused is not None:
        why = ". ".join(filter(None, (refused["reason"], refused["remedy"])))
        yield f"reload refused at {_time(refused['at'])}, what was in force before stays: {why}"
    yield "listeners"
    for listener in found["listeners"]:
        yield f"  {listener['where']}: {'open' if listener['is_open'] else listener['trouble']}"
        for place, reason in listener["unheard"].items():
            yield f"    not heard: {place}: {reason}"
    yield f"backend {found['backend']}"
    for hypervisor in found["hypervisors"]:
        calls = f", calls under way: {hypervisor['calls']}" if hypervisor["calls"] else ""
        yield f"  {hypervisor['uri']}: {_contact(hypervisor)} (connections: {hypervisor['connections']}{calls})"
    yield from _pool_lines(found.get("pool"))
    yield "keys"
    for key in found["keys"]:
        yield f"  {key['owner']}: {key['path']} SHA256 {key['sha256']}"
    yield f"access rules: {found['access_rules'] or 'none, who has the key may act on every guest'}"
    yield f"requests: {found['in_flight']} in flight"
    for count in found["requests"]:
        yield f"  {count['action']} {count['result']}: {count['count']}"
    if found["signatures"]["trouble"]:
        why = found["signatures"]["trouble"]
        yield f"accepted signatures: not kept on disk, so after a restart recordings of them count as new: {why}"
    past_trouble = found["history"]
    if past_trouble["lost"]:
        last = f", the last one: {past_trouble['trouble']}" if past_trouble["trouble"] else "; it works again"
        yield f"history: {counted(past_trouble['lost'], 'record')} could not be written{last}"
    for one in found["last_failed"][-5:]:
        yield f"  {_time(one['at'])} {one['origin']} {one['action']} failed: {one['reason']}"
    yield f"rejected packets: {sum(found['rejected'].values())}"
    for reason, number in found["rejected"].items():
        yield f"  {reason}: {number}"
    for reject in found["last_rejected"][-5:]:
        yield f"  {_time(reject['at'])} {reject['origin']}: {reject['reason']}"


def _contact(hypervisor: dict[str, Any]) -> str:
    """Return when a hypervisor was heard last: the daemon asks it for requests alone, so it may hang since."""
    at = hypervisor["answered_at"]
    if hypervisor["is_answering"]:
        return f"answered at {_time(at)}" if at else "not asked yet"
    return f"{hypervisor['trouble'].rstrip('.')}; " + (f"answered last at {_time(at)}" if at else "never answered")


def _pool_lines(pool: dict[str, Any] | None) -> Iterable[str]:
    if pool is None:
        return
    state = f"host {pool['node']}, {'quorate' if pool['is_quorate'] else 'not quorate'}" if pool["node"] else ""
    yield f"pool: {'; '.join(filter(None, (state, pool['trouble'])))}"
    for host in pool["hosts"]:
        left = "" if host["left_at"] is None else f", seen last {_time(host['left_at'])}"
        here = host["program"] if host["is_here"] else f"away{left}"
        guests = "its guests are not known" if host["guests"] is None else f"guests: {host['guests']}"
        yield f"  {host['node']} {host['name']}: {here}, {guests}"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60) % 60, int(seconds // 3600) % 24, int(seconds // 86400)
    parts = [f"{days} d"] if days else []
    parts += [f"{hours} h"] if days or hours else []
    parts += [f"{minutes} min"] if seconds >= 60 else [f"{int(seconds)} s"]
    return " ".join(parts)


def _moment(text: str) -> float:
    """Return the moment meant by *text* in seconds of the wall clock.  Raises UsageError."""
    ago = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if ago:
        return time.time() - int(ago[1]) * _UNITS_S[ago[2]]
    for form in _FORMS if text.isascii() else ():
        try:
            return time.mktime(time.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    raise UsageError(f"{text!r} is no time", "", 'give how far back ("30m", "2h", "3d") or a date ("2026-11-23 03:00")')
