"""What the agent says to the log daemon: one datagram, or nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmfence.agent.console import Console

LIMIT_S = 10.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    """A log daemon's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "log"))
        made.settimeout(LIMIT_S)
        yield made


@pytest.mark.parametrize(
    ("program", "name"),
    [("fence_xvm", "fence_xvm"), ("fence_\udcff", r"fence_\udcff"), ("fence_\n\xe4", "fence_\\n\xe4")],
)
@pytest.mark.parametrize(("failed", "priority"), [(True, 27), (False, 30)])
def test_a_line_of_the_log(daemon: socket.socket, program: str, name: str, failed: bool, priority: int) -> None:
    Console(program, daemon.getsockname()).log('off of "g\xe4\udcff"\n: done', failed=failed)
    line = f'<{priority}>{name}[{os.getpid()}]: off of "g\xe4\\udcff"\\n: done'
    assert daemon.recv(1000) == line.encode()


def test_a_log_daemon_that_takes_nothing_is_not_waited_for(daemon: socket.socket) -> None:
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with full, pytest.raises(BlockingIOError):
        while True:
            full.sendto(b"x", daemon.getsockname())
    console = Console("fence_xvm", daemon.getsockname())
    logging = threading.Thread(target=console.log, args=("done",), kwargs={"failed": False}, daemon=True)
    logging.start()
    logging.join(LIMIT_S)
    assert not logging.is_alive()


@pytest.mark.parametrize("text", ["done", "x" * 10_000_000])
def test_what_cannot_be_logged_is_lost(tmp_path: Path, daemon: socket.socket, text: str) -> None:
    Console("fence_xvm", str(tmp_path / "none")).log(text, failed=True)
    Console("fence_xvm", str(tmp_path)).log(text, failed=True)
    Console("fence_xvm", daemon.getsockname()).log("x" * 10_000_000, failed=True)
    daemon.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.recv(1)
