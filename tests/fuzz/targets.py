"""Every parser of bytes from outside, as functions that must return: any exception but ours is a bug.

Run one under atheris (it has wheels for CPython on x86-64 Linux; in an environment of its own):

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris
    /tmp/fuzz/bin/python tests/fuzz/targets.py request -max_total_time=60

Targets: request, records, frames, exchange, dissection, config, agent.  What follows the target is for libFuzzer: its
options, and a folder where inputs are kept (tests/fuzz/seeds.py writes the captured bytes of tests/vectors into such
folders).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from vmfence.agent.parse import parse_stdin
from vmfence.config import settings
from vmfence.errors import AuthenticationError, ConfigError, ConfigErrors, PacketError, SignatureError
from vmfence.guest.dissection import Dissection, End, Stage
from vmfence.guest.knocks import knocker
from vmfence.protocol import serial
from vmfence.protocol.auth import Hash, Key, verify
from vmfence.protocol.exchange import ChallengeBook, ClientExchange, DaemonExchange
from vmfence.protocol.reason import decode_reason
from vmfence.protocol.reply import RECORD_BYTES, RecordReader, encode_list
from vmfence.protocol.request import decode, encode

KEY = Key(b"k" * 32)


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut *data*: each piece is as long as its first byte says."""
    start = 0
    while start < len(data):
        length = data[start] or 1
        yield data[start + 1 : start + 1 + length]
        start += 1 + length


def request(data: bytes) -> None:
    """A packet: what is decoded encodes to the same fields, and nothing is ever signed."""
    for minimum in Hash:
        with contextlib.suppress(SignatureError, PacketError):
            decode(data)
            assert verify(data, KEY, minimum) is Hash.NONE
    with contextlib.suppress(PacketError):
        found = decode(data)
        assert decode(encode(found)).domain == found.domain
        assert len(found.target) <= 63 and found.action_name()


def records(data: bytes) -> None:
    """Host records in pieces: all that was read can be sent, and less than a record is held."""
    reader = RecordReader()
    for piece in pieces(data):
        found = reader.feed(piece)
        encode_list(found)
        assert [record.line() for record in found] == [record.line() for record in found if record.as_dict()]
        assert reader.ended or len(reader._buffer) < RECORD_BYTES


def frames(data: bytes) -> None:
    """Frames between noise: every byte is in a frame, skipped, or held."""
    reader = serial.FrameReader(serial.REQUEST_BYTES)
    count = total = 0
    for piece in pieces(data):
        total += len(piece)
        for frame in reader.feed(piece):
            count += 1
            with contextlib.suppress(PacketError):
                serial.encode_request(serial.decode_request(frame))
        assert len(reader._buffer) < serial.REQUEST_BYTES
    assert total == count * serial.REQUEST_BYTES + reader.skipped + len(reader._buffer)


def exchange(data: bytes) -> None:
    """Both sides of a conversation: nobody proves a key without it."""
    for kind in Hash:
        book = ChallengeBook()
        for side in (ClientExchange(KEY, kind, b"C" * 64), DaemonExchange(KEY, kind, b"D" * 64, book)):
            with contextlib.suppress(AuthenticationError, PacketError):
                for piece in pieces(data):
                    side.receive(piece)
            assert side.proven is (kind is Hash.NONE and isinstance(side, DaemonExchange))


def dissection(data: bytes) -> None:
    """What a host may say to a guest that watches it, and what may lie in an IP packet: nobody proves a key."""
    knocker(data, 1229)
    decode_reason(data)
    for kind in Hash:
        watched = Dissection("host", KEY, kind, b"C" * 64)
        for piece in pieces(data):
            watched.receive(piece)
            if watched.is_over:
                break
        assert watched.close(End.CLOSED).stage in (Stage.CONNECTED, Stage.ANSWERED if kind is Hash.NONE else None)


def config(data: bytes) -> None:
    """A configuration: settings, or faults with their lines."""
    try:
        settings.read(data, "fuzz.conf")
    except ConfigError as fault:
        assert str(fault) and fault.line >= 0
    except ConfigErrors as faults:
        assert faults.faults and all(str(fault) for fault in faults.faults)


def agent(data: bytes) -> None:
    """What Pacemaker may write to the agent: options, or faults that can be shown."""
    for program in ("fence_vmfence", "fence_xvm", "fence_virt"):
        options = parse_stdin(data, program)
        assert all(str(fault) for fault in options.faults)
        "".join(options.warnings).encode()


TARGETS = {each.__name__: each for each in (request, records, frames, exchange, dissection, config, agent)}


def main(argv: list[str]) -> None:
    """Fuzz the target named first."""
    if len(argv) < 2 or argv[1] not in TARGETS:
        sys.exit(f"usage: {argv[0]} {'|'.join(TARGETS)} [libFuzzer options]")
    import atheris

    atheris.instrument_all()
    atheris.Setup([argv[0], *argv[2:]], TARGETS[argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
