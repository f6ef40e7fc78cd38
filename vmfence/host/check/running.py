"""The daemon that runs, by its status and by systemd: whose it is, whether it has started, where it listens.  Pure.

What it runs with may be older than the configuration: then its status counts for what it does.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.config.settings import MulticastSettings
from vmfence.errors import VmfenceError
from vmfence.findings import explained
from vmfence.host import unit
from vmfence.host.check.facts import Facts

_MULTICAST = "multicast "  # how such a listener begins, and its interface follows; see MulticastListener.where()
_ON, _ANY = " on ", "the kernel's choice"


def is_of_service(facts: Facts) -> bool:
    """Whether the daemon that answers is the service's process; where systemd names none, whether the service runs."""
    if isinstance(facts.unit, VmfenceError) or isinstance(facts.status, VmfenceError):
        return False
    return facts.unit.main_pid == facts.status["pid"] if facts.unit.main_pid else facts.unit.is_active


def is_waiting(facts: Facts) -> bool:
    """Whether the daemon answers and has not finished its start: it waits for libvirt or an interface.

    systemd tells it of the service's; of any other what it has opened, which is nothing while it waits for libvirt.
    """
    if isinstance(facts.status, VmfenceError):
        return False
    return not facts.status["listeners"] or (is_of_service(facts) and facts.unit.is_starting)


def waits_for(facts: Facts) -> Iterator[str]:
    """Yield what a daemon that waits has not reached yet, as far as it tells."""
    for one in facts.status["hypervisors"]:
        if not one["is_answering"] and one["trouble"]:
            yield f"{one['uri']}: {one['trouble']}"
    for one in facts.status["listeners"]:
        if not one["is_open"]:
            yield f"{one['where']}: {one['trouble']}"
    if not isinstance(facts.settings, VmfenceError):
        yield from (f"{_where(one)}: not open yet" for one in facts.multicast if not runs_with(facts, one))


def runs_with(facts: Facts, one: MulticastSettings) -> bool:
    """Whether the daemon that answers has that listener of the configuration, open or not."""
    return _where(one) in _places(facts)


def is_outdated(facts: Facts, one: MulticastSettings) -> bool:
    """Whether the daemon runs without that listener, with a configuration of before, as is told of that."""
    if isinstance(facts.status, VmfenceError) or is_waiting(facts) or runs_with(facts, one):
        return False
    return facts.status["refused_reload"] is not None or (isinstance(facts.stale, tuple) and bool(facts.stale))


def interfaces(facts: Facts) -> set[str]:
    """Return the interfaces on which multicast is heard, or will be: none where guests have other ways as well.

    By the status of a daemon that has started, else by the configuration.
    """
    if isinstance(facts.status, VmfenceError) or is_waiting(facts):
        has_others = len(facts.multicast) < len(facts.settings.listeners)
        names = {one.interface for one in facts.multicast if one.interface}
    else:
        has_others = not all(where.startswith(_MULTICAST) for where in _places(facts))
        names = {where.rpartition(_ON)[2] for where in _places(facts)}
        names = {name for name in names if " " not in name}  # _ANY is the name of none
    return set() if has_others else names


def _places(facts: Facts) -> list[str]:
    return [str(one["where"]) for one in facts.status["listeners"]]


def _where(one: MulticastSettings) -> str:
    """Return how the daemon calls that listener in its status."""
    return f"{_MULTICAST}{one.address} port {one.port}{_ON}{one.interface or _ANY}"


def restart(facts: Facts) -> str:
    """Return how the daemon that answers is started anew.

    A restart of a service that waits in its start is not waited for: it might wait again, and the shell with it.
    """
    service, pid = facts.unit, facts.status["pid"]
    if isinstance(service, VmfenceError) or (service.is_manager and is_of_service(facts)):
        return f"systemctl restart{' --no-block' if is_waiting(facts) else ''} {unit.NAME}"
    if service.is_manager and service.path is not None:
        verb = "restart" if service.main_pid or service.is_active else "start"
        return f"kill {pid}; systemctl {verb}{' --no-block' if service.is_starting else ''} {unit.NAME}"
    return explained(f"kill {pid}", "then start it again as it was: vmfence host daemon")
