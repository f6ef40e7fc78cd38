"""Every error that vmfence raises on purpose: fields first, text made from them.

Light module (loaded by the fence agent): no imports.  Each class carries the exit code of the command line
(DESIGN: 0 done, 1 failed, 2 usage, 3 not permitted, 4 could not reach what it needs); the agent has its own.
"""

from __future__ import annotations


class VmfenceError(Exception):
    """Parent of all our errors.

    *what* went wrong, *why*, and the *remedy*: what the user can do.  Any part but the first may be empty.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        self.what, self.why, self.remedy = what, why, remedy
        super().__init__(what)

    def __str__(self) -> str:
        parts = (part.rstrip(".") for part in (self.what, self.why, self.remedy) if part)
        return " ".join(part if part.endswith("?") else f"{part}." for part in parts)


class UsageError(VmfenceError):
    """The command line or the standard input asks for something that makes no sense."""

    exit_code = 2


class NotPermitted(VmfenceError):
    """This user may not do that."""

    exit_code = 3


class KeyFileError(VmfenceError):
    """A shared key is missing, unreadable, too short, or readable by everybody."""


class KeyExposed(KeyFileError):
    """Others than root may use the key.

    *closing*: the command that takes that from them and does nothing else; none where a person must decide.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "", closing: tuple[str, ...] = ()) -> None:
        super().__init__(what, why, remedy)
        self.closing = closing


class KeyNotPermitted(KeyFileError):
    """This user may not read the key, or make one there."""

    exit_code = 3


class PacketError(VmfenceError):
    """Bytes from the network do not follow the protocol."""


class SignatureError(VmfenceError):
    """A packet is not signed as required: wrong key, or a weaker hash than asked for."""


class AuthenticationError(VmfenceError):
    """A challenge was not answered as it must be."""


class DeadlineExceeded(VmfenceError):
    """The time allowed for a step or a request is over."""

    exit_code = 4


class PolicyDenied(VmfenceError):
    """The access rules do not allow this origin to act on this guest."""

    exit_code = 3


class BackendError(VmfenceError):
    """The hypervisor refused or failed."""


class GuestNotFound(BackendError):
    """No hypervisor that we asked knows this guest.  Never means that it is off."""


class Unreachable(BackendError):
    """A hypervisor cannot be asked, so nothing is known."""

    exit_code = 4


class Unconfirmed(BackendError):
    """The action was carried out, but the state read back is not the one asked for."""


class ListenError(VmfenceError):
    """A socket cannot be opened: address, port or interface."""


class ConfigError(VmfenceError):
    """A fault in a configuration file.

    *path* and *line* (from 1; 0: the file as a whole) tell where.
    """

    def __init__(self, path: str, line: int, what: str, remedy: str = "") -> None:
        self.path, self.line = path, line
        super().__init__(f"{path}:{line}: {what}" if line else f"{path}: {what}", remedy=remedy)


class ConfigNotPermitted(ConfigError):
    """This user may not read the configuration file."""

    exit_code = 3


class ConfigErrors(VmfenceError):
    """All faults found in one configuration file, in file order; never empty."""

    def __init__(self, faults: tuple[ConfigError, ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(str(fault).rstrip(".") for fault in faults))


class ToolMissing(VmfenceError):
    """An outside program that this needs is not installed."""

    exit_code = 4


class ClusterUnreachable(VmfenceError):
    """Pacemaker or one of its daemons does not answer on this machine, so nothing is known of the cluster."""

    exit_code = 4


class CommandError(VmfenceError):
    """An outside program failed: *status* is its exit code, or minus the signal that ended it.

    The text shows what the program itself wrote, at most its last lines; *stderr* holds all of it.
    """

    LINES_MAX = 5

    def __init__(self, argv: tuple[str, ...], status: int, stderr: str, remedy: str = "") -> None:
        self.argv, self.status, self.stderr = argv, status, stderr
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        ended = f"was ended by signal {-status}" if status < 0 else f"failed with exit code {status}"
        super().__init__(f"{argv[0]} {ended}", "; ".join(lines[-self.LINES_MAX :]), remedy)
