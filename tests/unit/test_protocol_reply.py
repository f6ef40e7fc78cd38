"""Host records and the readers of replies and frames: incremental, bounded, and never surprised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmfence.errors import PacketError
from vmfence.protocol import reply, serial
from vmfence.protocol.reply import (
    END_OF_LIST,
    RECORD_BYTES,
    Code,
    Record,
    RecordReader,
    State,
    decode_record,
    encode_list,
    encode_record,
)
from vmfence.protocol.request import Action, Request

FAST = settings(deadline=None, max_examples=200)
UUID = "11111111-2222-3333-4444-555555555501"
ALPHA, BETA = Record("alpha", UUID, 1), Record("Beta", UUID[:-1] + "2", 5)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=15)
RECORDS = st.lists(st.builds(Record, NAMES, st.uuids().map(str), st.integers(0, 255)), max_size=8)
CUTS = st.lists(st.integers(1, 300), max_size=20)


def cut(data: bytes, lengths: list[int]) -> list[bytes]:
    found, start = [], 0
    for length in lengths:
        found.append(data[start : start + length])
        start += length
    return [*found, data[start:]]


def held(reader: RecordReader | serial.FrameReader) -> int:
    """Return how many bytes a reader keeps: the promise of its docstring is what is tested here."""
    return len(reader._buffer)


@FAST
@given(RECORDS, CUTS)
def test_a_list_in_any_pieces(records: list[Record], lengths: list[int]) -> None:
    reader = RecordReader()
    found = [record for piece in cut(encode_list(records)[1:], lengths) for record in reader.feed(piece)]
    assert found == records
    assert reader.ended and reader.rest() == bytes((Code.SUCCESS,))


@FAST
@given(st.lists(st.binary(max_size=400)))
def test_random_bytes(data: list[bytes]) -> None:
    reader = RecordReader()
    fed = 0
    for piece in data:
        fed += len(piece)
        assert len(reader.feed(piece)) <= len(piece) // RECORD_BYTES + 1
        assert reader.ended or held(reader) == fed % RECORD_BYTES


@pytest.mark.parametrize("length", range(RECORD_BYTES))
def test_a_record_cut_anywhere_is_no_record(length: int) -> None:
    reader = RecordReader()
    assert reader.feed(encode_record(ALPHA)[:length]) == []
    assert not reader.ended and reader.rest() == b""
    with pytest.raises(PacketError):
        decode_record(encode_record(ALPHA)[:length])


def test_an_endless_list_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "RECORDS_MAX", 50)
    reader = RecordReader()
    assert len(reader.feed(encode_record(ALPHA) * 50)) == 50
    with pytest.raises(PacketError, match="endless"):
        reader.feed(encode_record(ALPHA))


def test_the_limit_is_finite_and_generous() -> None:
    assert 10_000 <= reply.RECORDS_MAX <= 1_000_000


@pytest.mark.parametrize("rubbish", [b"\0", b"x", b"\xff"])
def test_bytes_that_the_reference_leaves_to_chance(rubbish: bytes) -> None:
    data = bytearray(encode_record(ALPHA))
    for offset in (63, 127, 129):
        data[offset : offset + 1] = rubbish
    assert decode_record(bytes(data)) == ALPHA


@pytest.mark.parametrize(
    ("record", "ends"),
    [
        (Record("", "", 0), True),
        (Record("", "", 1), True),
        (Record("", UUID, 1), False),
        (Record("a", "", 0), False),
    ],
)
def test_the_end_is_where_name_and_uuid_are_empty(record: Record, ends: bool) -> None:
    assert (decode_record(encode_record(record)) is None) is ends
    assert decode_record(END_OF_LIST) is None


@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        ("n" * 63, "n" * 63),
        ("n" * 64, "n" * 63),
        ("n" * 62 + "\u00e4", "n" * 62),
        ("\u00e4" * 32, "\u00e4" * 31),
        ("\u5bbf" * 21, "\u5bbf" * 21),
        ("\U0001f6a7" * 16, "\U0001f6a7" * 15),
    ],
)
def test_long_names_are_cut_between_characters(name: str, arrives: str) -> None:
    assert decode_record(encode_record(Record(name, UUID, 1))) == Record(arrives, UUID, 1)


@pytest.mark.parametrize("state", range(0, 10))
def test_only_a_running_guest_is_on(state: int) -> None:
    record = Record("alpha", UUID, state)
    assert record.line() == f"{'alpha':<32} {UUID} {'on' if state == 1 else 'off'}"
    assert record.as_dict()["on"] is (state == 1)


def test_states_by_name_and_by_number() -> None:
    assert [Record("", "", n).as_dict()["state"] for n in (1, 5, 7, 8)] == ["running", "shut_off", "suspended", 8]
    assert State(5) is State.SHUT_OFF


def test_records_compare_by_value() -> None:
    assert Record("a", "b", 1) == Record("a", "b", 1) and len({ALPHA, BETA, Record("alpha", UUID, 1)}) == 2
    assert ALPHA != "alpha" and "alpha" in repr(ALPHA)


# Frames


FRAME = st.binary(min_size=serial.REQUEST_BYTES - 4, max_size=serial.REQUEST_BYTES - 4).map(
    lambda rest: serial.MAGIC + rest
)
# Noise that neither holds the magic nor makes one together with the frame behind it.
NOISE = st.binary(max_size=80).filter(lambda noise: (noise + serial.MAGIC).find(serial.MAGIC) == len(noise))


@FAST
@given(st.lists(st.tuples(NOISE, FRAME), max_size=6), NOISE, CUTS)
def test_frames_between_noise(found: list[tuple[bytes, bytes]], tail: bytes, lengths: list[int]) -> None:
    reader = serial.FrameReader(serial.REQUEST_BYTES)
    data = b"".join(noise + frame for noise, frame in found) + tail
    frames = [frame for piece in cut(data, lengths) for frame in reader.feed(piece)]
    assert frames == [frame for _, frame in found]
    assert reader.skipped + held(reader) == sum(len(noise) for noise, _ in found) + len(tail)


def is_plausible(frame: bytes) -> bool:
    try:
        serial.check_plausible(frame)
    except PacketError:
        return False
    return True


@FAST
@given(st.binary(max_size=40), CUTS)
def test_a_magic_in_noise_does_not_swallow_the_request(noise: bytes, lengths: list[int]) -> None:
    reader = serial.FrameReader(serial.REQUEST_BYTES, is_plausible)
    frame = serial.encode_request(Request(Action.STATUS, b"alpha", seqno=7))
    data = serial.MAGIC + b"\xff" + noise.replace(serial.MAGIC, b"") + frame
    assert frame in [found for piece in cut(data, lengths) for found in reader.feed(piece)]


@FAST
@given(st.lists(st.binary(max_size=300)))
def test_a_frame_reader_holds_less_than_one_frame(data: list[bytes]) -> None:
    reader = serial.FrameReader(serial.REQUEST_BYTES)
    frames = 0
    for piece in data:
        frames += len(reader.feed(piece))
        assert held(reader) < serial.REQUEST_BYTES
    total = sum(map(len, data))
    assert frames * serial.REQUEST_BYTES + reader.skipped + held(reader) == total


def test_a_half_frame_is_dropped_by_reset() -> None:
    reader, frame = serial.FrameReader(5), serial.encode_response(2)
    reader.feed(frame[:3])
    assert reader.pending()
    reader.reset()
    assert (reader.pending(), reader.skipped) == (False, 3)
    assert reader.feed(frame) == [frame]


@pytest.mark.parametrize("length", [5, 6, 10, 140, 400])
def test_what_follows_the_frame_is_handed_over(length: int) -> None:
    """The records of a list are no noise, however much of them comes with the frame."""
    reader = serial.FrameReader(5)
    answer = serial.encode_list_response([ALPHA, BETA])
    assert reader.feed(answer[:length], at_most=1) == [serial.encode_response(Code.LIST)]
    records = RecordReader()
    assert records.feed(reader.take_rest() + answer[length:]) == [ALPHA, BETA]
    assert (reader.pending(), records.rest()) == (False, serial.encode_response(0))
