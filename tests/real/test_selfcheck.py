"""The check at the end of setup, against a real control socket: was it our daemon that answered?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vmfence.config import settings as configuration
from vmfence.errors import VmfenceError
from vmfence.host import selfcheck
from vmfence.host.control import ControlSocket


def confirm(folder: Path, *answers: dict[str, Any]) -> None:
    """Confirm an answer to the first list of a daemon whose statuses are *answers*, the last for ever."""
    text = f"""fence_virtd {{ listener = "multicast"; backend = "libvirt"; control_socket = "{folder}/control"; }}
    backends {{ libvirt {{ uri = "test:///default"; }} }}"""
    settings = configuration.read(text.encode(), "f")
    left = list(answers)

    async def run() -> None:
        control = ControlSocket(settings.daemon.control_socket, lambda: left.pop(0) if len(left) > 1 else left[0])
        await control.open()
        try:
            await asyncio.get_running_loop().run_in_executor(None, selfcheck._confirm, "here", 3, settings)
        finally:
            control.close()

    asyncio.run(run())


def status(count: int, in_flight: int = 0) -> dict[str, Any]:
    return {"in_flight": in_flight, "requests": [{"action": "list", "result": "ok", "count": count}]}


def test_a_daemon_that_counted_the_list_has_answered(tmp_path: Path) -> None:
    confirm(tmp_path, status(4))


def test_a_daemon_may_count_a_little_later(tmp_path: Path) -> None:
    confirm(tmp_path, status(3, in_flight=1), status(4))


def test_a_daemon_that_counted_nothing_has_not_answered(tmp_path: Path) -> None:
    with pytest.raises(VmfenceError, match="another host answered at here. the daemon of this host did not."):
        confirm(tmp_path, status(3))
