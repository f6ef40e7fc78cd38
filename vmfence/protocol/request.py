"""The request packet: 176 bytes that say who wants what done to which guest.

Pure and light (loaded by the fence agent: standard library only).  Layout from the captured bytes in tests/vectors
(fence_xvm 4.12.1): integers little-endian, the address in network order, text zero-padded.
"""

from __future__ import annotations

import enum
import struct

from vmfence.errors import PacketError

_LAYOUT = struct.Struct("<BBBB64s28sH6sII64s")
PACKET_BYTES = _LAYOUT.size
DOMAIN_BYTES_MAX = 63
RANDOM_BYTES = 6
FLAG_UUID = 1
# Ours: "tell me why you refuse".  Every other daemon ignores all flags (wire, section 9; fence_virtd 4.12.1).
FLAG_TELL = 2
FAMILY_IPV4 = 2
FAMILY_IPV6 = 10
_ADDRESS_BYTES = {FAMILY_IPV4: 4, FAMILY_IPV6: 16}


class Action(enum.IntEnum):
    """Request codes of the wire.  METADATA and VALIDATE_ALL are local to the agent and never sent."""

    NULL = 0
    OFF = 1
    REBOOT = 2
    ON = 3
    STATUS = 4
    MONITOR = 5
    LIST = 6
    METADATA = 7
    VALIDATE_ALL = 8

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


POWER_ACTIONS = frozenset({Action.OFF, Action.REBOOT, Action.ON})
GUEST_ACTIONS = POWER_ACTIONS | {Action.STATUS}


class Request:
    """One request packet, decoded.

    *action* is the raw code (0 to 255), *domain* the guest's name or UUID without padding (at most 63 bytes),
    *address* the 4 or 16 bytes to call back (empty: none named), *port* 0 to 65535, *seqno* and *family* 32 bits.
    *signature* is 64 bytes.
    """

    __slots__ = ("action", "address", "domain", "family", "flags", "hash_type", "port", "random", "seqno", "signature")

    def __init__(
        self,
        action: int,
        domain: bytes = b"",
        *,
        seqno: int,
        random: bytes = bytes(RANDOM_BYTES),
        address: bytes = b"",
        port: int = 0,
        family: int = 0,
        flags: int = 0,
        hash_type: int = 0,
        signature: bytes = bytes(64),
    ) -> None:
        self.action, self.domain, self.seqno, self.random = action, domain, seqno, random
        self.address, self.port, self.family, self.flags = address, port, family, flags
        self.hash_type, self.signature = hash_type, signature

    @property
    def target(self) -> str:
        """The guest's name or UUID as text; bytes that are no UTF-8 become lone surrogates and match no guest."""
        return self.domain.decode("utf-8", "surrogateescape")

    @property
    def wants_reason(self) -> bool:
        """Whether the client, once proven, is to be told why this fails: for monitor alone, which acts on nothing."""
        return self.action == Action.MONITOR and bool(self.flags & FLAG_TELL)

    def action_name(self) -> str:
        """Return the name of the action, or its number when it is none of ours."""
        try:
            return str(Action(self.action))
        except ValueError:
            return str(self.action)


def check_domain(domain: bytes) -> None:
    """Raise PacketError for a name that the wire would not carry whole; what arrives could be another guest's."""
    if len(domain) > DOMAIN_BYTES_MAX:
        raise PacketError("the guest's name is too long", f"{len(domain)} bytes, the wire takes 63", "use its UUID")
    if b"\0" in domain:
        raise PacketError("the guest's name holds a zero byte", "", "use its UUID")


def encode(request: Request) -> bytes:
    """Return the 176 bytes of *request*, signature as it stands.  Raises PacketError for fields that do not fit."""
    check_domain(request.domain)
    try:
        return _LAYOUT.pack(
            request.action,
            request.hash_type,
            len(request.address),
            request.flags,
            request.domain,
            request.address,
            request.port,
            request.random,
            request.seqno,
            request.family,
            request.signature,
        )
    except struct.error as error:
        raise PacketError("a field of the request does not fit", str(error)) from error


def decode(packet: bytes) -> Request:
    """Return the request in *packet*.

    The address length is taken from the family field, as fence_virtd does; addrlen is not read.
    Raises PacketError for a wrong length, a name that fills its field without a final zero.
    """
    if len(packet) != PACKET_BYTES:
        kind = "too short" if len(packet) < PACKET_BYTES else "too long"
        raise PacketError(f"packet {kind}", f"{len(packet)} bytes instead of {PACKET_BYTES}")
    action, hash_type, _, flags, domain, address, port, random, seqno, family, signature = _LAYOUT.unpack(packet)
    name, zero, _ = domain.partition(b"\0")
    if not zero:
        raise PacketError("guest name without end", "its 64 bytes hold no zero")
    return Request(
        action,
        name,
        seqno=seqno,
        random=random,
        address=address[: _ADDRESS_BYTES.get(family, 0)],
        port=port,
        family=family,
        flags=flags,
        hash_type=hash_type,
        signature=signature,
    )
