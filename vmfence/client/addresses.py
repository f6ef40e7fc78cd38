"""The addresses of this machine, asked from the kernel over netlink.

Light module (loaded by the fence agent: standard library only).  Formats: rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct

_HEADER = struct.Struct("=IHHII")
_ADDRESS_MESSAGE = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_NETLINK_ROUTE = 0
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_REPLY_WAIT_S = 2.0


class LocalAddress:
    """One address: *packed* is 4 or 16 bytes in network order, *index* the number of its interface."""

    __slots__ = ("index", "packed")

    def __init__(self, packed: bytes, index: int) -> None:
        self.packed, self.index = packed, index

    def text(self) -> str:
        """Return the address in its usual text form."""
        return socket.inet_ntop(socket.AF_INET if len(self.packed) == 4 else socket.AF_INET6, self.packed)


def local_addresses(family: int) -> list[LocalAddress]:
    """Return all addresses of *family* (AF_INET or AF_INET6) in kernel order.

    Reads every reply of the dump to its end: with many addresses there are several (fence_xvm 4.12.1 read the first
    alone).  Of a point-to-point link the local address counts.  Raises OSError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as netlink:
        netlink.settimeout(_REPLY_WAIT_S)
        body = _ADDRESS_MESSAGE.pack(family, 0, 0, 0, 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        found: list[LocalAddress] = []
        while _read_reply(netlink.recv(65536), family, found):
            pass
        return found


def callable_addresses(family: int) -> list[LocalAddress]:
    """Return the addresses at which a host may call back: for IPv6 neither ::1 nor link-local ones, as in fence_xvm."""
    addresses = local_addresses(family)
    if family == socket.AF_INET:
        return addresses
    return [
        a
        for a in addresses
        if a.packed != bytes(15) + b"\1" and not (a.packed[0] == 0xFE and a.packed[1] & 0xC0 == 0x80)
    ]


def _read_reply(data: bytes, family: int, found: list[LocalAddress]) -> bool:
    """Append the addresses in one netlink reply to *found*; return whether more replies follow."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if kind == _NLMSG_ERROR:
            raise OSError(errno.EIO, "the kernel refused to list the addresses")
        if kind == _NLMSG_DONE or length < _HEADER.size:
            return False
        if kind == _RTM_NEWADDR:
            _read_address(data[offset + _HEADER.size : offset + length], family, found)
        offset += (length + 3) & ~3
    return True


def _read_address(message: bytes, family: int, found: list[LocalAddress]) -> None:
    message_family, _, _, _, index = _ADDRESS_MESSAGE.unpack_from(message)
    attributes: dict[int, bytes] = {}
    offset = _ADDRESS_MESSAGE.size
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = message[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    if message_family == family and packed:
        found.append(LocalAddress(packed, index))
