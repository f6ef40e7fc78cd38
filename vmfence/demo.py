"""``vmfence demo``: the real daemon and the real agent over loopback, with libvirt's built-in test driver.

Needs neither root nor a hypervisor and leaves nothing behind.  Each step is shown as the command line that a user
would type; the demonstration fails, and says where, when one does not end as it must.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from vmfence import proc
from vmfence.errors import VmfenceError

START_S = 20.0
STEP_S = 15.0
_GUESTS = (
    ("rhel79-nginx-01", "44179d3f-6c63-474f-a212-20c8b4b25b16"),
    ("rhel79-nginx-02", "44179d3f-6c63-474f-a212-20c8b4b25b17"),
)
_GUEST_XML = """<domain type="test"><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory>
<os><type>hvm</type></os></domain>"""
_CONFIG = """fence_virtd {{ listener = "tcp"; backend = "libvirt"; state_dir = "{folder}/state";
    control_socket = "{folder}/control"; }}
listeners {{ tcp {{ address = "127.0.0.1"; port = "{port}"; key_file = "{folder}/fence_xvm.key"; }} }}
backends {{ libvirt {{ uri = "test://{folder}/guests.xml"; }} }}
"""
# What to ask, for which guest, and the exit code that is right.
STEPS = (
    ("list", None, 0),
    ("status", "rhel79-nginx-01", 0),
    ("off", "rhel79-nginx-01", 0),
    ("status", "rhel79-nginx-01", 2),
    ("on", "rhel79-nginx-01", 0),
    ("status", "rhel79-nginx-01", 0),
    ("reboot", "rhel79-nginx-02", 0),
    ("list", None, 0),
)


def run(show: Callable[[str], None]) -> None:
    """Run all steps, telling *show* each line of it.  Raises VmfenceError when one goes wrong."""
    started = time.monotonic()
    # Short and plain, whatever TMPDIR is: the folder stands in a URI, in a configuration and before a socket's name.
    folder = tempfile.mkdtemp(prefix="vmfence-demo-", dir="/tmp")
    try:
        port = _prepare(folder)
        with _daemon(folder, show):
            for action, guest, expected in STEPS:
                _step(action, guest, expected, folder, port, show)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(f"demo: {len(STEPS)} of {len(STEPS)} steps as they must be, in {time.monotonic() - started:.1f} s")


def _prepare(folder: str) -> int:
    """Write key, guests and configuration into *folder*; return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    guests = "".join(_GUEST_XML.format(name=name, uuid=uuid) for name, uuid in _GUESTS)
    files = {
        "fence_xvm.key": os.urandom(4096),
        "guests.xml": f"<node>{guests}</node>".encode(),
        "vmfence.conf": _CONFIG.format(folder=folder, port=port).encode(),
    }
    for name, content in files.items():
        with open(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return port


@contextmanager
def _daemon(folder: str, show: Callable[[str], None]) -> Iterator[None]:
    """Run the daemon while the block runs."""
    argv = [sys.executable, "-m", "vmfence", "host", "daemon", "--config", f"{folder}/vmfence.conf"]
    show(f"$ vmfence host daemon --config {folder}/vmfence.conf &")
    log = f"{folder}/daemon.log"
    with proc.background(argv, log) as running:
        deadline = time.monotonic() + START_S
        while " ready: " not in _read(log):
            if not running.is_alive() or time.monotonic() > deadline:
                raise VmfenceError("the daemon did not start", _read(log).strip())
            time.sleep(0.02)
        yield


def _step(action: str, guest: str | None, expected: int, folder: str, port: int, show: Callable[[str], None]) -> None:
    """Run the agent once and show what it did."""
    arguments = ["-T", "127.0.0.1", "-p", str(port), "-k", f"{folder}/fence_xvm.key", "-o", action]
    arguments += ["-H", guest] if guest else []
    show(f"$ fence_vmfence {' '.join(arguments)}")
    result = proc.run([sys.executable, "-m", "vmfence", "agent", *arguments], STEP_S)
    for line in (result.stdout + result.stderr).splitlines():
        show(line)
    meaning = "exit 2: off" if expected == 2 else f"exit {result.status}"
    if result.status != expected:
        log = _read(f"{folder}/daemon.log").strip()
        raise VmfenceError(f"{action} ended with exit code {result.status} instead of {expected}", log)
    show(f"# {meaning}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
