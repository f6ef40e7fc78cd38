"""Asking through serial lines, ports and channels: real pseudo-terminals, socket pairs and TCP on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.pipe import REQUEST, FarEnd, Line, answering, host_list, record, response
from unit.fakes import Peer, peer, receive
from vmfence.client import auto, barrier, direct, line_settings, serial
from vmfence.client.ask import ask
from vmfence.client.failures import NoAnswer, NotAccepted
from vmfence.client.stream import Answer
from vmfence.client.transport import Transport
from vmfence.errors import PacketError, Unreachable, UsageError, VmfenceError
from vmfence.protocol.auth import Hash
from vmfence.protocol.reply import Record
from vmfence.protocol.request import Action, Request
from vmfence.protocol.serial import check_plausible

UUID = "11111111-2222-3333-4444-555555555501"
LONG_S, SHORT_S = 20.0, 1.0
HOLDER = """
import fcntl, os, sys
device = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
fcntl.lockf(device, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request be sent with little time left."""
    monkeypatch.setattr(barrier, "LEFT_S", 0.3)


@pytest.fixture
def line() -> Iterator[Line]:
    with Line() as made:
        yield made


def put(pty: Line, action: Action = Action.STATUS, timeout_s: float = LONG_S, line: str = "115200,8N1") -> Answer:
    """Ask through *pty*."""
    transport = Transport("serial", device=pty.device, line=line)
    return ask(action, "alpha", transport, None, hash_type=Hash.SHA256, auth=Hash.SHA256, timeout_s=timeout_s)


@contextmanager
def held(device: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process hold the lock that fence_virt takes."""
    argv = [sys.executable, "-c", HOLDER, device]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder


@pytest.mark.parametrize("noise", [b"", b"login: \r\nab", b"ab" * 5000])
@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_request_and_its_answer(line: Line, code: int, noise: bytes) -> None:
    before = line.settings()
    with answering(line, noise + response(code)) as taken:
        answer = put(line)
    assert (answer.code, answer.peer) == (code, line.device)
    assert [(action, guest) for action, guest, _ in taken] == [(Action.STATUS, b"alpha")]
    assert line.is_silent()
    assert line.settings() == before


def test_a_list(line: Line) -> None:
    rows = [record(f"guest{number}", UUID) for number in range(50)]
    with answering(line, host_list(*rows) + b"late noise"):
        answer = put(line, Action.LIST)
    assert answer.records == [Record(f"guest{number}", UUID, 1) for number in range(50)]


@pytest.mark.parametrize("cut", [5, 5 + 130, 5 + 200, -5, -1])
def test_a_list_that_is_cut_off_is_no_list(line: Line, cut: int) -> None:
    """Not even when the end of the list is there, but not the end of the exchange: the next agent would read it."""
    with answering(line, host_list(record("alpha", UUID))[:cut]), pytest.raises(PacketError, match="cut off"):
        put(line, Action.LIST, SHORT_S)


def test_no_answer(line: Line) -> None:
    before = line.settings()
    with pytest.raises(NoAnswer, match="in time"):
        put(line, timeout_s=SHORT_S)
    assert line.settings() == before


def test_the_far_end_closes(line: Line) -> None:
    with answering(line, None), pytest.raises(NotAccepted, match="cut off"):
        put(line)


def test_what_is_left_of_an_earlier_exchange_is_no_answer(line: Line) -> None:
    line.send(response(0) * 3)
    with answering(line, response(1)):
        assert put(line).code == 1


class Script(threading.Thread):
    """The far end of *line*: when the nulls have come, it sends *late*, then their answers, then *answer*.

    Keeps the frames that came, in *taken*.
    """

    def __init__(self, line: Line, late: bytes, answer: bytes) -> None:
        super().__init__()
        self.taken: list[bytes] = []
        self._line, self._late, self._answer = line, late, answer

    def __enter__(self) -> Script:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join(LONG_S)

    def run(self) -> None:
        for _ in range(barrier.NULLS):
            self.taken.append(self._line.read(REQUEST.size))
        self._line.send(self._late + response(1) * barrier.NULLS)
        self.taken.append(self._line.read(REQUEST.size))
        self._line.send(self._answer)


LATE = [
    response(0),
    response(2),
    response(1) * 3 + response(0),
    response(1) * 5 + response(0) * 2,
    host_list(record("alpha", UUID), record("abba", UUID)),
    host_list(record("alpha", UUID))[70:],
    b"login: " + response(0) + b"\r\nab",
]


@pytest.mark.parametrize("late", LATE)
def test_what_comes_late_is_not_the_answer(line: Line, late: bytes) -> None:
    """It lay in the hypervisor, or is that of a client which has just given up."""
    with Script(line, late, response(3)) as script:
        assert put(line, Action.OFF).code == 3
    assert [frame[4] for frame in script.taken] == [Action.NULL] * barrier.NULLS + [Action.OFF]
    assert len({frame[-4:] for frame in script.taken}) == barrier.NULLS + 1


@pytest.mark.parametrize("said", [b"", response(1) * 3, (response(1) * 3 + response(0)) * 9, host_list()[:-5]])
def test_nothing_is_sent_into_a_line_that_is_not_in_order(line: Line, said: bytes) -> None:
    with Nulls(line, said) as nulls, pytest.raises(NoAnswer, match="in time. .*nothing was sent"):
        put(line, Action.OFF, SHORT_S)
    assert set(nulls.actions()) == {Action.NULL}


class Nulls:
    """Says *said* when the first null has come, and then nothing more."""

    def __init__(self, line: Line, said: bytes) -> None:
        self._line, self._said = line, said
        self._thread = threading.Thread(target=self._say)
        self._first = b""

    def __enter__(self) -> Nulls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LONG_S)

    def actions(self) -> list[int]:
        """Return the actions of all requests that came."""
        came = self._first
        while not self._line.is_silent():
            came += self._line.read(REQUEST.size)
        return list(came[4 :: REQUEST.size])

    def _say(self) -> None:
        self._first = self._line.read(REQUEST.size)
        self._line.send(self._said)


def test_nulls_that_were_lost_are_sent_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request that somebody left may swallow the first ones."""
    monkeypatch.setattr(barrier, "_FIRST_ROUND_S", 0.3)

    def lose() -> None:
        line.read(barrier.NULLS * REQUEST.size)
        with answering(line, response(0)):
            pass

    loser = threading.Thread(target=lose)
    loser.start()
    assert put(line, Action.OFF).code == 0
    loser.join(LONG_S)


def test_nothing_is_sent_when_hardly_any_time_is_left(line: Line) -> None:
    with pytest.raises(NoAnswer, match="no time to ask"):
        put(line, Action.OFF, 0.2)
    assert line.is_silent()


@pytest.mark.parametrize("number", [0, 0x61, 0x61626261, 0xFFFFFFFF])
def test_numbers_do_not_end_like_the_beginning_of_a_frame(number: int) -> None:
    frame = barrier.numbered(Request(Action.OFF, b"alpha", seqno=number))
    check_plausible(frame)
    assert not frame.endswith((b"a", b"b"))


@pytest.mark.parametrize(
    ("text", "speed", "flags"),
    [
        ("115200,8N1", termios.B115200, termios.CS8),
        ("9600,7E2", termios.B9600, termios.CS7 | termios.PARENB | termios.CSTOPB),
        ("2400,5o1", termios.B2400, termios.CS5 | termios.PARENB | termios.PARODD),
        ("57600", termios.B57600, termios.CS8),
    ],
)
def test_line_parameters(line: Line, text: str, speed: int, flags: int) -> None:
    made = serial._raw_settings(line.settings(), line_settings.parse(text))
    assert made[2] & (termios.CSIZE | termios.PARENB | termios.PARODD | termios.CSTOPB) == flags
    assert (made[0], made[1], made[3], made[4:6]) == (0, 0, 0, [speed, speed])
    assert made[2] & (termios.CREAD | termios.CLOCAL | termios.CRTSCTS)


@pytest.mark.parametrize("text", ["300,8N1", "115200,9N1", "115200,8X1", "115200,8N3", "115200;8N1", "fast", ",8N1"])
def test_bad_line_parameters_touch_no_device(line: Line, text: str) -> None:
    with pytest.raises(UsageError, match="Invalid serial parameters"):
        put(line, line=text)
    assert line.is_silent()


def test_a_line_in_use_is_waited_for(line: Line) -> None:
    with held(line.device) as holder, answering(line, response(0)):
        seen: list[str] = []

        def log(text: str) -> None:
            if "in use" in text and not seen:
                assert line.is_silent()
                holder.terminate()
                seen.append(text)

        transport = Transport("serial", device=line.device)
        answer = ask(Action.OFF, "alpha", transport, None, hash_type=Hash.NONE, auth=Hash.NONE, timeout_s=30, log=log)
        assert (answer.code, len(seen)) == (0, 1)


def test_a_line_in_use_to_the_end_is_left_alone(line: Line) -> None:
    before = line.settings()
    with held(line.device), pytest.raises(NoAnswer, match="in use by another program"):
        put(line, timeout_s=SHORT_S)
    assert (line.settings(), line.is_silent()) == (before, True)


def test_what_is_no_device(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for device, error in (("file", UsageError), ("fifo", UsageError), ("missing", Unreachable), ("\0", Unreachable)):
        with pytest.raises(error):
            ask_device(str(tmp_path / device))
    assert file.read_bytes() == b""


def ask_device(device: str) -> Answer:
    return serial.ask_device(Request(Action.OFF, b"alpha", seqno=1), device, "115200,8N1", far(), lambda text: None)


def far() -> float:
    return time.monotonic() + LONG_S


def test_a_port_that_is_no_terminal() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with answering(FarEnd(theirs.fileno()), response(2)):
            answer = serial.Pipe(ours.fileno(), "port").ask(Request(Action.STATUS, b"alpha", seqno=1), far())
        assert answer.code == 2


def test_what_is_left_in_a_port_is_no_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        far_end = FarEnd(theirs.fileno())
        far_end.send(response(0) * 3)
        with answering(far_end, response(1)):
            assert serial.Pipe(ours.fileno(), "port").ask(Request(Action.OFF, b"alpha", seqno=1), far()).code == 1


def test_a_port_that_nobody_holds_at_the_other_end() -> None:
    """The kernel takes no byte then: nothing was sent."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(b"x" * 65536)
        with pytest.raises(Unreachable, match="takes no bytes"):
            serial.Pipe(ours.fileno(), "port").ask(Request(Action.OFF, b"a", seqno=1), time.monotonic() + SHORT_S)


def test_a_channel() -> None:
    def script(made: Peer, connection: socket.socket) -> None:
        made.requests.append(receive(connection, 74))
        connection.sendall(b"noise" + host_list(record("alpha", UUID)))

    def in_order(made: Peer, connection: socket.socket) -> None:
        for _ in range(barrier.NULLS):
            assert receive(connection, 74)[4] == Action.NULL
        connection.sendall(response(1) * barrier.NULLS)
        script(made, connection)

    with peer(in_order) as host:
        transport = Transport("vmchannel", address="127.0.0.1", port=host.port)
        answer = ask(Action.LIST, "", transport, None, hash_type=Hash.SHA256, auth=Hash.SHA256, timeout_s=LONG_S)
    assert answer.records == [Record("alpha", UUID, 1)]
    assert host.requests[0][:5] == b"abba\6"


def test_vsock_without_a_host() -> None:
    transport = Transport("vsock", cid=2, port=1)
    with pytest.raises(Unreachable, match="CID 2 port 1"):
        ask(Action.OFF, "a", transport, None, hash_type=Hash.NONE, auth=Hash.NONE, timeout_s=1)


class Ways:
    """Ways to a host: a serial line each for virtio and serial, VM sockets as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.told: list[str] = []
        self.monkeypatch = monkeypatch
        self.transport = Transport(
            "auto", address="225.0.0.12", port=1, virtio_device=str(folder / "no-port"), retrans_s=0.1
        )
        monkeypatch.setattr(auto, "VSOCK_DEVICE", str(folder / "no-vsock"))

    def ask(self, timeout_s: float = LONG_S, action: Action = Action.OFF, hash_type: Hash = Hash.NONE) -> Answer:
        return ask(
            action,
            "alpha",
            self.transport,
            None,
            hash_type=hash_type,
            auth=hash_type,
            timeout_s=timeout_s,
            tell=self.told.append,
        )


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ways:
    return Ways(monkeypatch, tmp_path)


def test_auto_takes_the_virtio_port(ways: Ways, line: Line) -> None:
    ways.transport.virtio_device = line.device
    with Line() as other:
        ways.transport.device = other.device
        with answering(line, response(0)):
            assert ways.ask().code == 0
        assert other.is_silent()
    assert len(ways.told) == 1
    assert f"virtio ({line.device})" in ways.told[0] and "vsock: there is no" in ways.told[0]


def test_auto_takes_a_serial_device_only_when_it_was_named(ways: Ways, line: Line) -> None:
    ways.transport.device = line.device
    with answering(line, response(0)):
        assert ways.ask(hash_type=Hash.SHA256).code == 0  # no key, and none is needed here
    assert f"serial ({line.device})" in ways.told[0]
    assert "vsock: it needs a key" in ways.told[0]


def test_auto_takes_vsock_first(ways: Ways, line: Line) -> None:
    def script(made: Peer, connection: socket.socket) -> None:
        made.requests.append(receive(connection, 176))
        connection.sendall(b"\0")

    ways.transport.virtio_device = line.device
    with peer(script) as host:
        ways.monkeypatch.setattr(auto, "VSOCK_DEVICE", "/dev/null")
        ways.monkeypatch.setattr(
            direct, "connect_vsock", lambda cid, port, limit: direct.connect("127.0.0.1", host.port, 5)
        )
        assert ways.ask().code == 0
    assert "vsock (CID 2 port 1)" in ways.told[0]
    assert line.is_silent()


@pytest.mark.parametrize("action", [Action.OFF, Action.MONITOR])
def test_auto_sends_by_one_way_only(ways: Ways, line: Line, action: Action) -> None:
    ways.transport.virtio_device = line.device
    with Line() as other, answering(line, b"") as taken:
        ways.transport.device = other.device
        with pytest.raises(VmfenceError):
            ways.ask(SHORT_S, action)
        assert other.is_silent()
    assert line.is_silent()
    assert [each[0] for each in taken] == [action]
    assert len(ways.told) == 1


def test_auto_ends_with_multicast(ways: Ways) -> None:
    with pytest.raises(VmfenceError):
        ways.ask(SHORT_S)
    assert "multicast (225.0.0.12 port 1), not vsock: " in ways.told[0]


def test_auto_without_key_and_without_a_way_that_needs_none(ways: Ways) -> None:
    with pytest.raises(UsageError, match="there is no way to a host"):
        ways.ask(hash_type=Hash.SHA256)
    assert not ways.told


def test_auto_passes_over_a_device_that_is_in_use(ways: Ways, line: Line) -> None:
    """In a part of the time: what is left must do for the next way."""
    ways.transport.virtio_device = line.device
    with held(line.device), Line() as other, answering(other, response(0)):
        ways.transport.device = other.device
        assert ways.ask(4.0).code == 0
    assert line.is_silent()
    assert "in use by another program" in ways.told[0] and f"serial ({other.device})" in ways.told[0]
