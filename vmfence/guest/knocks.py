"""Who knocks at our call-back port: seen before any firewall of this machine can drop it.

A packet socket with a filter in the kernel, so that a busy machine pays nothing for it; needs CAP_NET_RAW.  Formats:
packet(7), socket(7), linux/filter.h; RFC 791, 8200 and 9293.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_ETHERTYPES = {socket.AF_INET: 0x0800, socket.AF_INET6: 0x86DD}
_SO_ATTACH_FILTER = 26
_TCP, _SYN, _ACK = 6, 0x02, 0x10
_IPV6_HEADER_BYTES = 40
_READ_BYTES = 128
# Opcodes of classic BPF: load byte, half word, half word at X, byte at X; X = length of the header; jump, and, return.
_LDB, _LDH, _LDH_X, _LDB_X, _LDX_LENGTH, _JEQ, _AND, _RET = 0x30, 0x28, 0x48, 0x50, 0xB1, 0x15, 0x54, 0x06


class Knocks:
    """A context manager; *sock* is readable when somebody knocks.  Raises OSError where that may not be watched."""

    def __init__(self, family: int, port: int) -> None:
        self._port = port
        ethertype = socket.htons(_ETHERTYPES[socket.AddressFamily(family)])
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, ethertype)
        try:
            _attach(self.sock, _filter(family, port))
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> Knocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read(self) -> str | None:
        """Return the address of the next one who knocks, None when there is none yet."""
        try:
            return knocker(self.sock.recv(_READ_BYTES), self._port)
        except OSError:  # nothing there, or an interface that has just gone
            return None


def knocker(packet: bytes, port: int) -> str | None:
    """Return who asks for a connection to *port* by this IP *packet*; None for any other packet."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        start, protocol, family, source = (packet[0] & 0xF) * 4, packet[9], socket.AF_INET, packet[12:16]
    elif len(packet) >= _IPV6_HEADER_BYTES and packet[0] >> 4 == 6:
        start, protocol, family, source = _IPV6_HEADER_BYTES, packet[6], socket.AF_INET6, packet[8:24]
    else:
        return None
    head = packet[start : start + 14]
    if protocol != _TCP or len(head) < 14 or head[13] & (_SYN | _ACK) != _SYN:
        return None
    return socket.inet_ntop(family, source) if struct.unpack_from(">H", head, 2)[0] == port else None


def _filter(family: int, port: int) -> list[tuple[int, int, int, int]]:
    """Return the program that lets through what knocker() looks for: (opcode, jump if true, if false, operand)."""
    if family == socket.AF_INET:
        to_ports = [(_LDX_LENGTH, 0, 0, 0), (_LDH_X, 0, 0, 2)]
        flags = (_LDB_X, 0, 0, 13)
        protocol = (_LDB, 0, 0, 9)
    else:
        to_ports = [(_LDH, 0, 0, _IPV6_HEADER_BYTES + 2)]
        flags = (_LDB, 0, 0, _IPV6_HEADER_BYTES + 13)
        protocol = (_LDB, 0, 0, 6)
    tail = [(_JEQ, 0, 4, port), flags, (_AND, 0, 0, _SYN | _ACK), (_JEQ, 0, 1, _SYN)]
    tail += [(_RET, 0, 0, _READ_BYTES), (_RET, 0, 0, 0)]
    return [protocol, (_JEQ, 0, len(to_ports) + len(tail) - 1, _TCP), *to_ports, *tail]


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    kept = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(kept)))
