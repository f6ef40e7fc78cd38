"""Tell the service manager what the daemon does (sd_notify(3)); without one, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class ServiceManager:
    """The socket named by NOTIFY_SOCKET, and the watchdog interval asked for by WATCHDOG_USEC."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        usec = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdecimal() and ours and int(usec) > 0 else None

    def ready(self, status: str) -> None:
        """Service is up, or reloading is over."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Settings are being read again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Requests are being finished, no new ones are taken."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The event loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that went away must not take the daemon with it.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)
