"""The control socket's place: taken over from the dead, never from the living or from what cannot be judged."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmfence.errors import Unreachable, VmfenceError
from vmfence.host import control
from vmfence.host.control import ControlSocket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


def opened_and_closed(path: Path) -> None:
    async def open_and_close() -> None:
        made = ControlSocket(str(path), dict)
        await made.open()
        made.close()

    asyncio.run(open_and_close())


@contextlib.contextmanager
def bound(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as made:
        made.bind(str(path))
        yield made


def test_a_dead_sockets_place_is_taken_over(path: Path) -> None:
    with bound(path):
        pass
    opened_and_closed(path)
    assert not path.exists()


def test_a_daemon_that_takes_no_more_connections_lives(path: Path) -> None:
    with bound(path) as daemon:
        daemon.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(8)]
        with contextlib.suppress(BlockingIOError):
            for one in waiting:
                one.setblocking(False)
                one.connect(str(path))
        with pytest.raises(VmfenceError, match="another vmfence daemon runs"):
            opened_and_closed(path)
        for one in waiting:
            one.close()
    assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_socket_that_cannot_be_judged_stays(path: Path) -> None:
    """One for datagrams takes no connection, and yet somebody has it."""
    with bound(path, socket.SOCK_DGRAM), pytest.raises(VmfenceError, match="cannot open the control socket"):
        opened_and_closed(path)
    assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_file_in_its_place_stays(path: Path) -> None:
    path.write_bytes(b"precious")
    with pytest.raises(VmfenceError, match="no socket"):
        opened_and_closed(path)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("answer", [b"", b"\n", b"[]\n", b'{"status": 7}\n', b'{"error": "x"}\n', b"\xff\n"])
def test_nonsense_instead_of_a_status(path: Path, answer: bytes) -> None:
    async def served() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        async with await asyncio.start_unix_server(speak, path):
            with pytest.raises(VmfenceError, match="gave no status"):
                await asyncio.to_thread(control.ask, str(path))

    asyncio.run(served())


def test_nobody_there(path: Path) -> None:
    with pytest.raises(Unreachable, match="no daemon answers"):
        control.ask(str(path))
