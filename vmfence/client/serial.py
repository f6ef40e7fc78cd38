"""Ask through a byte pipe of the hypervisor's: a serial device, a virtio port, or a VM channel.

Light module (standard library only; the agent loads it when such a transport is used).  No key: the hypervisor vouches
for the guest behind the pipe.  What travels is in vmfence.protocol.serial.

One pipe serves one agent at a time, and an answer does not say which request it is for.  So a device is locked for the
whole exchange, with the lock that fence_virt takes, and the line is brought to order before the request is sent, see
vmfence.client.barrier.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import stat
import termios
import time

from vmfence.client import line_settings
from vmfence.client.barrier import LOG as _LOG
from vmfence.client.barrier import bring_to_order, numbered
from vmfence.client.direct import connect
from vmfence.client.failures import NoAnswer, NotAccepted
from vmfence.client.stream import Answer
from vmfence.errors import Unreachable, UsageError
from vmfence.protocol.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    Log = Callable[[str], None]

_WRITE_S = 3.0
_LOOK_AGAIN_S = 0.05
_LEFTOVER_READS_MAX = 256
_SIZES = {5: termios.CS5, 6: termios.CS6, 7: termios.CS7, 8: termios.CS8}
_PARITIES = {"N": 0, "E": termios.PARENB, "O": termios.PARENB | termios.PARODD}


def ask_device(request: Request, device: str, line: str, deadline: float, log: Log) -> Answer:
    """Ask through *device*, a terminal with the parameters *line* or a virtio port, until *deadline* (monotonic).

    Raises UsageError, Unreachable, NoAnswer, NotAccepted, PacketError.
    """
    with opened(device, line, deadline, log) as pipe:
        return pipe.ask(request, deadline)


def ask_channel(request: Request, address: str, port: int, deadline: float, log: Log) -> Answer:
    """Ask through the VM channel at *address*:*port*, which the host forwards.  Raises as ask_device()."""
    with connect(address, port, deadline - time.monotonic()) as sock:
        log(f"connected to {address} port {port}")
        sock.setblocking(False)
        return Pipe(sock.fileno(), f"{address} port {port}").ask(request, deadline)


@contextlib.contextmanager
def opened(device: str, line: str, deadline: float, log: Log) -> Iterator[Pipe]:
    """Lend *device*, locked and if it is a terminal in raw mode; leave it with the settings that it had.

    Waits until *deadline* (monotonic) for an agent that has it.  A signal that ends us is an interruption here, so that
    the terminal is left well then too.  Raises UsageError, Unreachable, NoAnswer.
    """
    parameters = line_settings.parse(line)
    with _interruptions(), contextlib.ExitStack() as stack:
        descriptor = _open(device, deadline, log)
        stack.callback(os.close, descriptor)
        _lock(descriptor, device, deadline, log)
        if os.isatty(descriptor):
            stack.enter_context(_raw(descriptor, device, parameters))
        yield Pipe(descriptor, device)


class Pipe:
    """An open pipe that does not block, called *name* in messages."""

    __slots__ = ("_descriptor", "name")

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self.name = descriptor, name

    def wait_for_host(self, limit_s: float) -> None:
        """Return once the pipe takes bytes.  Raises Unreachable after *limit_s*: nobody holds a port's other end."""
        if not select.select([], [self._descriptor], [], max(0.0, limit_s))[1]:
            raise Unreachable(f"{self.name} takes no bytes", "nothing on the host is connected to it", _LOG)

    def ask(self, request: Request, deadline: float) -> Answer:
        """Send *request*, once and only when the line is in order, and return its answer."""
        frame = numbered(request)
        self._drop_leftovers()
        answers = bring_to_order(self.name, self._send, self._receive, deadline)
        self._send(frame, deadline)
        code, records = answers.next(deadline)
        return Answer(code, records, self.name)

    def _drop_leftovers(self) -> None:
        for _ in range(_LEFTOVER_READS_MAX):
            try:
                if not os.read(self._descriptor, 4096):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                raise Unreachable(f"cannot read from {self.name}", error.strerror or str(error), _LOG) from error

    def _send(self, data: bytes, deadline: float) -> None:
        end = min(deadline, time.monotonic() + _WRITE_S)
        while data:
            self.wait_for_host(end - time.monotonic())
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Unreachable(f"cannot write to {self.name}", error.strerror or str(error), _LOG) from error

    def _receive(self, deadline: float) -> bytes:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                raise NoAnswer(f"nobody answered through {self.name} in time", "", _LOG)
            try:
                data = os.read(self._descriptor, 4096)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._left(error.strerror or str(error)) from error
            if not data:
                raise self._left("its other end was closed")
            return data

    def _left(self, why: str) -> NotAccepted:
        return NotAccepted(f"{self.name} was cut off before an answer came", why, _LOG)


def _open(device: str, deadline: float, log: Log) -> int:
    """Return a descriptor of *device* that does not block; a virtio port is open for one program at a time."""
    while True:
        try:
            descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", 0) != errno.EBUSY:
                reason = getattr(error, "strerror", None) or str(error)
                remedy = "name the device of this guest's channel, with -D"
                raise Unreachable(f"cannot open {device!r}", reason, remedy) from error
            _wait_turn(device, deadline, log)
            continue
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UsageError(f"{device!r} is no device", "", "name a serial device or a virtio port")
        return descriptor


def _lock(descriptor: int, device: str, deadline: float, log: Log) -> None:
    """Take the lock of the whole device that fence_virt takes too (fcntl(2), F_WRLCK)."""
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise Unreachable(f"cannot lock {device}", error.strerror or str(error)) from error
        _wait_turn(device, deadline, log)


def _wait_turn(device: str, deadline: float, log: Log) -> None:
    if time.monotonic() + _LOOK_AGAIN_S >= deadline:
        raise NoAnswer(f"{device} was in use by another program", "until our time was over", "see who holds it: fuser")
    log(f"{device} is in use, waiting")
    time.sleep(_LOOK_AGAIN_S)


@contextlib.contextmanager
def _raw(descriptor: int, device: str, line: line_settings.LineSettings) -> Iterator[None]:
    """Set a terminal to raw mode and *line* (termios(3)), and back to what it was at the end."""
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error as error:
        raise _unusable(device, error) from error
    try:
        try:
            termios.tcsetattr(descriptor, termios.TCSANOW, _raw_settings(before, line))
            termios.tcflush(descriptor, termios.TCIOFLUSH)
        except termios.error as error:
            raise _unusable(device, error) from error
        yield
    finally:
        with contextlib.suppress(termios.error):  # a line that was hung up has no settings any more
            # What the other end did not take must not follow under other settings, nor hold up the close.
            termios.tcflush(descriptor, termios.TCOFLUSH)
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _unusable(device: str, error: termios.error) -> Unreachable:
    return Unreachable(f"cannot set up {device}", str(error.args[-1]), "see that it is a working line")


def _raw_settings(before: list[Any], line: line_settings.LineSettings) -> list[Any]:
    """Return settings for *line*: no editing, no echo, hardware flow control, modem lines ignored, as fence_virt."""
    speed = getattr(termios, f"B{line.speed}")
    control = termios.CREAD | termios.CLOCAL | termios.CRTSCTS | _SIZES[line.data_bits] | _PARITIES[line.parity]
    control |= termios.CSTOPB if line.stop_bits == 2 else 0
    characters = list(before[6])
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [0, 0, control, 0, speed, speed, characters]


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    """Let the signals that end a process raise KeyboardInterrupt in the block, once."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        before = [signal.signal(number, interrupt) for number in numbers]
    except ValueError:  # not the main thread, which alone is told of signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
