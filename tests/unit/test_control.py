"""The control socket's place: taken over from the dead, never from the living or from what cannot be judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from vmfence.errors import Unreachable, VmfenceError
from vmfence.host import control
from vmfence.host.control import ControlSocket

DEEP = b"[" * 100_000 + b"\n"


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


@pytest.mark.parametrize("answer", [b"", b"\n", b"[]\n", b'{"status": 7}\n', b'{"error": "x"}\n', b"\xff\n", DEEP])
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


def served_status(path: Path, answer: bytes) -> None:
    """Ask a daemon that says *answer* to everything."""

    async def serve() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        async with await asyncio.start_unix_server(speak, path):
            await asyncio.to_thread(control.ask, str(path))

    asyncio.run(serve())


STATUS: dict[str, Any] = {
    "program": "vmfence 1",
    "pid": 1,
    "started_at": 1.0,
    "read_at": 1,
    "config": "/f",
    "refused_reload": None,
    "state_dir": "/s",
    "listeners": [{"where": "here", "is_optional": False, "is_open": True, "trouble": "", "unheard": {}}],
    "backend": "libvirt",
    "hypervisors": [
        {"uri": "u", "is_answering": True, "trouble": "", "connections": 1, "calls": 0, "answered_at": 1.0}
    ],
    "keys": [{"owner": "o", "path": "/k", "sha256": "f"}],
    "access_rules": 0,
    "in_flight": 0,
    "requests": [{"action": "list", "result": "ok", "count": 1}],
    "rejected": {"why": 1},
    "last_rejected": [{"at": 1.0, "origin": "o", "reason": "r"}],
    "last_failed": [{"at": 1.0, "origin": "o", "action": "list", "reason": "r"}],
    "last_answered": {"o": 1.0},
    "signatures": {"trouble": ""},
    "history": {"lost": 0, "trouble": ""},
}


def status_line(**changes: object) -> bytes:
    return json.dumps({"version": 1, "status": {**STATUS, **changes}}).encode() + b"\n"


def test_a_status_of_this_version_is_taken(path: Path) -> None:
    served_status(path, status_line(more="than we know"))


@pytest.mark.parametrize(
    "answer",
    [
        b'{"version": 1, "status": {}}\n',
        b'{"version": 1, "status": {"program": "vmfence 0.0.9", "pid": 1, "started_at": 1.0, "config": "/f"}}\n',
        status_line().replace(b'"version": 1', b'"version": 2'),
        status_line(started_at=None),
        status_line(started_at=float("nan")),
        status_line(started_at=1e300),
        status_line(keys={"path": "/k"}),
        status_line(listeners=[{}]),
        status_line(rejected=[]),
        status_line(rejected={"why": "often"}),
        status_line(last_rejected=[{"at": "now", "origin": "o", "reason": "r"}]),
        status_line(last_failed=[{"at": 1.0}]),
        status_line(last_answered={"o": "now"}),
        status_line(refused_reload={"at": 1.0}),
    ],
)
def test_what_another_version_says_is_refused(path: Path, answer: bytes) -> None:
    with pytest.raises(VmfenceError, match="of another version. it calls itself .*systemctl restart vmfence"):
        served_status(path, answer)


def test_requests_nested_without_end_are_answered(path: Path) -> None:
    """As many brackets as fit into a line are more than Python's own reader can take."""

    async def ask() -> bytes:
        control_socket = ControlSocket(str(path), dict)
        await control_socket.open()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"[" * 4000 + b"\n")
        answer = await reader.readline()
        writer.close()
        control_socket.close()
        return answer

    assert b"expected one line" in asyncio.run(ask())


def test_nobody_else_may_connect_at_any_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask: the mode is right when the socket appears, before group and mode are set."""
    seen: list[int] = []

    def look(name: str) -> NoReturn:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        raise KeyError(name)

    monkeypatch.setattr(control.grp, "getgrnam", look)
    mask = os.umask(0)
    try:
        opened_and_closed(path)
        assert (seen, os.umask(0)) == ([0o600], 0)
    finally:
        os.umask(mask)


def test_those_who_connect_and_say_nothing_are_few(path: Path) -> None:
    def last_of(count: int) -> bytes:
        """Return what the last of *count* clients, all but it silent, reads."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
            for one in clients:
                one.connect(str(path))
            try:
                clients[-1].sendall(b'{"version": 1, "command": "status"}\n')
                return clients[-1].recv(100)
            except OSError:
                return b""

    async def serve(count: int) -> bytes:
        control_socket = ControlSocket(str(path), dict)
        await control_socket.open()
        try:
            return await asyncio.to_thread(last_of, count)
        finally:
            control_socket.close()
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    assert asyncio.run(serve(16)) == b'{"version": 1, "status": {}}\n'
    assert asyncio.run(serve(17)) == b""


@pytest.mark.parametrize("gone", ["config", "key"])
def test_what_is_gone_is_stale(tmp_path: Path, gone: str) -> None:
    files = {name: tmp_path / name for name in ("config", "key")}
    for file in files.values():
        file.touch()
    keys = [{"owner": "o", "path": str(files["key"]), "sha256": "f"}]
    status = {**STATUS, "config": str(files["config"]), "keys": keys, "read_at": time.time() + 60}
    assert control.stale_files(status) == []
    files[gone].unlink()
    assert control.stale_files(status) == [str(files[gone])]


def test_who_has_the_socket_and_does_not_answer_is_told_by_process(path: Path) -> None:
    with bound(path) as hung:
        hung.listen(1)
        with pytest.raises(control.Silent, match=f"process {os.getpid()} runs and does not answer") as caught:
            control.ask(str(path), 0.05)
        assert caught.value.pid == os.getpid() == control.ask_pid(str(path))
        assert "start it" not in caught.value.remedy.split(",")[0]
    path.unlink()
    assert control.ask_pid(str(path)) == 0


def test_nobody_there(path: Path) -> None:
    with pytest.raises(Unreachable, match="no daemon answers"):
        control.ask(str(path))
