"""The conversation after the packet: both roles against each other, against liars, and cut off anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmfence.errors import AuthenticationError, PacketError
from vmfence.protocol.auth import Hash, Key, respond
from vmfence.protocol.exchange import ChallengeBook, ClientExchange, ClientStage, DaemonExchange
from vmfence.protocol.reply import Code, Record, encode_list, encode_record

FAST = settings(deadline=None, max_examples=100)
KEY, OTHER = Key(b"k" * 32), Key(b"o" * 32)
SIGNED = [Hash.SHA1, Hash.SHA256, Hash.SHA512]
OURS, THEIRS = b"C" * 64, b"D" * 64
RECORDS = [Record("alpha", "11111111-2222-3333-4444-555555555501", 1), Record("Beta", "", 5)]
Pair = tuple[ClientExchange, DaemonExchange]


def pair(kind: Hash, client_key: Key = KEY, daemon_key: Key = KEY) -> Pair:
    return ClientExchange(client_key, kind, OURS), DaemonExchange(daemon_key, kind, THEIRS, ChallengeBook())


def shake_hands(client: ClientExchange, daemon: DaemonExchange) -> None:
    out = client.begin()
    while out:
        out = client.receive(daemon.receive(out))
        out = daemon.receive(out) if out else b""


def proven(kind: Hash) -> ClientExchange:
    client, daemon = pair(kind)
    shake_hands(client, daemon)
    assert daemon.proven and client.stage is ClientStage.CODE
    return client


@pytest.mark.parametrize("kind", list(Hash))
@pytest.mark.parametrize("code", [0, 1, 2, 3, 7, 255])
def test_a_code_ends_it(kind: Hash, code: int) -> None:
    client = proven(kind)
    assert client.receive(bytes((code,))) == b""
    assert (client.stage, client.code, client.records) == (ClientStage.DONE, code, [])
    assert client.proven is (kind is not Hash.NONE)
    client.end()


@pytest.mark.parametrize("kind", list(Hash))
def test_a_list_ends_at_its_terminator(kind: Hash) -> None:
    client = proven(kind)
    client.receive(encode_list(RECORDS)[:-1])
    assert (client.stage, client.code, client.records) == (ClientStage.DONE, Code.LIST, RECORDS)


@FAST
@given(st.sampled_from(SIGNED), st.lists(st.integers(1, 200), max_size=12))
def test_the_size_of_the_pieces_does_not_matter(kind: Hash, sizes: list[int]) -> None:
    client = ClientExchange(KEY, kind, OURS)
    data = respond(OURS, KEY, kind) + THEIRS + encode_list(RECORDS)
    out, start = client.begin(), 0
    for size in [*sizes, len(data)]:
        out += client.receive(data[start : start + size])
        start += size
    assert (out, client.stage) == (OURS + respond(THEIRS, KEY, kind), ClientStage.DONE)
    assert client.records == RECORDS


@FAST
@given(st.sampled_from(SIGNED), st.lists(st.integers(1, 100), max_size=8))
def test_nor_for_the_daemon(kind: Hash, sizes: list[int]) -> None:
    daemon = DaemonExchange(KEY, kind, THEIRS, ChallengeBook())
    data, out, start = OURS + respond(THEIRS, KEY, kind), b"", 0
    for size in [*sizes, len(data)]:
        assert daemon.proven is (start >= len(data))
        out += daemon.receive(data[start : start + size])
        start += size
    assert daemon.proven and out == respond(OURS, KEY, kind) + THEIRS


# Liars


@pytest.mark.parametrize("kind", SIGNED)
def test_a_host_with_another_key(kind: Hash) -> None:
    client, daemon = pair(kind, daemon_key=OTHER)
    answer = daemon.receive(client.begin())
    with pytest.raises(AuthenticationError, match="wrong answer"):
        client.receive(answer)
    assert not client.proven and client.code is None


@pytest.mark.parametrize("kind", SIGNED)
def test_a_client_with_another_key(kind: Hash) -> None:
    daemon = DaemonExchange(KEY, kind, THEIRS, ChallengeBook())
    daemon.receive(OURS)
    with pytest.raises(AuthenticationError, match="wrong answer"):
        daemon.receive(respond(THEIRS, OTHER, kind))
    assert not daemon.proven


@pytest.mark.parametrize("bit", [0, 100, 511])
@pytest.mark.parametrize("kind", SIGNED)
def test_an_answer_with_one_wrong_bit(kind: Hash, bit: int) -> None:
    right = int.from_bytes(respond(OURS, KEY, kind), "big")
    client = ClientExchange(KEY, kind, OURS)
    with pytest.raises(AuthenticationError):
        client.receive((right ^ 1 << bit).to_bytes(64, "big"))


@pytest.mark.parametrize("mine", SIGNED)
@pytest.mark.parametrize("yours", SIGNED)
def test_both_sides_must_mean_the_same_hash(mine: Hash, yours: Hash) -> None:
    client, daemon = ClientExchange(KEY, mine, OURS), DaemonExchange(KEY, yours, THEIRS, ChallengeBook())
    if mine is yours:
        shake_hands(client, daemon)
        assert client.proven and daemon.proven
        return
    with pytest.raises(AuthenticationError):
        shake_hands(client, daemon)


@pytest.mark.parametrize("kind", SIGNED)
def test_our_own_challenge_is_refused_by_the_client(kind: Hash) -> None:
    """A host that has our answer already would only have to send it back."""
    client = ClientExchange(KEY, kind, OURS)
    with pytest.raises(AuthenticationError, match="our own challenge"):
        client.receive(respond(OURS, KEY, kind) + OURS)
    assert client.code is None


@pytest.mark.parametrize("kind", SIGNED)
def test_our_own_challenge_is_refused_by_the_daemon(kind: Hash) -> None:
    """An attacker without the key lets one connection answer the challenge of another."""
    book = ChallengeBook()
    DaemonExchange(KEY, kind, THEIRS, book)
    second = DaemonExchange(KEY, kind, b"E" * 64, book)
    with pytest.raises(AuthenticationError, match="reflection"):
        second.receive(THEIRS)
    with pytest.raises(AuthenticationError, match="reflection"):
        DaemonExchange(KEY, kind, b"F" * 64, book).receive(b"F" * 64)


@pytest.mark.parametrize("kind", SIGNED)
def test_a_reflected_answer_does_not_prove_the_client(kind: Hash) -> None:
    daemon = DaemonExchange(KEY, kind, THEIRS, ChallengeBook())
    answer = daemon.receive(OURS)[:64]
    with pytest.raises(AuthenticationError):
        daemon.receive(answer)


@pytest.mark.parametrize("challenge", [OURS, bytes(64), b"\xff" * 64])
def test_a_code_without_proof_is_no_result(challenge: bytes) -> None:
    client = ClientExchange(KEY, Hash.SHA256, challenge)
    client.receive(b"\0")
    assert (client.code, client.stage) == (None, ClientStage.RESPONSE)
    with pytest.raises(PacketError):
        client.end()


@FAST
@given(st.sampled_from(SIGNED), st.lists(st.binary(max_size=300), max_size=6))
def test_random_bytes_never_prove_anything(kind: Hash, data: list[bytes]) -> None:
    for exchange in pair(kind):
        try:
            for piece in data:
                exchange.receive(piece)
        except AuthenticationError:
            pass
        assert not exchange.proven and getattr(exchange, "code", None) is None


@FAST
@given(st.lists(st.binary(max_size=500), max_size=6))
def test_random_bytes_after_the_proof(data: list[bytes]) -> None:
    client = proven(Hash.SHA1)
    for piece in data:
        client.receive(piece)
    assert client.code == next((piece[0] for piece in data if piece), None)


# Without a key, without authentication


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("key", [Key(b""), None])
def test_authentication_needs_a_key(kind: Hash, key: Key | None) -> None:
    with pytest.raises(AuthenticationError, match="no key"):
        ClientExchange(key, kind, OURS)
    with pytest.raises(AuthenticationError, match="no key"):
        DaemonExchange(key or Key(b""), kind, THEIRS, ChallengeBook())


def test_none_and_none() -> None:
    client, daemon = ClientExchange(None, Hash.NONE, OURS), DaemonExchange(Key(b""), Hash.NONE, THEIRS, ChallengeBook())
    assert (client.begin(), daemon.proven, daemon.receive(b"")) == (b"", True, b"")
    client.receive(b"\2")
    assert (client.code, client.proven) == (2, False)


@pytest.mark.parametrize("data", [b"x", OURS, bytes(176)])
def test_a_client_that_authenticates_to_a_host_without(data: bytes) -> None:
    """It would take our result code for the first byte of an answer: nothing may be done for it."""
    daemon = DaemonExchange(KEY, Hash.NONE, THEIRS, ChallengeBook())
    with pytest.raises(AuthenticationError, match="has none"):
        daemon.receive(data)


def test_bytes_after_the_proof_are_ignored() -> None:
    daemon = DaemonExchange(KEY, Hash.SHA1, THEIRS, ChallengeBook())
    daemon.receive(OURS + respond(THEIRS, KEY, Hash.SHA1) + b"more")
    assert daemon.proven and daemon.receive(b"and more") == b""


# Cut off


@pytest.mark.parametrize(
    ("stage", "word"),
    [("RESPONSE", "answer"), ("CHALLENGE", "challenge"), ("CODE", "result"), ("LIST", "cut off")],
)
def test_an_early_end(stage: str, word: str) -> None:
    data = {
        "RESPONSE": b"x" * 63,
        "CHALLENGE": respond(OURS, KEY, Hash.SHA1) + b"D" * 63,
        "CODE": respond(OURS, KEY, Hash.SHA1) + THEIRS,
        "LIST": respond(OURS, KEY, Hash.SHA1) + THEIRS + encode_list(RECORDS)[:-2],
    }[stage]
    client = ClientExchange(KEY, Hash.SHA1, OURS)
    client.receive(data)
    assert client.stage is ClientStage[stage]
    with pytest.raises(PacketError, match=word):
        client.end()


@pytest.mark.parametrize("length", range(2 * 130 + 1))
def test_a_list_cut_anywhere_is_not_complete(length: int) -> None:
    client = proven(Hash.NONE)
    client.receive(encode_list(RECORDS)[: 1 + length])
    assert client.stage is ClientStage.LIST
    with pytest.raises(PacketError, match=("after 0 guests", r"after 1 guest\b", "after 2 guests")[length // 130]):
        client.end()


@pytest.mark.parametrize(("sent", "word"), [(b"", "its challenge"), (OURS, "its answer"), (OURS + b"x", "its answer")])
def test_what_the_daemon_waits_for(sent: bytes, word: str) -> None:
    daemon = DaemonExchange(KEY, Hash.SHA1, THEIRS, ChallengeBook())
    daemon.receive(sent)
    assert daemon.waits_for().startswith(word)


# Memory


def held(exchange: ClientExchange | DaemonExchange) -> int:
    return len(exchange._buffer)


def test_what_follows_the_end_is_not_kept() -> None:
    client = proven(Hash.NONE)
    for _ in range(100):
        client.receive(b"\0" * 1000)
    assert held(client) < 2000


def test_what_follows_the_proof_is_not_kept() -> None:
    daemon = DaemonExchange(KEY, Hash.SHA1, THEIRS, ChallengeBook())
    daemon.receive(OURS + respond(THEIRS, KEY, Hash.SHA1))
    for _ in range(100):
        daemon.receive(b"\0" * 1000)
    assert held(daemon) < 2000


def test_a_list_is_not_kept_twice() -> None:
    client = proven(Hash.NONE)
    client.receive(b"\xfd")
    for _ in range(100):
        client.receive(encode_record(RECORDS[0]))
    assert (len(client.records), held(client)) == (100, 0)


def test_the_book_is_bounded_and_forgets_the_oldest() -> None:
    book = ChallengeBook(size=3)
    challenges = [bytes((n,)) * 64 for n in range(5)]
    assert [book.add(challenge) for challenge in challenges] == challenges
    assert [challenge in book for challenge in challenges] == [False, False, True, True, True]


def test_the_book_outlasts_all_exchanges_that_can_be_open() -> None:
    """512 at once (reception.SESSIONS_MAX) of ten seconds: one that is forgotten belongs to none of them."""
    book = ChallengeBook()
    first = book.add(b"first" * 12 + b"1234")
    for number in range(10_000):
        book.add(number.to_bytes(64, "big"))
    assert first in book
