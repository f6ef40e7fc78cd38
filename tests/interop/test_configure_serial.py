"""What the wizard writes for a serial listener, served by the real fence_virtd and by our daemon, for our agent."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.channels import uuid_of, write_world
from lab.ours import CommandLine
from lab.pipe import Bridge, Line, Socket
from lab.reference import MODULES, fence_virtd, write_key
from lab.rig import ALPHA, BETA

pytestmark = pytest.mark.system
UUIDS = {ALPHA: uuid_of(1), BETA: uuid_of(2)}
LIST = "".join(f"{name:32} {uuid} on\n" for name, uuid in UUIDS.items())


@pytest.mark.parametrize("daemon", ["fence_virtd", "vmfence"])
@pytest.mark.parametrize("mode", ["serial", "vmchannel"])
def test_the_file_serves(vmfence: CommandLine, tmp_path: Path, mode: str, daemon: str) -> None:
    with ExitStack() as stack:
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmf-", dir="/tmp")))
        sockets = {name: stack.enter_context(Socket(short / name)) for name in UUIDS}
        write_world(tmp_path / "world.xml", mode, UUIDS, sockets)
        uri, config = f"test://{tmp_path}/world.xml", tmp_path / "vmfence.conf"
        # fence_virtd wants a key file whatever the listener, and its modules; the wizard asks for neither.
        own = f'state_dir = "{tmp_path}/state"; control_socket = "{tmp_path}/control"; module_path = "{MODULES}";'
        key = write_key(tmp_path / "key")
        config.write_text(f'fence_virtd {{ {own} }}\nlisteners {{ serial {{ key_file = "{key}"; }} }}\n')
        words = ("--listener", "serial", "--serial-mode", mode, "--serial-path", str(short), "--serial-uri", uri)
        done = vmfence.run(
            "host", "configure", "-f", str(config), "--backend", "libvirt", "--uri", uri, "--yes", *words
        )
        assert done.exit == 0, done
        if daemon == "vmfence":
            stack.enter_context(vmfence.daemon(config))
        else:
            stack.enter_context(fence_virtd(config.read_text(), tmp_path))
        line = stack.enter_context(Line())
        stack.enter_context(Bridge(line.descriptor, sockets[ALPHA].accept().descriptor))
        assert vmfence.fence("-D", line.device, "-o", "list").stdout == LIST
        assert vmfence.fence("-D", line.device, "-o", "off", "-n", UUIDS[BETA]).exit == 0
        assert vmfence.fence("-D", line.device, "-o", "status", "-n", UUIDS[BETA]).exit == 2
