"""What our hosts tell each other: read as it was written, and rubbish is a PacketError."""

from __future__ import annotations

import json
import random

import pytest

from vmfence.errors import PacketError
from vmfence.host.pool import messages
from vmfence.host.pool.messages import (
    Away,
    Entry,
    Hello,
    Last,
    Lasts,
    Listing,
    Missing,
    Order,
    Query,
    Report,
    Result,
    Sight,
    Start,
)
from vmfence.protocol import cpg

ALPHA = Entry("älpha \N{SNOWMAN}\udc80", "11111111-2222-3333-4444-555555555501", 5, True)
EACH = [
    Hello(),
    Sight(True, True),
    Hello(starts=(Start("u", 2, 1.5),)),
    Listing((ALPHA, Entry("b", "u", 1)), ("gone",), True, False, 7),
    Listing((), (), False, True),
    Query(1, "alpha", True),
    Lasts((Last("u", ((7, 2), (-9, 0)), (5, 6)), Last("v", ()))),
    Missing(3, 2.5, (ALPHA,), True, True, 1.5),
    Report(2, 3, (ALPHA,), 1.5, "hangs", (Away(4, 2.5, ALPHA, True, True, 7.0), Away(5, 0.0)), (Last("u", ((7, 2),)),)),
    Report(2, 3, (), 1.5),
    Order(3, 4, 1, "u", 12.25),
    Result(3, 4, 1, "why", 3),
]


@pytest.mark.parametrize("message", EACH, ids=lambda message: type(message).__name__)
def test_messages_arrive_as_they_were_sent(message: messages.Message) -> None:
    assert messages.decode(messages.encode(message)) == message


def test_what_a_newer_host_adds_is_passed_over() -> None:
    body = {"kind": "query", "seqno": 1, "target": "a", "colour": "red"}
    assert messages.decode(cpg.encode(cpg.Ours(json.dumps(body).encode()))) == Query(1, "a")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"kind": 1}',
        b'{"kind": "query"}',
        b'{"kind": "query", "seqno": "1", "target": "a"}',
        b'{"kind": "query", "seqno": true, "target": "a"}',
        b'{"kind": "report", "asker": 1, "seqno": 1, "guests": [1], "clock_s": 1}',
        b'{"kind": "report", "asker": 1, "seqno": 1, "guests": {}, "clock_s": 1}',
        b'{"kind": "report", "asker": 1, "seqno": 1, "guests": [], "clock_s": "1"}',
        b'{"kind": "report", "asker": 1, "seqno": 1, "guests": [], "clock_s": 1, "lasts": "x"}',
        b'{"kind": "report", "asker": 1, "seqno": 1, "guests": [], "clock_s": 1' + b"0" * 400 + b"}",
        b'{"kind": "report", "asker": 1, "seqno": 1, "guests": [], "clock_s": NaN}',
        b'{"kind": "order", "node": 1, "seqno": 1, "action": 1, "uuid": "u", "until_s": 1e999}',
        b'{"kind": "order", "node": 1, "seqno": 1, "action": 1, "uuid": "u", "until_s": -Infinity}',
        b'{"kind": "order", "node": 1' + b"0" * 40 + b', "seqno": 1, "action": 1, "uuid": "u", "until_s": 1}',
        b'{"kind": "query", "seqno": 1, "target": "a\\u0000b"}',
        b'{"kind": "lasts", "lasts": [{"uuid": "u", "stays": [[1]]}]}',
        b'{"kind": "lasts", "lasts": [{"uuid": "u", "stays": [[1, 2.5]]}]}',
        b'{"kind": "lasts", "lasts": [{"uuid": "u", "stays": [], "past": ["x"]}]}',
        b'{"kind": "missing", "node": 1, "left_at": null, "guests": []}',
        b'{"kind": "listing", "guests": [], "gone": [1]}',
        b'{"kind": "listing", "guests": [{"name": "a", "uuid": "u", "state": "off"}]}',
        b'{"kind": "Listing", "guests": []}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_understood_is_an_error(body: bytes) -> None:
    with pytest.raises(PacketError):
        messages.decode(cpg.encode(cpg.Ours(body)))


def test_damaged_messages_raise_nothing_else() -> None:
    rng = random.Random(2)
    for message in EACH:
        data = messages.encode(message)
        for _ in range(300):
            damaged = bytearray(data)
            damaged[rng.randrange(16, len(data))] = rng.randrange(256)
            try:
                messages.decode(bytes(damaged[: rng.randrange(16, len(data) + 1)]))
            except PacketError:
                pass


def test_fence_virtd_passes_over_our_type() -> None:
    """It acts on types 0, 1 and 2 alone (server/cpg.c)."""
    assert int.from_bytes(messages.encode(Hello())[:4], "little") not in (cpg.REQUEST, cpg.REPLY, cpg.STORE)
