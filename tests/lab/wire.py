"""A small raw peer of the fence_virt wire protocol, able to misbehave.

Written from the protocol's description alone, sharing no code with the program under test, so that each
checks the other.  Numbers are little-endian, digests zero-padded to 64 bytes, timeouts seconds per read.
Every step of a conversation may be left out, repeated or given wrong bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import struct
from collections import namedtuple
from contextlib import suppress

NULL, OFF, REBOOT, ON, STATUS, MONITOR, LIST = range(7)
DONE, FAILED, IS_OFF, DENIED, HOSTS = 0, 1, 2, 3, 253
NONE, SHA1, SHA256, SHA512 = range(4)
_NUMBERS = itertools.count(int.from_bytes(os.urandom(4), "little"))
# request, hash type, addrlen, flags, domain, address, port, random, seqno, family, hash
PACKET = struct.Struct("<BBBB64s28sH6sII64s")
RECORD = struct.Struct("<64s64sBx")  # name, uuid, state
PORT = 1229
GROUP, GROUP6 = "225.0.0.12", "ff05::3:1"
Host = namedtuple("Host", "name uuid state")  # a record of a host list
HASHES = {SHA1: hashlib.sha1, SHA256: hashlib.sha256, SHA512: hashlib.sha512}


def digest(key: bytes, data: bytes, kind: int = SHA256) -> bytes:
    """Return the keyed hash of *data* that signs packets and answers challenges; zeros for NONE."""
    return (HASHES[kind](key + data).digest() if kind else b"").ljust(64, b"\0")


def packet(
    request: int, domain: str | bytes = b"", *, address: str = "", port: int = 0, seqno: int | None = None,
    kind: int = SHA256, flags: int = 0, random: bytes | None = None,
) -> bytes:  # fmt: skip
    """Return an unsigned packet; *address* (and *port*) only for multicast: where to call back.

    Each has a number of its own: fence_virtd keeps silent to one that it has heard within minutes.
    """
    family = _family(address) if address else 0
    raw = socket.inet_pton(family, address) if address else b""
    name = domain.encode() if isinstance(domain, str) else domain
    number = next(_NUMBERS) % 1000000 if seqno is None else seqno
    noise = os.urandom(6) if random is None else random
    return PACKET.pack(request, kind, len(raw), flags, name, raw, port, noise, number, family, b"")


def sign(unsigned: bytes, key: bytes) -> bytes:
    """Return the packet with the signature that its hash field asks for."""
    body = unsigned[:112]
    return body + digest(key, body + bytes(64), body[1])


def send_datagram(data: bytes, group: str = GROUP, port: int = PORT, source: str = "", device: str = "eth0") -> None:
    """Send one datagram to a group (or a plain address), from the address *source*, by *device* for IPv6."""
    with socket.socket(_family(group), socket.SOCK_DGRAM) as sender:
        if sender.family == socket.AF_INET6:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(device))
        elif source:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        if source:
            sender.bind((source, 0))
        sender.sendto(data, (group, port))


def listen(address: str, port: int = PORT) -> socket.socket:
    """Return a socket waiting for a daemon's call-back; close it after use."""
    return socket.create_server((address, port), family=_family(address))


def accept(listener: socket.socket, timeout: float = 5.0) -> Peer | None:
    """Return the connection of a daemon that calls back, or None when none does within *timeout* seconds."""
    listener.settimeout(timeout)
    try:
        return Peer(listener.accept()[0], timeout)
    except socket.timeout:
        return None


def connect(address: str, port: int = PORT, timeout: float = 5.0) -> Peer:
    """Return a connection to a daemon's tcp listener; the packet is the caller's to send."""
    return Peer(socket.create_connection((address, port), timeout), timeout)


class Peer:
    """The client's side of one conversation, step by step; a context manager that closes it."""

    def __init__(self, stream: socket.socket, timeout: float = 5.0) -> None:
        self.stream = stream
        self.stream.settimeout(timeout)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def send(self, data: bytes) -> None:
        """Send anything."""
        self.stream.sendall(data)

    def read(self, size: int) -> bytes:
        """Return *size* bytes, or fewer when the daemon closes; socket.timeout when it is silent."""
        data = b""
        with suppress(ConnectionResetError):
            while len(data) < size and (piece := self.stream.recv(size - len(data))):
                data += piece
        return data

    def closed(self) -> bool:
        """Tell whether the daemon closes without another byte."""
        return self.read(1) == b""

    def challenge(self, key: bytes, auth: int = SHA256, question: bytes | None = None) -> bool:
        """Challenge the daemon; tell whether its answer proves the key."""
        question = os.urandom(64) if question is None else question
        self.send(question)
        return self.read(64) == digest(key, question, auth)

    def respond(self, key: bytes, auth: int = SHA256) -> None:
        """Read the daemon's challenge and prove the key."""
        self.send(digest(key, self.read(64), auth))

    def converse(self, key: bytes, auth: int = SHA256) -> int | None:
        """Hold an honest conversation and return the result code; None when the daemon ended it before."""
        if auth and not self.challenge(key, auth):
            return None
        if auth:
            self.respond(key, auth)
        return next(iter(self.read(1)), None)

    def hosts(self) -> list[Host]:
        """Read the host list that follows the result HOSTS, with its trailing code."""
        found = []
        while True:
            name, uuid, state = RECORD.unpack(self.read(RECORD.size))
            found.append(Host(_text(name), _text(uuid), state))
            if found[-1] == ("", "", 0):
                assert len(self.read(1)) == 1, "no trailing code"
                return found[:-1]


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _text(field: bytes) -> str:
    return field[:63].split(b"\0")[0].decode("utf-8", "surrogateescape")
