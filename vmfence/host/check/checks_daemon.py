"""Checks of the daemon and its service: does it run, with what is there now, alone, and at the next boot?  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.config.settings import MulticastSettings, TcpSettings
from vmfence.errors import NotPermitted, Unreachable, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, Severity, explained
from vmfence.host import control, ground, network, unit
from vmfence.host.check import checks_rejected, checks_setup, running, scope
from vmfence.host.check.facts import Facts
from vmfence.host.kernel import Holder

_START = ("systemctl", "start", unit.NAME)
_ANY = {"0.0.0.0", "::"}


def _second(facts: Facts) -> Iterator[Fault]:
    for holder in facts.holders:
        if _is_in_the_way(facts, holder):
            message = "another program listens there: it takes requests that the daemon should answer, or keeps it out"
            is_rival = holder.program == ground.RIVAL
            shown = explained(f"ps -fp {holder.pid}", "shows it: end it, or give one of the two another port")
            remedy = f"systemctl disable --now {ground.RIVAL}" if is_rival else shown
            yield Fault(ERROR, f"{holder.protocol.upper()} {holder.port}", message, str(holder), remedy)


def _is_in_the_way(facts: Facts, holder: Holder) -> bool:
    """Whether the socket is at an address of a listener and not our daemon's."""
    kind = MulticastSettings if holder.protocol == "udp" else TcpSettings
    wanted = {one.address for one in facts.settings.listeners if isinstance(one, kind) and one.port == holder.port}
    collides = holder.address in wanted or holder.address in _ANY or (kind is TcpSettings and wanted & _ANY)
    if not wanted or not collides or not holder.pid:
        return False
    pids = set(_pids(facts))
    is_hidden = isinstance(facts.status, NotPermitted) and not any(pids)
    return holder.pid not in pids and not is_hidden


def _pids(facts: Facts) -> Iterator[int]:
    """Yield the processes that are our daemon: by its status, its control socket, its service."""
    if not isinstance(facts.status, VmfenceError):
        yield facts.status["pid"]
    if not isinstance(facts.peer, VmfenceError):
        yield facts.peer
    if not isinstance(facts.unit, VmfenceError):
        yield facts.unit.main_pid


def _daemon(facts: Facts) -> Iterator[Fault]:
    error = facts.status
    if isinstance(error, control.Silent):
        message = "the daemon runs and does not answer, so no guest can be fenced"
        yield Fault(ERROR, "vmfence host daemon", message, ": ".join((error.what, error.why)), _restart(facts, error))
    elif isinstance(error, VmfenceError) and not isinstance(error, Unreachable):
        yield Fault(ERROR, "vmfence host daemon", error.what, error.why, error.remedy)
    elif isinstance(error, VmfenceError):
        service = facts.unit
        has_unit = not isinstance(service, VmfenceError) and service.is_manager and service.path is not None
        by_hand = explained("vmfence host setup", "or vmfence host daemon where no systemd runs")
        remedy = " ".join(_START) if has_unit else by_hand
        is_free = isinstance(facts.holders, tuple) and not any(_is_in_the_way(facts, one) for one in facts.holders)
        may_start = has_unit and is_free and facts.accepted is True
        seen = ": ".join(filter(None, (error.what, error.why)))
        message = "no daemon runs, so no guest can be fenced"
        yield Fault(ERROR, "vmfence host daemon", message, seen, remedy, _START if may_start else None)
    elif running.is_waiting(facts):
        message = (
            "the daemon waits in its start for what is not there yet, and until then serves not all guests, or none"
        )
        remedy = explained(checks_setup.log(facts), "tells more; the daemon goes on by itself when that is there")
        seen = "; ".join(running.waits_for(facts)) or "its start is not over"
        yield Fault(ERROR, f"process {facts.status['pid']}", message, seen, remedy)


def _restart(facts: Facts, error: control.Silent) -> str:
    """Return how to restart a daemon that hangs: by its service only if it is the service's."""
    service = facts.unit
    if isinstance(service, VmfenceError) or not error.pid:
        return error.remedy
    if service.main_pid and service.main_pid != error.pid:
        command = f"kill -KILL {error.pid} && systemctl restart {unit.NAME}"
        return explained(command, "by its number, for it is not the service's")
    if service.is_manager and service.path is not None:
        return f"systemctl restart {unit.NAME}"
    return explained(f"kill -KILL {error.pid}", "then start it again as it was: vmfence host daemon")


def _stale(facts: Facts) -> Iterator[Fault]:
    path_in_use, refused = facts.status["config"], facts.status["refused_reload"]
    if refused is not None:
        message = "the daemon refused to read this again, and goes on with what it had before"
        seen = f"{checks_rejected.time_of_day(refused['at'])}: {refused['reason']}"
        yield Fault(ERROR, path_in_use, message, seen, _after_refusal(facts))
    keys = {key.path for key in facts.keys} if not isinstance(facts.keys, VmfenceError) else set()
    # Where requests are not answered by the settings that are there now, this is why, as far as anybody knows.
    severity = ERROR if facts.is_served() is False else WARNING
    for path in facts.stale:
        if path in keys or (refused is not None and path == path_in_use):
            continue  # told by fingerprint, or above
        if path not in (path_in_use, facts.path):
            yield _stale_beside(facts, path, severity)
        elif path == path_in_use:
            message, seen = "the daemon does not run with the configuration as it is now", "changed since it was read"
            remedy, fix = checks_setup.reload(facts)
            if isinstance(facts.settings, VmfenceError):
                remedy, fix = explained(remedy, "once it is mended"), None
            yield Fault(severity, path, message, seen, remedy, fix)
        else:
            message = "the daemon does not run with this configuration"
            yield Fault(severity, path, message, f"it runs with {path_in_use}", running.restart(facts))


def _stale_beside(facts: Facts, path: str, severity: Severity) -> Fault:
    """Return the finding about a key of the daemon, or the unit, at *path*."""
    if path.endswith(".service"):
        remedy = f"systemctl daemon-reload && {running.restart(facts)}"
        return Fault(NOTE, path, "the unit was changed since the daemon was started", "", remedy)
    message = "a key of the daemon was changed or removed since it was read"
    return Fault(severity, path, message, "", explained(checks_setup.reload(facts)[0], "if that is meant"))


def _after_refusal(facts: Facts) -> str:
    """Return what to do about a refused reload."""
    remedy = str(facts.status["refused_reload"]["remedy"])
    if remedy == control.RESTART:
        return explained(running.restart(facts), "or take that change back")
    return explained(checks_setup.reload(facts)[0], f"once it is mended: {remedy}" if remedy else "once it is mended")


def _listener(facts: Facts) -> Iterator[Fault]:
    for one in facts.status["listeners"]:
        if not one["is_open"]:
            severity = WARNING if one["is_optional"] else ERROR
            message = "the daemon runs, and no request can arrive there"
            yield Fault(severity, str(one["where"]), message, str(one["trouble"]), checks_setup.log(facts))


def _unheard(facts: Facts) -> Iterator[Fault]:
    told = [each for one in facts.status["listeners"] if one["is_open"] for each in one["unheard"].items()]
    for why in dict.fromkeys(reason for _, reason in told):
        guests = network.some([guest for guest, reason in told if reason == why])
        message = "the daemon does not hear what the guest writes there, so it cannot ask for fencing"
        yield Fault(WARNING, guests, message, why, explained("ss -xp", "shows who holds the socket: end that program"))


def _hypervisor(facts: Facts) -> Iterator[Fault]:
    reached = {one.uri for one in facts.libvirt.found} if not isinstance(facts.libvirt, VmfenceError) else set()
    for one in facts.status["hypervisors"]:
        if not one["is_answering"] and one["uri"] in reached:
            message = "this check reaches libvirt, and the daemon did not when it asked last"
            remedy = explained(checks_setup.log(facts), "it asks anew with each request")
            yield Fault(WARNING, str(one["uri"]), message, str(one["trouble"]), remedy)


def _boot(facts: Facts) -> Iterator[Fault]:
    service = facts.unit
    if not service.is_manager:
        yield Fault(NOTE, "service", "no systemd runs here: see that the daemon is started at boot by other means")
    elif service.path is None:
        message = "there is no service, so nothing starts the daemon at boot"
        yield Fault(WARNING, unit.NAME, message, f"no {unit.INSTALL_PATH}", "vmfence host setup")
    elif not service.is_enabled:
        fix = ("systemctl", "enable", unit.NAME)
        yield Fault(
            WARNING,
            unit.NAME,
            "the daemon does not come back after a boot of this host",
            "not enabled",
            " ".join(fix),
            fix,
        )


def _beside(facts: Facts) -> Iterator[Fault]:
    service, pid = facts.unit, facts.status["pid"]
    if service.is_manager and service.path is not None and not running.is_of_service(facts):
        message = "the daemon that runs was started by hand: nothing restarts it when it ends"
        seen = f"{unit.NAME} {f'is process {service.main_pid}' if service.main_pid else 'is not active'}"
        yield Fault(WARNING, f"process {pid}", message, seen, running.restart(facts))


def _rival_at_boot(facts: Facts) -> Iterator[Fault]:
    if facts.unit.is_rival_enabled:
        message = "it starts at the next boot as well, and one of the two does not get the port"
        yield Fault(WARNING, unit.RIVAL, message, "enabled", f"systemctl disable --now {ground.RIVAL}")


SECOND = Check(
    "host-second-daemon",
    "no other program listens at the daemon's port",
    """fence_virtd and vmfence cannot serve the same port: the second one does not start, or both answer and the faster
    one wins. Sockets are looked up in /proc; only root sees whose they are.""",
    _second,
    ("settings", "holders", "peer"),
    doubt=scope.ports,
)
DAEMON = (
    Check(
        "host-daemon",
        "the daemon runs and answers",
        """It is asked at its control socket, by root or the group vmfence. One that hangs does not answer
        either. One that waits in its start, for libvirt or an interface, answers here and serves nobody yet.""",
        _daemon,
        ("allowed",),
    ),
    Check(
        "host-daemon-stale",
        "the daemon runs with the files that are there now",
        """Configuration and keys are read at the start and on reload; a reload with a faulty file is refused and keeps
        what was in force before. The unit counts from the next start on.""",
        _stale,
        ("stale", "status"),
    ),
)
LISTENER = Check(
    "host-listener",
    "all listeners of the daemon are open",
    """The daemon tells what keeps a listener closed: an interface that is gone, an address that is taken, a group that
    cannot be joined. It tries again by itself. An optional listener that is closed is a warning.""",
    _listener,
    ("status",),
    doubt=scope.started,
)
CHANNEL = Check(
    "host-channel-unheard",
    "the daemon is connected to all channels of guests",
    """A hypervisor serves one program at a time at the socket of a channel. The next one is connected and waits, and
    who was first gets what the guest says: another daemon, a console, a terminal program. The kernel tells whether a
    connection was accepted; told is what has been so for some seconds.""",
    _unheard,
    ("settings", "status"),
    doubt=scope.channels,
)
LOST = Check(
    "host-libvirt-lost",
    "the daemon reaches the libvirt that this check reaches",
    """The daemon holds connections of its own. When libvirt was restarted it opens new ones with the next
    request.""",
    _hypervisor,
    ("status", "libvirt"),
    doubt=scope.reached_libvirt,
)
CHECKS = (
    Check(
        "host-boot",
        "the daemon starts at boot",
        """A host that comes back without its daemon fences nobody, and nobody notices before it is needed.""",
        _boot,
        ("unit",),
    ),
    Check(
        "host-beside-service",
        "the daemon that runs is the service's",
        """One that was started by hand has no watchdog and is not started again when it ends. systemd tells
        which process is the service's.""",
        _beside,
        ("unit", "status"),
        doubt=scope.service,
    ),
    Check(
        "host-rival-at-boot",
        "fence_virtd does not start at boot",
        """It would take the port that the daemon needs, or the other way round.""",
        _rival_at_boot,
        ("unit",),
        doubt=scope.manager,
    ),
)
