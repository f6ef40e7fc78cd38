"""Request packets and serial frames: what is accepted, and that nothing but PacketError comes out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmfence.errors import PacketError
from vmfence.protocol import serial
from vmfence.protocol.request import (
    DOMAIN_BYTES_MAX,
    FAMILY_IPV4,
    FAMILY_IPV6,
    PACKET_BYTES,
    Action,
    Request,
    decode,
    encode,
)

FAST = settings(deadline=None, max_examples=200)
BYTE = st.integers(0, 255)
UINT16, UINT32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
DOMAIN = st.binary(max_size=DOMAIN_BYTES_MAX).filter(lambda name: b"\0" not in name)
PLACE = st.one_of(
    st.tuples(st.just(FAMILY_IPV4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(FAMILY_IPV6), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just(0), st.just(b"")),
)
FIELDS = ("action", "address", "domain", "family", "flags", "hash_type", "port", "random", "seqno", "signature")


@st.composite
def requests(draw: st.DrawFn) -> Request:
    family, address = draw(PLACE)
    return Request(
        draw(BYTE),
        draw(DOMAIN),
        seqno=draw(UINT32),
        random=draw(st.binary(min_size=6, max_size=6)),
        address=address,
        port=draw(UINT16),
        family=family,
        flags=draw(BYTE),
        hash_type=draw(BYTE),
        signature=draw(st.binary(min_size=64, max_size=64)),
    )


def fields(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in FIELDS}


def packet(**changed: object) -> bytes:
    values = {
        **{"action": 1, "domain": b"alpha", "seqno": 7, "address": bytes((10, 0, 0, 1))},
        **{"port": 1229, "family": FAMILY_IPV4},
        **changed,
    }
    return encode(Request(**values))  # type: ignore[arg-type]


@FAST
@given(requests())
def test_what_is_encoded_is_decoded(request: Request) -> None:
    data = encode(request)
    assert len(data) == PACKET_BYTES
    assert fields(decode(data)) == fields(request)


@pytest.mark.parametrize("length", [n for n in range(PACKET_BYTES + 30) if n != PACKET_BYTES])
def test_every_other_length_is_refused(length: int) -> None:
    data = packet().ljust(length, b"\0")[:length]
    with pytest.raises(PacketError, match="too short" if length < PACKET_BYTES else "too long"):
        decode(data)


@FAST
@given(st.binary(min_size=PACKET_BYTES, max_size=PACKET_BYTES) | st.binary())
def test_random_bytes(data: bytes) -> None:
    try:
        request = decode(data)
    except PacketError:
        return
    assert len(request.domain) <= DOMAIN_BYTES_MAX
    assert isinstance(request.target, str) and isinstance(request.action_name(), str)
    assert len(request.address) in (0, 4, 16)


def test_a_name_without_end_is_refused() -> None:
    data = bytearray(packet())
    data[4:68] = b"n" * 64
    with pytest.raises(PacketError, match="without end"):
        decode(bytes(data))


@pytest.mark.parametrize("length", [0, 1, 62, 63])
def test_names_that_fit(length: int) -> None:
    assert decode(packet(domain=b"n" * length)).domain == b"n" * length


@pytest.mark.parametrize("name", [b"n" * 64, b"n" * 1000, b"alpha\0", b"\0", b"al\0pha"])
def test_names_that_would_arrive_as_another_name(name: bytes) -> None:
    """The end of a name on the wire is a zero: a name that holds one would fence another guest."""
    request = Request(1, name, seqno=1)
    for encoder in (encode, serial.encode_request):
        with pytest.raises(PacketError):
            encoder(request)


@pytest.mark.parametrize(
    "changed",
    [
        *({"action": value} for value in (-1, 256)),
        *({"port": value} for value in (-1, 65536)),
        *({"seqno": value} for value in (-1, 2**32)),
        *({"flags": 256}, {"family": -1}, {"hash_type": 256}, {"address": bytes(256)}),
    ],
)
def test_numbers_that_do_not_fit(changed: dict[str, object]) -> None:
    with pytest.raises(PacketError):
        packet(**changed)


@pytest.mark.parametrize(
    ("family", "length"), [(FAMILY_IPV4, 4), (FAMILY_IPV6, 16), (0, 0), (1, 0), (0x0200, 0), (2**31, 0)]
)
def test_the_family_decides_how_long_the_address_is(family: int, length: int) -> None:
    data = bytearray(packet(family=family))
    data[2] = 200  # addrlen
    data[68:96] = b"a" * 28
    assert decode(bytes(data)).address == b"a" * length


def test_what_follows_the_name_is_ignored() -> None:
    data = bytearray(packet(domain=b"alpha"))
    data[10:68] = b"x" * 58
    assert decode(bytes(data)).target == "alpha"


def test_a_name_that_is_no_utf8_survives_as_bytes() -> None:
    request = decode(packet(domain=b"\xff\xfe"))
    assert request.target.encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize(
    ("action", "name"), [(0, "null"), (1, "off"), (6, "list"), (8, "validate-all"), (9, "9"), (255, "255")]
)
def test_action_names(action: int, name: str) -> None:
    assert Request(action, seqno=0).action_name() == name


def test_layout() -> None:
    """The offsets that captures show, once more and apart from the code."""
    data = packet(random=b"random", flags=1, hash_type=2, signature=b"s" * 64)
    assert data[:5] == b"\x01\x02\x04\x01a"
    assert data[96:98] == struct.pack(">H", 1229)[::-1]
    assert (data[98:104], data[104:108], data[108:112]) == (b"random", b"\x07\0\0\0", b"\x02\0\0\0")
    assert data[112:] == b"s" * 64
    assert list(Action) == list(range(9))


# Serial frames


def frame(**changed: object) -> bytes:
    return serial.encode_request(Request(**{"action": 4, "domain": b"alpha", "seqno": 7, **changed}))  # type: ignore[arg-type]


@FAST
@given(requests())
def test_frames_are_decoded(request: Request) -> None:
    found = serial.decode_request(serial.encode_request(request))
    seen = (found.action, found.domain, found.flags, found.seqno)
    assert seen == (request.action, request.domain, request.flags, request.seqno)


@pytest.mark.parametrize("length", [n for n in range(90) if n != serial.REQUEST_BYTES])
def test_every_other_frame_length_is_refused(length: int) -> None:
    with pytest.raises(PacketError):
        serial.decode_request(frame().ljust(length, b"\0")[:length])


@FAST
@given(st.binary(min_size=74, max_size=74) | st.binary().map(lambda data: b"abba" + data[:70].ljust(70, b"\1")))
def test_random_frames(data: bytes) -> None:
    try:
        request = serial.decode_request(data)
    except PacketError:
        return
    assert data.startswith(serial.MAGIC) and b"\0" not in request.domain


@pytest.mark.parametrize("damage", [slice(0, 1), slice(3, 4), slice(6, 70)])
def test_damaged_frames(damage: slice) -> None:
    data = bytearray(frame())
    data[damage] = b"x" * len(data[damage])
    with pytest.raises(PacketError):
        serial.decode_request(bytes(data))
