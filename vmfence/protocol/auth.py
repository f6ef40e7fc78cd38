"""Signatures of request packets and answers to challenges.

Pure and light (loaded by the fence agent: standard library only).  Both constructions are a plain hash over the key
and the data, zero-padded to 64 bytes, as the wire demands; digests are compared in constant time and never shown.
Source: the captured bytes in tests/vectors, made by fence_xvm and fence_virtd 4.12.1.
"""

from __future__ import annotations

import enum
import hashlib
import hmac

from vmfence.errors import AuthenticationError, SignatureError

DIGEST_BYTES = 64
CHALLENGE_BYTES = 64
KEY_BYTES_MAX = 4096
_HASH_TYPE_OFFSET = 1
_SIGNATURE_OFFSET = 112
_NO_SIGNATURE = bytes(DIGEST_BYTES)


class Hash(enum.IntEnum):
    """Hash types of the wire, in order of strength."""

    NONE = 0
    SHA1 = 1
    SHA256 = 2
    SHA512 = 3

    @classmethod
    def named(cls, name: str) -> Hash:
        """Return the hash called *name* (any case).  Raises ValueError for any other text."""
        for member in cls:
            if member.name.lower() == name.lower():
                return member
        raise ValueError(f"unsupported hash: {name!r}")

    def __str__(self) -> str:
        return self.name.lower()


class Key:
    """A shared key, with the hash states that begin with it kept for speed.

    A flood of forged packets costs one short hash each, not one over 4 KiB of key.
    """

    __slots__ = ("_begun", "_fingerprint", "_secret")

    def __init__(self, secret: bytes) -> None:
        """Take the content of a key file; bytes after the first 4096 do not count, as on every fence_virt peer."""
        self._secret = secret[:KEY_BYTES_MAX]
        self._begun: dict[Hash, hashlib._Hash] = {}
        self._fingerprint = ""

    def __repr__(self) -> str:
        return f"Key({self.fingerprint()[:16]})"

    def __bool__(self) -> bool:
        return bool(self._secret)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def fingerprint(self) -> str:
        """Return the SHA-256 of the key as 64 hexadecimal digits: safe to show."""
        if not self._fingerprint:
            self._fingerprint = hashlib.sha256(self._secret).hexdigest()
        return self._fingerprint

    def digest(self, kind: Hash, data: bytes) -> bytes:
        """Return the 64-byte digest of key and *data*; *kind* is not NONE."""
        begun = self._begun.get(kind)
        if begun is None:
            begun = self._begun[kind] = hashlib.new(str(kind), self._secret)
        state = begun.copy()
        state.update(data)
        return state.digest().ljust(DIGEST_BYTES, b"\0")


def sign(packet: bytes, key: Key, kind: Hash) -> bytes:
    """Return the request *packet* (176 bytes) with its hash type and signature fields filled in."""
    body = packet[:_HASH_TYPE_OFFSET] + bytes((kind,)) + packet[_HASH_TYPE_OFFSET + 1 : _SIGNATURE_OFFSET]
    if kind is Hash.NONE:
        return body + _NO_SIGNATURE
    return body + key.digest(kind, body + _NO_SIGNATURE)


def signature_of(packet: bytes) -> bytes:
    """Return the 64 signature bytes of a request packet."""
    return packet[_SIGNATURE_OFFSET:]


def hash_type_of(packet: bytes, minimum: Hash) -> Hash:
    """Return the hash type that *packet* names.  Raises SignatureError when unknown or weaker than *minimum*."""
    try:
        kind = Hash(packet[_HASH_TYPE_OFFSET])
    except ValueError:
        raise SignatureError("unknown hash type", str(packet[_HASH_TYPE_OFFSET])) from None
    if kind < minimum:
        raise SignatureError(
            "weak hash", f"signed with {kind}, at least {minimum} is required", "set hash in the fence agent's options"
        )
    return kind


def verify(packet: bytes, key: Key, minimum: Hash) -> Hash:
    """Return the hash that signs the request *packet*, if it is *minimum* or stronger.

    The digest covers the key, then the packet with its signature field zeroed (wire: simple_auth).  All 64 bytes are
    compared, in constant time.  Raises SignatureError for a weaker or unknown hash, an empty key, a wrong digest.
    """
    kind = hash_type_of(packet, minimum)
    if kind is Hash.NONE:
        return kind
    if not key or not hmac.compare_digest(
        key.digest(kind, packet[:_SIGNATURE_OFFSET] + _NO_SIGNATURE), signature_of(packet)
    ):
        raise SignatureError("wrong key", "the packet is signed with another key")
    return kind


def respond(challenge: bytes, key: Key, kind: Hash) -> bytes:
    """Return the 64-byte answer to a 64-byte *challenge*."""
    return key.digest(kind, challenge)


def check_response(response: bytes, challenge: bytes, key: Key, kind: Hash) -> None:
    """Raise AuthenticationError unless *response* answers *challenge*.  An empty key proves nothing."""
    if not key or not hmac.compare_digest(respond(challenge, key, kind), response):
        raise AuthenticationError("wrong answer to our challenge", "the peer has another key or another auth setting")
