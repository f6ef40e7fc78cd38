"""ask() over loopback against a host that plays a script: every way it can end, told apart."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from unit.fakes import Peer, peer, prove, read_request, receive, wait_for_end
from vmfence.client import direct, stream
from vmfence.client.ask import Transport, ask
from vmfence.client.failures import HostNotProven, NoAnswer, NotAccepted
from vmfence.client.stream import CONVERSATIONS_MAX, Answer, Waiting
from vmfence.errors import AuthenticationError, PacketError, Unreachable, UsageError, VmfenceError
from vmfence.protocol import reply
from vmfence.protocol.auth import Hash, Key, respond, verify
from vmfence.protocol.reply import Code, Record, encode_list, encode_record
from vmfence.protocol.request import FLAG_UUID, Action, decode

KEY, OTHER = Key(b"k" * 32), Key(b"o" * 32)
SHA = Hash.SHA256
LONG_S, SHORT_S = 10.0, 0.1
RECORDS = [Record("alpha", "11111111-2222-3333-4444-555555555501", 1), Record("Beta", "", 5)]
Script = Callable[[Peer, socket.socket], None]


def put(port: int, action: Action = Action.STATUS, target: str = "alpha", **how: Any) -> Answer:
    settings = {"hash_type": SHA, "auth": SHA, "timeout_s": LONG_S, "key": KEY, "address": "127.0.0.1", **how}
    transport = Transport("tcp", address=settings.pop("address"), port=port)
    return ask(action, target, transport, settings.pop("key"), **settings)


def answering(data: bytes, key: Key = KEY, auth: Hash = SHA) -> Script:
    """Return the script of a host that proves *key* and answers *data*."""

    def script(host: Peer, connection: socket.socket) -> None:
        read_request(host, connection)
        if auth is not Hash.NONE:
            prove(connection, key, auth)
        connection.sendall(data)
        wait_for_end(connection)

    return script


def failure(script: Script, **how: Any) -> VmfenceError:
    with peer(script) as host, pytest.raises(VmfenceError) as caught:
        put(host.port, **how)
    return caught.value


# It answers


@pytest.mark.parametrize("auth", list(Hash))
@pytest.mark.parametrize("code", [0, 1, 2, 3, 200])
def test_a_result(code: int, auth: Hash) -> None:
    with peer(answering(bytes((code,)), auth=auth)) as host:
        answer = put(host.port, auth=auth)
    assert (answer.code, answer.records, answer.peer) == (code, [], "127.0.0.1")


@pytest.mark.parametrize("closing", [encode_list(RECORDS), encode_list(RECORDS)[:-1]])
def test_a_list(closing: bytes) -> None:
    """With the trailing code or without: the reference closes at the terminator."""
    with peer(answering(closing)) as host:
        answer = put(host.port, Action.LIST, "")
    assert (answer.code, answer.records) == (Code.LIST, RECORDS)


@pytest.mark.parametrize("hash_type", list(Hash))
def test_what_is_sent(hash_type: Hash) -> None:
    with peer(answering(b"\0", auth=Hash.NONE)) as host:
        put(host.port, Action.OFF, "g\u00e4st", hash_type=hash_type, auth=Hash.NONE, flags=FLAG_UUID)
    (packet,) = host.requests
    request = decode(packet)
    assert verify(packet, KEY, hash_type) is hash_type
    assert (request.action, request.target, request.flags) == (Action.OFF, "g\u00e4st", FLAG_UUID)
    assert (request.random == bytes(6)) is (hash_type is Hash.NONE)


def test_every_request_has_bytes_of_its_own() -> None:
    packets = []
    for _ in range(5):
        with peer(answering(b"\0")) as host:
            put(host.port)
        packets += host.requests
    assert len({packet[98:104] for packet in packets}) == len({packet[104:108] for packet in packets}) == 5


def test_the_log_tells_the_steps_and_no_key() -> None:
    said: list[str] = []
    with peer(answering(b"\0")) as host:
        put(host.port, log=said.append)
    assert any("127.0.0.1" in line for line in said)
    assert "kkkk" not in " ".join(said) and "6b6b" not in " ".join(said)


# It does not prove the key


def bad_answer(_: Peer, connection: socket.socket) -> None:
    receive(connection, 176 + 64)
    connection.sendall(b"x" * 128)
    wait_for_end(connection)


def reflecting(_: Peer, connection: socket.socket) -> None:
    challenge = receive(connection, 176 + 64)[176:]
    connection.sendall(respond(challenge, KEY, SHA) + challenge)
    assert receive(connection, 64) == b""


def success_at_once(_: Peer, connection: socket.socket) -> None:
    """What a host without the key would like: a success code in place of a proof."""
    receive(connection, 176 + 64)
    connection.sendall(bytes(64) + bytes(64) + b"\0")
    wait_for_end(connection)


@pytest.mark.parametrize("script", [answering(b"\0", OTHER), bad_answer, reflecting, success_at_once])
def test_a_host_that_does_not_prove_the_key(script: Script) -> None:
    error = failure(script)
    assert isinstance(error, HostNotProven)
    assert "127.0.0.1" in error.what and error.remedy


def test_a_host_with_another_auth() -> None:
    assert isinstance(failure(answering(b"\0", auth=Hash.SHA512)), HostNotProven)


# It leaves


def leaving(sent: bytes, count: int, *, abruptly: bool = False) -> Script:
    """Return the script of a host that reads *count* bytes, proves itself as far as *sent* goes, and closes."""

    def script(_: Peer, connection: socket.socket) -> None:
        read = receive(connection, count)
        proof = respond(read[176:240], KEY, SHA) if count >= 240 else b""
        connection.sendall({b"proof": proof, b"both": proof + b"D" * 64}.get(sent, sent))
        if sent == b"both":
            receive(connection, 64)
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize(
    ("sent", "count", "waited_for"),
    [
        (b"", 0, "answer to our challenge"),
        (b"", 176, "answer to our challenge"),
        (b"half of it", 240, "answer to our challenge"),
        (b"proof", 240, "the host's challenge"),
        (b"both", 240, "the result"),
    ],
)
def test_a_host_that_hangs_up(sent: bytes, count: int, waited_for: str, abruptly: bool) -> None:
    error = failure(leaving(sent, count, abruptly=abruptly))
    if abruptly and not count and isinstance(error, Unreachable):
        return  # so fast that we did not see the connection
    assert isinstance(error, NotAccepted)
    assert error.at_challenge is (waited_for != "the result")
    if not abruptly:
        assert waited_for in error.why
    assert "log" in error.remedy


def test_without_auth_there_is_no_challenge_to_fail_at() -> None:
    error = failure(leaving(b"", 176), auth=Hash.NONE)
    assert isinstance(error, NotAccepted) and not error.at_challenge


def cutting(data: bytes) -> Script:
    def script(host: Peer, connection: socket.socket) -> None:
        read_request(host, connection)
        prove(connection, KEY, SHA)
        connection.sendall(data)

    return script


@pytest.mark.parametrize("length", [1, 2, 130, 131, 132, 261, 390])
def test_a_list_that_is_cut_off(length: int) -> None:
    error = failure(cutting(encode_list(RECORDS)[:length]), action=Action.LIST, target="")
    assert isinstance(error, PacketError) and error.what == "127.0.0.1: the list of guests was cut off"
    assert "log" in error.remedy


def test_an_endless_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "RECORDS_MAX", 20)
    error = failure(answering(b"\xfd" + encode_record(RECORDS[0]) * 21), action=Action.LIST, target="")
    assert isinstance(error, PacketError) and error.what == "127.0.0.1: endless list of guests"
    assert "more than 20" in error.why and "log" in error.remedy


# It says nothing


def silent(_: Peer, connection: socket.socket) -> None:
    wait_for_end(connection)


def mute(_: Peer, connection: socket.socket) -> None:
    receive(connection, 240)
    connection.sendall(b"x" * 10)
    wait_for_end(connection)


@pytest.mark.parametrize("script", [silent, mute, answering(b""), answering(b"\xfd" + encode_record(RECORDS[0]))])
def test_the_deadline_counts_for_everything(script: Script) -> None:
    began = time.monotonic()
    error = failure(script, timeout_s=SHORT_S)
    assert isinstance(error, NoAnswer)
    assert SHORT_S <= time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("script", "auth", "what", "missing", "has_auth"),
    [
        (silent, SHA, "did not answer in time", "the host's answer to our challenge", True),
        (silent, Hash.NONE, "did not answer in time", "the result", True),
        (mute, SHA, "answered and then fell silent", "the host's answer to our challenge", True),
        (answering(b""), SHA, "answered and then fell silent", "the result", False),
    ],
)
def test_a_host_that_falls_silent_is_told(script: Script, auth: Hash, what: str, missing: str, has_auth: bool) -> None:
    error = failure(script, auth=auth, timeout_s=SHORT_S)
    assert (error.what, error.why) == (f"127.0.0.1 {what}", f"it did not send {missing}")
    assert ("compare the auth settings" in error.remedy) is has_auth
    assert "log" in error.remedy


def dripping(_: Peer, connection: socket.socket) -> None:
    """One byte every few milliseconds: no single read ever times out."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"x")
            time.sleep(0.005)


def test_the_deadline_is_not_one_of_single_reads() -> None:
    began = time.monotonic()
    assert isinstance(failure(dripping, timeout_s=SHORT_S), NoAnswer)
    assert time.monotonic() - began < 5


# It cannot be asked


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable) as caught:
            put(bound.getsockname()[1])
    assert "refused" in caught.value.why and "firewall" in caught.value.remedy


def test_a_host_that_does_not_take_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that drops: the queue of this one is full."""
    monkeypatch.setattr(direct, "_CONNECT_S", SHORT_S)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        began = time.monotonic()
        with pytest.raises(Unreachable, match="Unable to connect"):
            put(server.getsockname()[1])
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["", "localhost", "host.example", "127.0.0.1.1", "::1::", "a" * 300, "127.0.0.1 "])
def test_names_are_never_looked_up(address: str) -> None:
    with pytest.raises(UsageError, match="no IP address"):
        put(1229, address=address)


@pytest.mark.parametrize("target", ["n" * 64, "\u00e4" * 32, "al\0pha"])
def test_names_that_the_wire_does_not_take(target: str) -> None:
    with pytest.raises(UsageError, match="Invalid domain name"):
        put(1229, target=target)


def test_a_transport_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="carrier pigeon"):
        ask(Action.LIST, "", Transport("carrier pigeon"), KEY, hash_type=SHA, auth=SHA, timeout_s=SHORT_S)


@pytest.mark.parametrize("kind", ["tcp", "multicast"])
@pytest.mark.parametrize("key", [None, Key(b"")])
@pytest.mark.parametrize(("hash_type", "auth"), [(SHA, SHA), (SHA, Hash.NONE), (Hash.NONE, SHA)])
def test_nothing_leaves_without_a_key(hash_type: Hash, auth: Hash, key: Key | None, kind: str) -> None:
    transport = Transport(kind, address="127.0.0.1" if kind == "tcp" else "", port=9)
    with pytest.raises(AuthenticationError, match="no key"):
        ask(Action.OFF, "alpha", transport, key, hash_type=hash_type, auth=auth, timeout_s=SHORT_S)


# Several connections: the call-back port is open to everybody


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    made = Waiting(KEY, SHA, time.monotonic() + LONG_S, lambda _: None)
    made.listen(socket.create_server(("127.0.0.1", 0)))
    yield made
    made.close()


@contextlib.contextmanager
def callers(waiting: Waiting, count: int) -> Iterator[list[socket.socket]]:
    """Connect *count* times to the call-back port."""
    assert waiting._listener is not None
    with contextlib.ExitStack() as stack:
        place = waiting._listener.getsockname()
        yield [stack.enter_context(socket.create_connection(place, LONG_S)) for _ in range(count)]


def serve(waiting: Waiting, seconds: float = 0.02) -> Answer | None:
    return waiting.run_until(time.monotonic() + seconds)


def prove_to(waiting: Waiting, caller: socket.socket) -> None:
    """Play the honest host on *caller*, in turns with *waiting*."""
    challenge = receive(caller, 64)
    caller.sendall(respond(challenge, KEY, SHA) + b"D" * 64)
    assert serve(waiting) is None
    assert receive(caller, 64) == respond(b"D" * 64, KEY, SHA)


@pytest.mark.parametrize("noise", [b"", b"x", b"GET / HTTP/1.0\r\n\r\n" * 20, bytes(129), b"\0"])
def test_strangers_cost_only_their_own_connection(waiting: Waiting, noise: bytes) -> None:
    with callers(waiting, 6) as (*strangers, host):
        for stranger in strangers:
            stranger.sendall(noise)
        strangers[0].close()
        assert serve(waiting) is None
        prove_to(waiting, host)
        host.sendall(b"\2")
        answer = serve(waiting, LONG_S)
    assert answer is not None and answer.code == 2


@pytest.mark.parametrize("talkative", [0, 1, CONVERSATIONS_MAX - 1])
def test_a_flood_of_connections_is_bounded(waiting: Waiting, talkative: int) -> None:
    """More than we keep, while some of those we have to drop are sending: nothing breaks."""
    with callers(waiting, CONVERSATIONS_MAX) as first:
        for _ in range(CONVERSATIONS_MAX):
            serve(waiting, 0.001)
        assert len(waiting._conversations) == CONVERSATIONS_MAX
        with callers(waiting, 3):
            first[talkative].sendall(b"x" * 10)
            for _ in range(6):
                assert serve(waiting, 0.002) is None
            assert len(waiting._conversations) == CONVERSATIONS_MAX


@pytest.mark.parametrize("order", ["listener first", "listener last"])
def test_a_connection_that_makes_room_may_have_sent_something(waiting: Waiting, order: str) -> None:
    with callers(waiting, CONVERSATIONS_MAX) as first:
        for _ in range(CONVERSATIONS_MAX):
            serve(waiting, 0.001)
        select = waiting._selector.select

        def sorted_select(seconds: float | None = None) -> Any:
            return sorted(select(seconds), key=lambda ready: (ready[0].data is None) is (order == "listener last"))

        waiting._selector.select = sorted_select  # type: ignore[method-assign]
        with callers(waiting, 1):
            for caller in first:
                caller.sendall(b"x")
            assert serve(waiting) is None


def test_a_flood_does_not_push_out_a_host_that_proved_the_key(waiting: Waiting) -> None:
    with callers(waiting, 1) as (host,):
        assert serve(waiting) is None
        prove_to(waiting, host)
        with callers(waiting, CONVERSATIONS_MAX + 5):
            for _ in range(CONVERSATIONS_MAX + 5):
                assert serve(waiting, 0.001) is None
            host.sendall(b"\0")
            answer = serve(waiting, LONG_S)
    assert answer is not None and answer.code == 0


def offer(caller: socket.socket) -> None:
    """Prove the key on *caller* and ask for ours, as a host does before it acts."""
    caller.sendall(respond(receive(caller, 64), KEY, SHA) + b"D" * 64)


def hears(caller: socket.socket) -> bytes:
    """Return what has come to *caller* by now."""
    caller.setblocking(False)
    try:
        return caller.recv(64)
    except BlockingIOError:
        return b""
    finally:
        caller.settimeout(LONG_S)


@pytest.mark.parametrize("order", ["in turn", "at once"])
def test_of_several_hosts_one_is_told_to_act(waiting: Waiting, order: str) -> None:
    with callers(waiting, 3) as hosts:
        assert serve(waiting) is None
        for host in hosts:
            offer(host)
            if order == "in turn":
                assert serve(waiting) is None
        assert serve(waiting) is None
        heard = [host for host in hosts if hears(host)]
        assert len(heard) == 1
        for host in hosts:
            host.sendall(b"\1" if host not in heard else b"\2")
        answer = serve(waiting, LONG_S)
    assert answer is not None and answer.code == 2


def test_another_host_is_told_to_act_when_the_first_has_left(waiting: Waiting) -> None:
    with callers(waiting, 2) as (first, second):
        assert serve(waiting) is None
        offer(first)
        assert serve(waiting) is None
        offer(second)
        assert serve(waiting) is None
        assert (bool(hears(first)), bool(hears(second))) == (True, False)
        first.close()
        assert serve(waiting) is None
        assert hears(second) == respond(b"D" * 64, KEY, SHA)
        second.sendall(b"\0")
        answer = serve(waiting, LONG_S)
    assert answer is not None and answer.code == 0


def leave(waiting: Waiting, caller: socket.socket) -> None:
    caller.close()


def stay(waiting: Waiting, caller: socket.socket) -> None:
    pass


def break_off(waiting: Waiting, caller: socket.socket) -> None:
    caller.sendall(b"x" * 10)
    assert serve(waiting) is None
    caller.close()


def lie(waiting: Waiting, caller: socket.socket) -> None:
    caller.sendall(b"x" * 128)


def prove_and_leave(waiting: Waiting, caller: socket.socket) -> None:
    prove_to(waiting, caller)
    caller.close()


def cut_a_list(waiting: Waiting, caller: socket.socket) -> None:
    prove_to(waiting, caller)
    caller.sendall(b"\xfd" + encode_record(RECORDS[0]))
    caller.close()


Caller = Callable[[Waiting, socket.socket], None]
# What a caller does, and what is told when nobody does better; what tells least first.
ENDS: list[tuple[Caller, str]] = [
    (leave, "no host answered. 127.0.0.1 connected and left without a byte. open the ports."),
    (stay, "127.0.0.1 answered and then fell silent. it did not send the host's answer to our challenge. compare"),
    (break_off, "127.0.0.1 did not accept our request. it closed the connection while we waited for the host's answer"),
    (lie, "127.0.0.1 could not prove the key."),
    (prove_to, "127.0.0.1 answered and then fell silent. it did not send the result. see the daemon's log"),
    (cut_a_list, "127.0.0.1: the list of guests was cut off. after 1 guest."),
    (prove_and_leave, "127.0.0.1 did not accept our request. it closed the connection while we waited for the result"),
]


# Not the one that is at work and silent before another: that one is not heard (see above).
ORDERS = [(number, last) for number in range(len(ENDS)) for last in (True, False) if (number, last) != (5, False)]


@pytest.mark.parametrize(("number", "is_worse_last"), ORDERS)
def test_the_most_telling_failure_is_told(waiting: Waiting, number: int, is_worse_last: bool) -> None:
    """Whoever comes last: strangers must not hide what a host has told."""
    pair = ENDS[max(0, number - 1) : number + 1]
    with callers(waiting, len(pair)) as connections:
        assert serve(waiting) is None
        for connection, (act, _) in zip(connections, reversed(pair) if is_worse_last else pair):
            act(waiting, connection)
            assert serve(waiting) is None
        assert str(waiting.no_answer("no host answered", "open the ports")).startswith(ENDS[number][1])


def test_the_reason_when_nobody_came(waiting: Waiting) -> None:
    assert str(waiting.no_answer("no host answered", "open the ports")) == "no host answered. open the ports."


@pytest.mark.parametrize(("act", "told"), [(stay, "too many connections"), (lie, "127.0.0.1 could not prove the key")])
def test_making_room_hides_nothing(waiting: Waiting, act: Caller, told: str) -> None:
    with callers(waiting, 1) as (first,):
        assert serve(waiting) is None
        act(waiting, first)
        assert serve(waiting) is None
        with callers(waiting, CONVERSATIONS_MAX + 2):
            for _ in range(CONVERSATIONS_MAX + 2):
                assert serve(waiting, 0.001) is None
            assert len(waiting._conversations) == CONVERSATIONS_MAX
            assert waiting.no_answer("no host answered").what.startswith(told)


def test_everything_is_closed_at_the_end(waiting: Waiting) -> None:
    with callers(waiting, 3) as connections:
        for _ in range(3):
            serve(waiting, 0.002)
        waiting.close()
        for connection in connections:
            assert len(receive(connection, 1000)) == 64


def test_the_limit_is_small() -> None:
    assert stream.CONVERSATIONS_MAX <= 64
