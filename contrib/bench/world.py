"""What is measured: one private libvirtd with real guests, our daemon and fence_virtd above it, and their clients.

Everything lives in a network namespace of this process alone, so ports are free and nothing leaves the machine.
Reuses the laboratory of the tests.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import libvirt

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lab import reference, requirements  # noqa: E402 - found by the line above
from lab.hypervisor import Hypervisor  # noqa: E402
from lab.net import CLONE_NEWNET  # noqa: E402
from lab.ours import CommandLine, our_config  # noqa: E402
from lab.process import Daemon, clean_environment  # noqa: E402

ADDRESS = "127.0.0.1"
OUR_PORT = 1231
REFERENCE_PORT = 1232
GUESTS = 8


class BenchError(Exception):
    """A measurement could not be made."""


class Run(NamedTuple):
    """One run of a program: its exit code, and what it took in milliseconds."""

    exit: int
    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class World:
    """The parts under measurement."""

    folder: Path
    hypervisor: Hypervisor
    key: bytes
    key_file: Path
    our_daemon: Daemon
    fence_virtd: Daemon
    guests: tuple[str, ...]

    def agent(self, port: int, *arguments: str) -> list[str]:
        """Return the command line of our agent, asking the daemon at *port*."""
        return [str(Path(sys.executable).parent / "fence_vmfence"), *self._client(port), *arguments]

    def fence_virt(self, port: int, *arguments: str) -> list[str]:
        """Return the command line of the reference's client, asking the daemon at *port*."""
        return [reference.FENCE_VIRT, *self._client(port), *arguments]

    def connect(self) -> Any:
        """Return a new libvirt connection."""
        return libvirt.open(self.hypervisor.uri)

    def _client(self, port: int) -> list[str]:
        return ["-T", ADDRESS, "-p", str(port), "-k", str(self.key_file), "-t", "30"]


def run(argv: Sequence[str]) -> Run:
    """Run a program to its end, output thrown away; its processor time is that of its process alone."""
    return wait(*start(argv))


def start(argv: Sequence[str]) -> tuple[int, float]:
    """Start a program; return its pid and when that was."""
    sink = os.devnull
    actions = [(os.POSIX_SPAWN_OPEN, 0, sink, os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_OPEN, descriptor, sink, os.O_WRONLY, 0) for descriptor in (1, 2)]
    begin = time.perf_counter()
    return os.posix_spawn(argv[0], list(argv), clean_environment(), file_actions=actions), begin


def wait(pid: int, begin: float) -> Run:
    """Wait for a program begun at *begin*."""
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    return Run(os.waitstatus_to_exitcode(status), wall * 1000, (used.ru_utime + used.ru_stime) * 1000)


@contextmanager
def world() -> Iterator[World]:
    """Build the world.  Raises BenchError naming what this machine lacks."""
    lacks = requirements.missing()
    if lacks:
        raise BenchError(f"needs {', '.join(lacks)}")
    _enter_own_network()
    libvirt.registerErrorHandler(lambda *_: None, None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmfence-bench-")))
        yield _build(folder, stack)


def _build(folder: Path, stack: ExitStack) -> World:
    (folder / "libvirt").mkdir()
    hypervisor = stack.enter_context(Hypervisor(folder / "libvirt"))
    guests = tuple(f"bench-{number}" for number in range(1, GUESTS + 1))
    for guest in guests:
        hypervisor.define(guest, start=True)
    key_file = reference.write_key(folder / "key")
    config = our_config(folder, hypervisor.uri, key_file, listeners={"tcp": {"address": ADDRESS, "port": OUR_PORT}})
    our_daemon = stack.enter_context(CommandLine(Path(sys.executable).parent).daemon(config))
    fence_virtd = stack.enter_context(_fence_virtd(folder, hypervisor.uri, key_file))
    return World(folder, hypervisor, key_file.read_bytes(), key_file, our_daemon, fence_virtd, guests)


@contextmanager
def _fence_virtd(folder: Path, uri: str, key_file: Path) -> Iterator[Daemon]:
    """Run fence_virtd as a service does: the laboratory's writes a debug log, which would count against it."""
    config = folder / "fence_virt.conf"
    config.write_text(reference.config_text("tcp", uri, key_file, address=ADDRESS, port=REFERENCE_PORT))
    argv = [reference.FENCE_VIRTD, "-F", "-f", str(config), "-p", str(folder / "fence_virtd.pid")]
    with Daemon(argv, folder / "fence_virtd.log") as daemon:
        daemon.wait_listening("tcp", REFERENCE_PORT)
        yield daemon


def _enter_own_network() -> None:
    """Move this process, before it has threads, into a new network namespace that has only lo."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise BenchError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, env=clean_environment())
