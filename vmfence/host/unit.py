"""The systemd service: its unit for this installation, where it belongs, and what systemd says about it.

The unit is data/vmfence.service; only its ExecStart is rewritten, and below that line stands what this configuration
needs beyond it.  A unit that a package brought is left alone if it fits.  Changes nothing but in install() and start().
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vmfence import proc
from vmfence.config.settings import (
    CONTROL_SOCKET,
    STATE_DIR,
    MulticastSettings,
    SerialSettings,
    Settings,
)
from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.host import configure, execstart
from vmfence.host.execstart import Start

NAME = execstart.NAME
RIVAL = "fence_virtd.service"
SHIPPED = os.path.join(os.path.dirname(__file__), "data", NAME)
INSTALL_PATH = f"/etc/systemd/system/{NAME}"
# Where a package may have put it; systemd's order, so one of ours in /etc wins.
_PACKAGED = tuple(f"{folder}/systemd/system/{NAME}" for folder in ("/usr/local/lib", "/usr/lib", "/lib"))
_RUNNING_SYSTEMD = "/run/systemd/system"  # sd_booted(3)
_HIDDEN = ("/tmp/", "/var/tmp/")  # PrivateTmp
# One that runs may take TimeoutStopSec= of the unit to finish what is under way, before the new one starts.
STOP_S, _START_S = 60.0, 45.0
RESTART_S = STOP_S + _START_S
_ASK_S = 15.0


@dataclass(frozen=True)
class UnitFacts:
    """What is there.  *path* None: no unit; *is_manager* False: no systemd runs, and the rest means nothing.

    *is_masked*: somebody has forbidden systemd to start it; *start*: what it starts; *main_pid*: its process, or 0.
    *is_starting*: it was started and is not ready yet, or will be started again in a moment.
    """

    is_manager: bool = False
    path: str | None = None
    text: str = ""
    is_enabled: bool = False
    is_active: bool = False
    is_rival_enabled: bool = False
    is_masked: bool = False
    start: Start = field(default_factory=Start)
    main_pid: int = 0
    is_starting: bool = False

    @property
    def is_packaged(self) -> bool:
        """Whether the unit is a package's."""
        return self.path in _PACKAGED


def program() -> tuple[str, ...]:
    """Return the words that start this installation's ``vmfence``."""
    beside = os.path.join(os.path.dirname(sys.executable), "vmfence")
    if os.access(beside, os.X_OK):
        return (beside,)
    started = os.path.realpath(sys.argv[0])
    is_ours = os.path.basename(started) == "vmfence" and os.access(started, os.X_OK)
    return (started,) if is_ours else (sys.executable, "-m", "vmfence")


def extras(settings: Settings, key_owners: Iterable[int] = (0,)) -> tuple[str, ...]:
    """Return the settings that the service needs beyond the unit shipped; *key_owners*: user ids of the key files."""
    daemon, lines = settings.daemon, []
    if not _is_below(daemon.state_dir, STATE_DIR):
        lines.append(f"ReadWritePaths={_quoted(daemon.state_dir)}")
    if not _is_below(daemon.control_socket, os.path.dirname(CONTROL_SOCKET)):
        lines.append(f"ReadWritePaths=-{_quoted(os.path.dirname(daemon.control_socket))}")
    ports = [one.port for one in settings.listeners if not isinstance(one, (MulticastSettings, SerialSettings))]
    udp_ports = [one.port for one in settings.listeners if isinstance(one, MulticastSettings)]
    if any(port < 1024 for port in ports + udp_ports):
        lines.append("CapabilityBoundingSet=CAP_NET_BIND_SERVICE")
    # Sockets of guests belong to the hypervisor's user, and root without this right is any other.
    has_channels = any(isinstance(one, SerialSettings) for one in settings.listeners)
    if has_channels or any("/session" in uri for uri in settings.backend.uris) or any(key_owners):
        lines.append("CapabilityBoundingSet=CAP_DAC_OVERRIDE")
    return tuple(lines)


def render(shipped: str, argv: Sequence[str], config: str | None, more: Sequence[str] = ()) -> str:
    """Return the unit *shipped* with ExecStart running *argv*, and the lines *more* below it.

    *config* None: it is not named, because the daemon finds it.  Raises VmfenceError for a program that the service
    could not see.
    """
    if argv[0].startswith(_HIDDEN):
        why, remedy = "services have a /tmp of their own", "install vmfence elsewhere, as in /opt"
        raise VmfenceError(f"the service cannot run {argv[0]}", why, remedy)
    words = [*argv, "host", "daemon", "--wait-for-init"]
    words += [] if config is None else ["--config", os.path.abspath(config)]
    line = " ".join(_quoted(word).replace("$", "$$") for word in words)
    lines = "\n".join([f"ExecStart={line}", *more])
    return re.sub("^ExecStart=.*$", lambda _: lines, shipped, count=1, flags=re.MULTILINE)


def check_visible(path: str) -> None:
    """Raise VmfenceError for a file that the service could not see, also behind a link."""
    for each in (os.path.abspath(path), os.path.realpath(path)):
        if each.startswith(_HIDDEN):
            why, remedy = "services have a /tmp and /var/tmp of their own", "put it elsewhere, as in /etc"
            raise VmfenceError(f"the service cannot read {path}", why, remedy)


def _quoted(word: str) -> str:
    """Return *word* as systemd.syntax(7) reads it back: one word, without specifiers."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if re.fullmatch(r"[\w./:=,@+%$-]+", text) else f'"{text}"'


def _is_below(path: str, folder: str) -> bool:
    return os.path.normpath(path) == folder or os.path.normpath(path).startswith(f"{folder}/")


def shipped_text() -> str:
    """Return the unit as it is shipped."""
    with open(SHIPPED, encoding="utf-8") as file:
        return file.read()


def look() -> UnitFacts:
    """Return what is there.  Raises VmfenceError when a unit cannot be read or systemd does not answer."""
    if not _is_systemd():
        return UnitFacts()
    path, text = _read()
    state = _systemctl("is-active", NAME)
    if not state:
        raise VmfenceError("systemd does not say how the service stands", "", "see: systemctl status, or --no-service")
    ours, rival = (_systemctl("is-enabled", name) for name in (NAME, RIVAL))
    is_active, is_masked = state in ("active", "reloading"), ours.startswith("masked")
    pid = _systemctl("show", "--property=MainPID", "--value", NAME)
    return UnitFacts(
        True,
        path,
        text,
        ours == "enabled",
        is_active,
        rival == "enabled",
        is_masked,
        execstart.read(),
        int(pid) if pid.isdecimal() else 0,
        state == "activating",
    )


def _is_systemd() -> bool:
    return os.path.isdir(_RUNNING_SYSTEMD) and shutil.which("systemctl") is not None


def _read() -> tuple[str | None, str]:
    """Return path and text of the unit, (None, "") without one; one that is masked is a link to nothing."""
    path = execstart.find_unit()
    if path is None or os.path.realpath(path) == os.devnull:
        return path, ""
    return path, (configure.read_file(path) or b"").decode("utf-8", "replace")


def install(text: str, folders: Iterable[str] = ()) -> None:
    """Write the unit for systemd to find, keep an old one under a dated name; make *folders* that it writes to."""
    for folder in folders:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise VmfenceError(f"cannot make {folder}", error.strerror or str(error)) from error
    before = configure.read_file(INSTALL_PATH)
    if before != text.encode():
        configure.replace_file(INSTALL_PATH, before, text.encode())
    try:
        os.chmod(INSTALL_PATH, 0o644)  # systemd complains about units that only root may read
    except OSError as error:
        raise VmfenceError(f"cannot set the mode of {INSTALL_PATH}", error.strerror or str(error)) from error


def start() -> None:
    """Have the service started now, with its unit as it is, and at every boot.

    Always a restart: what is just starting may have read what was there before.  Raises VmfenceError with the daemon's
    last words.
    """
    _must("daemon-reload")
    _must("enable", NAME)
    try:
        done = proc.run(["systemctl", "restart", NAME], RESTART_S)
        why = (
            "" if done.status == 0 else done.stderr.strip().partition("\n")[0] or f"systemctl ended with {done.status}"
        )
    except DeadlineExceeded:
        why = f"it is not ready after {RESTART_S:.0f} s"
    if why:
        remedy = f"see journalctl -u {NAME}"
        raise VmfenceError("the service does not start", _last_words() or why, remedy)


def _systemctl(*words: str) -> str:
    return proc.run(["systemctl", *words], _ASK_S).stdout.strip()


def _must(*words: str) -> None:
    done = proc.run(["systemctl", *words], _ASK_S)
    if done.status:
        raise VmfenceError(f"systemctl {' '.join(words)} failed", done.stderr.strip().partition("\n")[0])


def _last_words() -> str:
    """Return the last complaint of the daemon in the journal, or nothing."""
    try:
        done = proc.run(["journalctl", "--unit", NAME, "--output=cat", "--lines=20", "--no-pager"], _ASK_S)
    except VmfenceError:
        return ""
    words = [line for line in done.stdout.splitlines() if line.startswith(("error: ", "ERROR ", "WARNING "))]
    return words[-1].partition(" ")[2] if words else ""
