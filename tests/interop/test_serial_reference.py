"""Serial lines: the real fence_virt against our daemon, our agent against the real fence_virtd.

A pseudo-terminal is the guest's device; the test carries its bytes to the socket that the daemon holds.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab import wire
from lab.channels import ChannelRig, group, uuid_of, write_world
from lab.ours import CommandLine
from lab.pipe import Bridge, Line, Socket, response
from lab.process import Result, run_client
from lab.reference import FENCE_VIRT, config_text, fence_virtd, write_key
from lab.rig import ALPHA, BETA, OFF, ON

pytestmark = pytest.mark.system
UUIDS = {ALPHA: uuid_of(1), BETA: uuid_of(2)}
LIST = "".join(f"{name:32} {uuid} on\n" for name, uuid in UUIDS.items())


@pytest.fixture
def rig(vmfence: CommandLine, tmp_path: Path) -> Iterator[ChannelRig]:
    with ChannelRig(vmfence, tmp_path) as made:
        yield made


@pytest.fixture
def line(rig: ChannelRig) -> Iterator[Line]:
    with Line() as made, Bridge(made.descriptor, rig.connected(ALPHA).descriptor):
        yield made


def reference(line: Line, action: str, guest: str = "") -> Result:
    return run_client(FENCE_VIRT, ["-D", line.device, "-t", "20", "-o", action, *(["-H", guest] if guest else [])])


def test_reference_client(rig: ChannelRig, line: Line) -> None:
    assert reference(line, "list")[:2] == (0, LIST)
    assert reference(line, "monitor").exit == 0
    assert reference(line, "status", BETA)[:2] == (0, "Status: ON\n")
    assert reference(line, "off", BETA).exit == 0
    assert rig.state(BETA) == OFF
    assert reference(line, "status", UUIDS[BETA])[:2] == (2, "Status: OFF\n")
    assert reference(line, "on", BETA).exit == 0
    assert rig.state(BETA) == ON
    assert reference(line, "reboot", BETA).exit == 0
    assert reference(line, "off", "nobody").exit == 3


def test_reference_client_and_ours_take_turns(rig: ChannelRig, line: Line, vmfence: CommandLine) -> None:
    for _ in range(3):
        assert reference(line, "list").stdout == LIST
        assert vmfence.fence("-D", line.device, "-o", "list").stdout == LIST


@contextmanager
def reference_daemon(folder: Path, mode: str, groups: str) -> Iterator[Socket]:
    """Run fence_virtd with alpha and beta; lend alpha's socket."""
    with ExitStack() as stack:
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmf-", dir="/tmp")))
        sockets = {name: stack.enter_context(Socket(short / name)) for name in UUIDS}
        write_world(folder / "world.xml", mode, UUIDS, sockets)
        uri = f"test://{folder}/world.xml"
        text = config_text("serial", uri, write_key(folder / "key"), groups, mode=mode)
        text = text.replace("serial { ", f'serial {{ uri = "{uri}"; ', 1)
        stack.enter_context(fence_virtd(text, folder))
        yield sockets[ALPHA]


@pytest.mark.parametrize("mode", ["serial", "vmchannel"])
def test_reference_daemon(vmfence: CommandLine, tmp_path: Path, mode: str) -> None:
    rules = group(*UUIDS, *UUIDS.values())
    with (
        reference_daemon(tmp_path, mode, rules) as alpha,
        Line() as line,
        Bridge(line.descriptor, alpha.accept().descriptor),
    ):

        def ask(action: str, guest: str = "") -> Result:
            return vmfence.fence("-D", line.device, "-o", action, *(["-n", guest] if guest else []))

        assert ask("list")[:2] == (0, LIST)
        assert ask("monitor").exit == 0
        assert ask("status", BETA)[:2] == (0, "Status: ON\n")
        assert ask("off", BETA).exit == 0
        assert ask("status", BETA)[:2] == (2, "Status: OFF\n")
        assert ask("on", BETA).exit == 0
        assert ask("status", UUIDS[BETA])[:2] == (0, "Status: ON\n")
        assert ask("off", "nobody").exit == 3
        assert ask("list").stdout == LIST


def test_the_lock_of_one_keeps_the_other_out(vmfence: CommandLine) -> None:
    """While our agent waits for its answer, fence_virt cannot have the line; and the other way round."""
    with Line() as line:
        argv = [vmfence.agent, "-D", line.device, "-o", "status", "-n", ALPHA, "-t", "30"]
        with subprocess.Popen(argv) as ours:
            assert line.take()[:2] == (wire.STATUS, ALPHA.encode())
            theirs = reference(line, "off", BETA)
            assert theirs.exit == 255
            assert line.is_silent(), "it sent its request into our exchange"
            line.send(response(0))
            assert ours.wait(30) == 0
    with Line() as line:
        argv = [FENCE_VIRT, "-D", line.device, "-o", "status", "-H", ALPHA, "-t", "30"]
        with subprocess.Popen(argv) as theirs_running:
            assert line.take()[:2] == (wire.STATUS, ALPHA.encode())
            ours_late = vmfence.fence("-D", line.device, "-o", "off", "-n", BETA, "-t", "1")
            assert (ours_late.exit, line.is_silent()) == (1, True)
            assert "in use by another program" in ours_late.stderr
            line.send(response(0))
            assert theirs_running.wait(30) == 0


def test_settings_are_those_of_the_reference(vmfence: CommandLine) -> None:
    """What matters of them: speed, form, flow control, raw input and output."""
    seen = []
    for argv in ([FENCE_VIRT, "-H", ALPHA], [vmfence.agent, "-n", ALPHA]):
        with Line() as line:
            words = ["-D", line.device, "-P", "9600,7E2", "-o", "status", "-t", "30"]
            with subprocess.Popen([*argv, *words]) as running:
                line.take()
                seen.append(line.settings())
                line.send(response(0))
                assert running.wait(30) == 0
    theirs, ours = seen
    assert ours[2] & ~0o4000 == theirs[2] & ~0o4000  # CLOCAL apart
    assert ours[4:6] == theirs[4:6]
    assert (ours[1], ours[3]) == (theirs[1] & 0o777, theirs[3] & 0o12)
