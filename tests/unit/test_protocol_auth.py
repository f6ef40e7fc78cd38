"""Signatures, keys and answers to challenges."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmfence.errors import AuthenticationError, SignatureError
from vmfence.protocol.auth import (
    CHALLENGE_BYTES,
    DIGEST_BYTES,
    Hash,
    Key,
    check_response,
    hash_type_of,
    respond,
    sign,
    signature_of,
    verify,
)
from vmfence.protocol.request import FAMILY_IPV4, Request, encode

FAST = settings(deadline=None, max_examples=200)
SECRET = bytes(range(256)) * 16
KEY, OTHER = Key(SECRET), Key(b"another key, long enough")
SIGNED = [Hash.SHA1, Hash.SHA256, Hash.SHA512]
LENGTHS = {Hash.SHA1: 20, Hash.SHA256: 32, Hash.SHA512: 64}
CHALLENGE = bytes(range(64))
PACKET = encode(
    Request(1, b"alpha", seqno=7, random=b"random", address=bytes((10, 0, 0, 1)), port=1229, family=FAMILY_IPV4)
)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("minimum", list(Hash))
@pytest.mark.parametrize("kind", list(Hash))
def test_the_weakest_hash_that_is_accepted(kind: Hash, minimum: Hash) -> None:
    packet = sign(PACKET, KEY, kind)
    if kind >= minimum:
        assert verify(packet, KEY, minimum) is kind
        assert hash_type_of(packet, minimum) is kind
        return
    for check in (lambda: verify(packet, KEY, minimum), lambda: hash_type_of(packet, minimum)):
        with pytest.raises(SignatureError, match="weak hash"):
            check()


@pytest.mark.parametrize("number", [4, 5, 127, 255])
@pytest.mark.parametrize("minimum", list(Hash))
def test_unknown_hashes_are_refused(number: int, minimum: Hash) -> None:
    packet = PACKET[:1] + bytes((number,)) + PACKET[2:]
    with pytest.raises(SignatureError, match="unknown hash"):
        verify(packet, KEY, minimum)


@pytest.mark.parametrize("kind", SIGNED)
def test_one_flipped_bit_anywhere_is_found(kind: Hash) -> None:
    packet = sign(PACKET, KEY, kind)
    for bit in range(len(packet) * 8):
        with pytest.raises(SignatureError):
            verify(flipped(packet, bit), KEY, Hash.SHA1)


@pytest.mark.parametrize("kind", [Hash.SHA1, Hash.SHA256])
def test_the_padding_of_short_digests_is_checked(kind: Hash) -> None:
    packet = sign(PACKET, KEY, kind)
    assert signature_of(packet)[LENGTHS[kind] :] == bytes(64 - LENGTHS[kind])
    for offset in range(112 + LENGTHS[kind], 176):
        with pytest.raises(SignatureError):
            verify(packet[:offset] + b"\1" + packet[offset + 1 :], KEY, Hash.NONE)


@pytest.mark.parametrize("kind", SIGNED)
def test_what_is_hashed(kind: Hash) -> None:
    """The key, then the packet with its type set and its signature zero: written out once more, apart from the code."""
    body = PACKET[:1] + bytes((kind,)) + PACKET[2:112]
    digest = hashlib.new(kind.name.lower(), SECRET + body + bytes(64)).digest()
    assert sign(PACKET, KEY, kind) == body + digest.ljust(64, b"\0")


def test_an_unsigned_packet_has_no_signature() -> None:
    packet = sign(PACKET[:112] + b"s" * 64, KEY, Hash.NONE)
    assert (packet[1], signature_of(packet)) == (0, bytes(64))


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("wrong", [OTHER, Key(SECRET[:-1]), Key(b"\0" + SECRET)])
def test_another_key_is_refused(kind: Hash, wrong: Key) -> None:
    with pytest.raises(SignatureError, match="wrong key"):
        verify(sign(PACKET, KEY, kind), wrong, Hash.NONE)


@pytest.mark.parametrize("kind", SIGNED)
def test_an_empty_key_proves_nothing(kind: Hash) -> None:
    empty = Key(b"")
    with pytest.raises(SignatureError):
        verify(sign(PACKET, empty, kind), empty, Hash.NONE)
    with pytest.raises(AuthenticationError):
        check_response(respond(CHALLENGE, empty, kind), CHALLENGE, empty, kind)


@FAST
@given(st.binary(min_size=176, max_size=176), st.sampled_from(Hash))
def test_random_packets(packet: bytes, minimum: Hash) -> None:
    try:
        kind = verify(packet, KEY, minimum)
    except SignatureError:
        return
    assert kind is minimum is Hash.NONE


@FAST
@given(st.binary(max_size=200), st.sampled_from(SIGNED))
def test_random_answers(answer: bytes, kind: Hash) -> None:
    with pytest.raises(AuthenticationError):
        check_response(answer, CHALLENGE, KEY, kind)


@pytest.mark.parametrize("kind", SIGNED)
def test_answers_to_challenges(kind: Hash) -> None:
    answer = respond(CHALLENGE, KEY, kind)
    assert len(answer) == DIGEST_BYTES
    assert answer == hashlib.new(kind.name.lower(), SECRET + CHALLENGE).digest().ljust(64, b"\0")
    check_response(answer, CHALLENGE, KEY, kind)
    for bit in range(DIGEST_BYTES * 8):
        with pytest.raises(AuthenticationError):
            check_response(flipped(answer, bit), CHALLENGE, KEY, kind)


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("cut", [0, 20, 32, 63, 65])
def test_answers_of_another_length(kind: Hash, cut: int) -> None:
    answer = respond(CHALLENGE, KEY, kind).ljust(cut, b"\0")[:cut]
    with pytest.raises(AuthenticationError):
        check_response(answer, CHALLENGE, KEY, kind)


def test_a_digest_is_the_same_however_often_it_is_made() -> None:
    key = Key(SECRET)
    first = [key.digest(kind, CHALLENGE) for kind in SIGNED]
    key.digest(Hash.SHA256, b"something else")
    assert [key.digest(kind, CHALLENGE) for kind in SIGNED] == first


@pytest.mark.parametrize("size", [4096, 4097, 100_000])
def test_only_4096_bytes_of_a_key_count(size: int) -> None:
    secret = SECRET.ljust(size, b"x")
    assert Key(secret) == KEY and Key(secret).digest(Hash.SHA256, b"") == KEY.digest(Hash.SHA256, b"")
    assert Key(SECRET[:4095]) != KEY


def test_keys_compare_by_content() -> None:
    assert KEY == Key(SECRET) != OTHER
    assert len({KEY, Key(SECRET), OTHER}) == 2
    assert KEY != SECRET
    assert bool(KEY) and not Key(b"")


@pytest.mark.parametrize("show", [str, repr, "{}".format, lambda key: f"{[key]}", lambda key: key.fingerprint()])
def test_a_key_is_never_shown(show: object) -> None:
    secret = b"The quick brown fox jumps over the lazy dog"
    shown = show(Key(secret))  # type: ignore[operator]
    for piece in (secret.decode(), secret.hex(), "quick"):
        assert piece not in shown
    assert hashlib.sha256(secret).hexdigest()[:16] in shown


def test_no_error_shows_key_or_digest() -> None:
    key = Key(b"The quick brown fox jumps")
    for check in (
        lambda: verify(sign(PACKET, OTHER, Hash.SHA1), key, Hash.NONE),
        lambda: check_response(bytes(64), CHALLENGE, key, Hash.SHA1),
    ):
        with pytest.raises((SignatureError, AuthenticationError)) as caught:
            check()
        text = f"{caught.value} {caught.value!r} {vars(caught.value)}"
        assert "quick" not in text and key.digest(Hash.SHA1, CHALLENGE).hex()[:8] not in text


@pytest.mark.parametrize("name", ["none", "SHA1", "Sha256", "sha512"])
def test_hash_names(name: str) -> None:
    assert str(Hash.named(name)) == name.lower()


@pytest.mark.parametrize("name", ["", "md5", "sha", "sha256 ", "0", "2", "SHA-256"])
def test_other_hash_names(name: str) -> None:
    with pytest.raises(ValueError, match="unsupported hash"):
        Hash.named(name)


def test_sizes_and_order_of_the_wire() -> None:
    assert [(kind.name, int(kind)) for kind in Hash] == [("NONE", 0), ("SHA1", 1), ("SHA256", 2), ("SHA512", 3)]
    assert (DIGEST_BYTES, CHALLENGE_BYTES) == (64, 64)
