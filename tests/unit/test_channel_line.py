"""One guest's line, at a real unix socket: whose answer is whose, and who is not answered any more."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.pipe import request, response
from unit.fakes import ALPHA, BETA, GAMMA, FakeBackend, Hold
from vmfence.errors import PacketError
from vmfence.host import streams
from vmfence.host.backends.base import Guest
from vmfence.host.history import History
from vmfence.host.listeners import inflow, pulse
from vmfence.host.listeners import line as module
from vmfence.host.listeners.acceptance import Acceptances
from vmfence.host.listeners.line import GuestLine, Place
from vmfence.host.listeners.pulse import Pulse
from vmfence.host.reception import Reception
from vmfence.host.service import Rules, Service
from vmfence.host.signatures import SignatureMemory
from vmfence.policy import Policy
from vmfence.protocol.reply import State
from vmfence.protocol.request import Action
from vmfence.protocol.serial import REQUEST_BYTES, FrameReader, check_plausible

WAIT_S = 20.0
NEVER = 1000.0


class Scene:
    """A line, its backend, and the guest's end."""

    line: GuestLine

    def __init__(self, folder: Path, backend: FakeBackend) -> None:
        self.backend = backend
        self.reception = Reception(
            Service(backend, Rules(Policy())), SignatureMemory(str(folder)), History(str(folder))
        )
        self.path = str(folder / "socket")
        self.known, self.looked = True, 0
        self.pulse = Pulse()
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(self.connections.get(), WAIT_S)

    def look(self) -> asyncio.Future[None]:
        async def look() -> None:
            self.looked += 1

        return asyncio.ensure_future(look())

    async def until(self, predicate: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not predicate():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), WAIT_S)


@contextlib.asynccontextmanager
async def scene(folder: Path, *guests: Guest) -> AsyncIterator[Scene]:
    made = Scene(folder, FakeBackend(*(guests or (ALPHA, BETA, GAMMA))))

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await made.connections.put((reader, writer))

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(accepted, made.path)
    place = Place("serial", made.path, ALPHA.name, ALPHA.uuid)
    made.line = GuestLine(place, made.reception, made.look, lambda: made.known, made.pulse, Acceptances())
    try:
        yield made
    finally:
        made.line.close()
        await asyncio.wait({made.line._task})
        server.close()
        for writer in writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await made.reception.drain(WAIT_S)
        made.reception.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vmf-", dir="/tmp") as short:
        yield Path(short)


def play(folder: Path, story: Callable[[Scene], Awaitable[None]], *guests: Guest) -> None:
    async def run() -> None:
        async with scene(folder, *guests) as made:
            await story(made)

    asyncio.run(run())


def crowd() -> list[Guest]:
    """Return guests whose list is longer than any buffer on its way."""
    return [Guest(f"abba\0{n}", f"{n:08}-2222-3333-4444-555555555501", State.RUNNING) for n in range(9000)]


async def read(reader: asyncio.StreamReader, size: int = 5) -> bytes:
    return await asyncio.wait_for(reader.readexactly(size), WAIT_S)


def test_requests_together_are_answered_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_S", NEVER)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        hold = Hold()
        made.backend.script("find", hold)
        writer.write(request(Action.STATUS, ALPHA.name))
        await asyncio.wait_for(hold.begun.wait(), WAIT_S)
        writer.write(request(Action.STATUS, BETA.name))
        await made.until(lambda: made.reception.describe()["in_flight"] == 2)
        hold.release.set()
        assert await read(reader, 10) == response(0) + response(2)

    play(folder, story)


def test_a_later_request_means_that_the_earlier_client_has_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its late success must not be taken for the new one's."""
    monkeypatch.setattr(module, "TOGETHER_S", 0.0)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        hold = Hold()
        made.backend.script("find", hold)
        writer.write(request(Action.STATUS, ALPHA.name))
        await asyncio.wait_for(hold.begun.wait(), WAIT_S)
        writer.write(request(Action.STATUS, BETA.name))
        assert await read(reader) == response(2)
        hold.release.set()
        await made.until(lambda: made.reception.describe()["in_flight"] == 0)
        writer.write(request(Action.STATUS, BETA.name))
        assert await read(reader) == response(2)

    play(folder, story)


@pytest.mark.parametrize("by", ["a later request", "the end of the line"])
def test_what_was_not_begun_is_not_begun_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(module, "TOGETHER_S", 0.0)

    async def story(made: Scene) -> None:
        _, writer = await made.connected()
        hold = Hold()
        made.backend.script("find", hold)
        writer.write(request(Action.OFF, GAMMA.name))
        await asyncio.wait_for(hold.begun.wait(), WAIT_S)
        if by == "the end of the line":
            writer.close()
        else:
            writer.write(request(Action.STATUS, ALPHA.name))
        await made.connected() if by == "the end of the line" else await made.until(
            lambda: made.reception.counts["status", "ok"] == 1
        )
        hold.release.set()
        await made.until(lambda: made.reception.describe()["in_flight"] == 0)
        assert not made.backend.power_calls()
        assert made.reception.counts["off", "dropped"] == 1

    play(folder, story)


def test_half_an_answer_is_never_followed_by_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a long list could read as the new answer: the line is connected anew, nothing is done."""
    monkeypatch.setattr(module, "TOGETHER_S", 0.0)
    many = [
        Guest(f"abba\0{number}", f"{number:08}-2222-3333-4444-555555555501", State.RUNNING) for number in range(9000)
    ]

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request(Action.LIST))
        await made.until(lambda: any(turn.is_writing for turn in made.line._turns))
        writer.write(request(Action.OFF, many[0].uuid))
        await made.until(lambda: made.reception.rejects.counts["a request while another is being answered"] == 1)
        reader, writer = await made.connected()
        writer.write(request(Action.STATUS, many[0].uuid))
        assert await read(reader) == response(0)
        assert not made.backend.power_calls()

    play(folder, story, *many)


def test_who_does_not_read_is_hung_up_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WRITE_S", 0.05)
    many = crowd()

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request(Action.LIST))
        reader, writer = await made.connected()
        writer.write(request(Action.STATUS, many[0].uuid))
        assert await read(reader) == response(0)

    play(folder, story, *many)


def test_too_many_requests_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER_S", NEVER)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        hold = Hold()
        made.backend.script("find", hold)
        for _ in range(module.TURNS_MAX + 5):
            writer.write(request(Action.STATUS, ALPHA.name))
        await made.until(lambda: made.reception.rejects.counts["too many requests at once"] == 5)
        hold.release.set()
        assert await read(reader, 5 * module.TURNS_MAX) == response(0) * module.TURNS_MAX

    play(folder, story)


def test_a_flood_of_requests_is_not_read_for_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest's end fills up, so that the flood costs the guest."""
    monkeypatch.setattr(inflow, "PAUSE_S", NEVER)

    async def story(made: Scene) -> None:
        _, writer = await made.connected()
        flood = b"".join(request(Action.NULL, "-", number) for number in range(100_000))
        writer.write(flood)
        await made.until(lambda: made.reception.rejects.counts["too many requests"] == 1)
        await made.until(lambda: made.reception.describe()["in_flight"] == 0)
        assert sum(made.reception.counts.values()) <= inflow.REQUESTS_PER_S
        assert writer.transport.get_write_buffer_size() > len(flood) / 2

    play(folder, story)


@pytest.mark.parametrize("size", [10, 5000])
def test_who_asks_behind_a_flood_is_answered(folder: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """And what was asked in the flood is not begun when its client may have given up."""
    monkeypatch.setattr(inflow, "PAUSE_S", 0.01)
    monkeypatch.setattr(inflow, "REQUESTS_PER_S", 8)
    monkeypatch.setattr(module, "TURNS_MAX", NEVER)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        writer.write(b"".join(request(Action.NULL, "-", number) for number in range(8)))
        writer.write(request(Action.OFF, GAMMA.name) * (size // 10))
        writer.write(b"".join(request(Action.NULL, "-", number) for number in range(8, size)))
        writer.write(request(Action.STATUS, BETA.name))
        while await read(reader) != response(2):
            pass
        assert made.reception.rejects.counts["too many requests"] >= 1
        assert sum(made.reception.counts.values()) < 3 * 8 + 2
        if size > 1000:
            assert not made.backend.power_calls()

    play(folder, story)


def test_a_flood_that_ends_with_the_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflow, "PAUSE_S", 0.01)

    async def story(made: Scene) -> None:
        _, writer = await made.connected()
        writer.write(b"".join(request(Action.NULL, "-", number) for number in range(1000)))
        writer.close()
        reader, writer = await made.connected()
        writer.write(request(Action.STATUS, ALPHA.name))
        assert await read(reader) == response(0)

    play(folder, story)


def test_a_client_that_waits_for_its_answers_is_never_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflow, "PAUSE_S", 0.01)
    monkeypatch.setattr(inflow, "REQUESTS_PER_S", 8)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        for _ in range(50):
            writer.write(request(Action.STATUS, BETA.name))
            assert await read(reader) == response(2)
        assert made.reception.counts["status", "off"] == 50

    play(folder, story)


def test_a_connection_that_nobody_accepts_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program was first: the guest talks to that one."""
    monkeypatch.setattr(module, "ACCEPT_S", 0.05)
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.0)

    async def story(made: Scene) -> None:
        await made.connected()
        with socket.socket(socket.AF_UNIX) as held:
            held.bind(f"{made.path}2")
            held.listen(1)
            place = Place("serial", f"{made.path}2", ALPHA.name, ALPHA.uuid)
            line = GuestLine(place, made.reception, made.look, lambda: True, made.pulse, Acceptances())
            await made.until(lambda: line.trouble() != "")
            assert not line.is_connected()
            await made.until(lambda: "nobody has accepted the connection" in caplog.text)
            accepted, _ = held.accept()
            with accepted:
                assert (line.is_connected(), line.trouble()) == (True, "")
                accepted.sendall(request(Action.STATUS, BETA.name))
                await made.until(lambda: made.reception.counts["status", "off"] == 1)
            line.close()
            await asyncio.wait({line._task})

    play(folder, story)


def test_a_socket_that_others_wait_for_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(made: Scene) -> None:
        await made.connected()
        with socket.socket(socket.AF_UNIX) as held, socket.socket(socket.AF_UNIX) as first:
            held.bind(f"{made.path}2")
            held.listen(0)
            first.connect(f"{made.path}2")
            place = Place("serial", f"{made.path}2", ALPHA.name, ALPHA.uuid)
            line = GuestLine(place, made.reception, made.look, lambda: True, made.pulse, Acceptances())
            await made.until(lambda: line.trouble() == "other programs hold and await it")
            line.close()
            await asyncio.wait({line._task})
        assert "other programs hold and await it" in caplog.text

    play(folder, story)


def test_a_socket_is_not_connected_to_again_while_nobody_vouches_for_the_guest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path could be another guest's by now."""
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.0)
    monkeypatch.setattr(module, "AGAIN_LONGEST_S", 0.0)

    async def story(made: Scene) -> None:
        _, writer = await made.connected()
        made.known = False
        writer.close()
        await made.until(lambda: made.looked >= 3)
        assert made.connections.empty()
        made.known = True
        reader, writer = await made.connected()
        writer.write(request(Action.STATUS, ALPHA.name))
        assert await read(reader) == response(0)

    play(folder, story)


def test_what_is_behind_a_flood_of_noise_is_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be carried out when its client has long given up; and noise costs the host little."""
    monkeypatch.setattr(module, "_FLOOD_PAUSE_S", 0.0)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        writer.write(b"x" * (inflow.NOISE_BYTES_PER_S + 65536) + request(Action.OFF, ALPHA.name))
        reader, writer = await made.connected()
        assert made.reception.rejects.counts["too much noise"] == 1
        writer.write(request(Action.STATUS, ALPHA.name))
        assert await read(reader) == response(0)
        assert not made.backend.power_calls()

    play(folder, story)


def test_a_request_behind_some_noise_is_heard(folder: Path) -> None:
    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        writer.write(b"console " * 4000 + request(Action.STATUS, ALPHA.name))
        assert await read(reader) == response(0)

    play(folder, story)


def test_what_came_while_the_daemon_was_held_up_is_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(pulse, "_now", lambda: now[0])

    async def story(made: Scene) -> None:
        made.pulse.begin()
        reader, writer = await made.connected()
        now[0] += 30.0
        writer.write(request(Action.OFF, ALPHA.name))
        await made.until(lambda: made.reception.rejects.counts["a request that may be old"] == 1)
        made.pulse._beat()
        writer.write(request(Action.OFF, ALPHA.name))
        await made.until(lambda: made.reception.rejects.counts["a request that may be old"] == 2)
        now[0] += 2.0
        writer.write(request(Action.STATUS, ALPHA.name))
        assert await read(reader) == response(0)
        assert not made.backend.power_calls()
        made.pulse.end()

    play(folder, story)


@pytest.mark.parametrize("cut", range(1, 74))
def test_half_a_request_and_the_next_one_are_no_request(cut: int) -> None:
    """What was begun for one guest must not be completed by what follows."""
    for second in (request(Action.STATUS, "gamma"), request(Action.NULL, "-"), request(Action.LIST)):
        rejected: list[str] = []

        def is_request(frame: bytes, rejected: list[str] = rejected) -> bool:
            try:
                check_plausible(frame)
            except PacketError as error:
                rejected.append(error.what)
                return False
            return True

        frames = FrameReader(REQUEST_BYTES, is_request)
        found = frames.feed(request(Action.OFF, "alpha")[:cut]) + frames.feed(second) + frames.feed(bytes(74))
        assert found == [second]


def test_late_nulls_do_not_prolong_what_was_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together is what comes soon after the oldest that waits, not after the youngest."""
    monkeypatch.setattr(module, "TOGETHER_S", NEVER)

    async def story(made: Scene) -> None:
        reader, writer = await made.connected()
        hold = Hold()
        made.backend.script("find", hold)
        for waiting in (1, 2):
            writer.write(request(Action.STATUS, ALPHA.name))
            await made.until(lambda waiting=waiting: made.reception.describe()["in_flight"] == waiting)  # type: ignore[misc]
        oldest = made.line._turns[0]
        oldest.verified = replace(oldest.verified, received=oldest.verified.received - 2 * NEVER)
        writer.write(request(Action.STATUS, BETA.name))
        assert await read(reader) == response(2)
        hold.release.set()

    play(folder, story)


def test_a_socket_is_looked_at_again_before_it_is_heard(folder: Path) -> None:
    """Between the guest's end and the news of it, its path may have become another's."""

    async def story(made: Scene) -> None:
        made.known = False
        reader, _ = await made.connected()
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        assert made.looked

    play(folder, story)


def test_names_are_fit_for_the_log() -> None:
    assert str(Place("serial", "/run/a", "al\x9b31mpha", ALPHA.uuid)).isprintable()
