"""Whether anybody has accepted a connection of ours to a unix socket: connect(2) does not wait for that.

A hypervisor serves one connection at a time at the socket of a channel.  The others wait in its queue, connected, and
what a guest says goes to whoever was first.  The kernel knows: to sock_diag(7) the other end of a connection that waits
has no inode, as no process has it.  Seen on Linux 6.18.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct

log = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG = 4
_HEAD = struct.Struct("=IHHII")
_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 20, 1
_REQUEST = struct.Struct("=BBHIIIII")
_ANY = 0xFFFFFFFF
_SHOW_PEER = 4
_ANSWER = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_PEER = 2
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptances:
    """Asks the kernel of this machine; one that does not tell is asked no more."""

    def __init__(self) -> None:
        self._is_told = True

    def is_missing(self, connected: socket.socket) -> bool:
        """Whether no process has the other end of *connected*; False too where that cannot be known."""
        if not self._is_told or connected.fileno() < 0:
            return False
        try:
            return peer_inode(connected) == 0
        except OSError as error:
            # Each question to a kernel without the module for it would start modprobe.
            self._is_told = error.errno in _PASSING
            reason = error.strerror or error
            log.warning("the kernel does not tell whether anybody accepts connections to guests: %s", reason)
            return False


def peer_inode(connected: socket.socket) -> int:
    """Return the inode of the other end of a unix socket: 0 until it is accepted, and when it is closed.

    Raises OSError when the kernel does not tell.
    """
    inode = os.fstat(connected.fileno()).st_ino
    asked = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode & _ANY, _SHOW_PEER, _ANY, _ANY)
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(_HEAD.pack(_HEAD.size + len(asked), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + asked)
        answer = kernel.recv(4096)
    return _parse(answer)


def _parse(answer: bytes) -> int:
    size, message, *_ = _HEAD.unpack_from(answer)
    if message != _SOCK_DIAG_BY_FAMILY:  # an error, its number negative
        number = -struct.unpack_from("=i", answer, _HEAD.size)[0]
        raise OSError(number, os.strerror(number))
    place, end = _HEAD.size + _ANSWER.size, min(size, len(answer))
    while place + _ATTRIBUTE.size <= end:
        length, attribute = _ATTRIBUTE.unpack_from(answer, place)
        if attribute == _PEER and place + _ATTRIBUTE.size + 4 <= end:
            return int(struct.unpack_from("=I", answer, place + _ATTRIBUTE.size)[0])
        place += max(length + 3 & ~3, _ATTRIBUTE.size)
    return 0
