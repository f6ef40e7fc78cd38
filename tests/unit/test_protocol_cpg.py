"""The messages of fence_virtd's pool, against bytes captured from two of its daemons."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from vmfence.errors import PacketError
from vmfence.protocol import cpg

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cpg.json").read_text())["messages"]
MESSAGES = [vector for vector in VECTORS if "hex" in vector]


def expected(vector: dict) -> cpg.Message:
    header, body = vector["header"], vector["body"]
    if header["type"] == cpg.STORE:
        return cpg.Store(body["name"], body["uuid"], body["owner"], body["state"])
    if header["type"] == cpg.REQUEST:
        return cpg.Request(header["seqno"], body["vm"], body["request"], body["client_seqno"])
    return cpg.Reply(
        header["seqno"], header["target"], body["response"], body["vm"], body["request"], body["client_seqno"]
    )


@pytest.mark.parametrize("vector", MESSAGES, ids=range(len(MESSAGES)))
def test_captured_messages_are_understood_and_written_alike(vector: dict) -> None:
    data = bytes.fromhex(vector["hex"])
    message = cpg.decode(data)
    assert message == expected(vector)
    assert message is not None
    ours = cpg.encode(message)
    # Bytes 12 to 15 of requests and replies are whatever lay there.
    assert ours[:12] + ours[16:] == data[:12] + data[16:]


def test_a_body_may_be_longer_but_not_shorter() -> None:
    data = cpg.encode(cpg.Request(7, "alpha", 1))
    assert len(data) == cpg.MESSAGE_BYTES == 156
    assert cpg.decode(data + b"more") == cpg.Request(7, "alpha", 1)
    for length in range(len(data)):
        with pytest.raises(PacketError):
            cpg.decode(data[:length])


def test_types_of_others_are_passed_over() -> None:
    assert cpg.decode((3).to_bytes(4, "little") + bytes(152)) is None
    assert cpg.decode((3).to_bytes(4, "little") + bytes(12)) is None


@pytest.mark.parametrize(
    "message",
    [
        cpg.Request(1, "a" * 128, 1),
        cpg.Store("a" * 65, "u", 1, 1),
        cpg.Store("a", "u", 1 << 32, 1),
        cpg.Request(1, "a\0b", 1),
    ],
)
def test_what_does_not_fit_is_never_cut(message: cpg.Message) -> None:
    with pytest.raises(PacketError):
        cpg.encode(message)


def test_rubbish_raises_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        data = rng.randbytes(rng.randrange(200))
        try:
            cpg.decode(data)
        except PacketError:
            pass
