"""Which tables of nftables the kernel has, where no program is installed that shows them: asked by netlink.

Formats: linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h; seen on Linux 6.1.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from vmfence.errors import VmfenceError

_NETLINK_NETFILTER = 12
_GET_TABLES, _TABLE = 0x0A01, 0x0A00
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_NAME = 1  # the attribute of a table
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_HEADER, _GENERIC, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
# How a kernel without nftables answers.
_ABSENT = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
_ASK_S = 5.0


def read_tables() -> frozenset[tuple[str, str]]:
    """Return family and name of each table; none where the kernel has no nftables.  Raises VmfenceError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
            link.settimeout(_ASK_S)
            length = _HEADER.size + _GENERIC.size
            link.send(_HEADER.pack(length, _GET_TABLES, _REQUEST_DUMP, 1, 0) + _GENERIC.pack(0, 0, 0))
            return frozenset(_answers(link))
    except (OSError, struct.error) as error:
        if getattr(error, "errno", None) in _ABSENT:
            return frozenset()
        raise VmfenceError("cannot ask the kernel for the tables of nftables", str(error)) from error


def _answers(link: socket.socket) -> Iterator[tuple[str, str]]:
    while True:
        data = link.recv(1 << 16)
        while data:
            length, kind, *_ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[max(_HEADER.size, length + 3 & ~3) :]
            if kind == _DONE:
                return
            if kind == _ERROR:
                number = -struct.unpack_from("=i", body)[0]
                raise OSError(number, os.strerror(number))
            if kind == _TABLE:
                yield _FAMILIES.get(body[0], "another family"), _name(body[_GENERIC.size :])


def _name(attributes: bytes) -> str:
    while attributes:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind & 0x3FFF == _NAME:
            return attributes[_ATTRIBUTE.size : length].rstrip(b"\0").decode(errors="replace")
        attributes = attributes[max(_ATTRIBUTE.size, length + 3 & ~3) :]
    return ""
