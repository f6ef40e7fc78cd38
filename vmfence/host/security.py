"""What a listener demands of a packet, and the check of one: keys, weakest signature, challenge.  Pure."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from vmfence.errors import PacketError, SignatureError
from vmfence.protocol.auth import Hash, Key, hash_type_of, verify
from vmfence.protocol.request import Request, decode


@dataclass(frozen=True)
class KeyEntry:
    """A key that may sign requests.  *group_key* is its fingerprint when it belongs to a group, else None."""

    key: Key
    group_key: str | None


@dataclass(frozen=True)
class Security:
    """What one listener demands: weakest signature, challenge, and the keys to try, the listener's own first."""

    minimum: Hash
    auth: Hash
    keys: tuple[KeyEntry, ...]


@dataclass(frozen=True)
class Verified:
    """A request whose signature was found good, the key that made it, and when it came (monotonic seconds)."""

    request: Request
    entry: KeyEntry
    received: float


def check_packet(packet: bytes, security: Security, now: float) -> Verified:
    """Return the request in *packet*, verified.  Cheap checks come first.  Raises PacketError, SignatureError."""
    request = decode(packet)
    if hash_type_of(packet, security.minimum) is Hash.NONE:
        return Verified(request, security.keys[0], now)
    for entry in security.keys:
        with contextlib.suppress(SignatureError):
            verify(packet, entry.key, security.minimum)
            return Verified(request, entry, now)
    raise SignatureError("wrong key", "the packet is signed with another key", "compare the key files' fingerprints")


def asks_why(packet: bytes, security: Security, now: float) -> Verified | None:
    """Return the request of a *packet* that was refused, if its client is to be told why once it has proven the key.

    None for every other packet: not asked for, not signed with a key of ours by whatever hash, or no proof demanded.
    """
    try:
        request = decode(packet)
    except PacketError:
        return None
    if not request.wants_reason or Hash.NONE in (security.auth, request.hash_type):
        return None
    for entry in security.keys:
        with contextlib.suppress(SignatureError):
            verify(packet, entry.key, Hash.SHA1)
            return Verified(request, entry, now)
    return None
