"""Hear from the kernel when a network interface comes, goes or changes (rtnetlink(7), RTMGRP_LINK)."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Callable

from vmfence.errors import ListenError

_RTMGRP_LINK = 1


class LinkWatch:
    """Calls *changed* after every change; several at once are one call.  Raises ListenError."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self._socket.bind((0, _RTMGRP_LINK))
        except OSError as error:
            raise ListenError("cannot watch the network interfaces", error.strerror or str(error)) from error
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        # What changed does not matter: the listeners look for themselves, so lost messages cost nothing.
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        self._changed()
