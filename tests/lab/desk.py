"""A desk at which a host is configured: a folder, a key, a world of guests; piped answers and a terminal."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmfence.config import settings
from vmfence.config.settings import Settings

from .ours import CommandLine, driver_uri
from .process import Result, clean_environment, run_client
from .reference import write_key

LIMIT_S = 60
GUESTS = {"alpha": "11111111-2222-3333-4444-555555555501", "beta": "11111111-2222-3333-4444-555555555502"}
NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
WALK = ("multicast", "225.0.0.12", "1229", "lo")  # then key, backend, URI, yes
CUSTOM = """fence_virtd { state_dir = "/s"; unknown_guest = "ignore"; listener = "multicast"; backend = "libvirt"; }
listeners { multicast { port = "1229"; hash = "sha512"; } tcp { port = "1400"; } }
groups { group = "web" { ip = "10.0.0.1"; uuid = "alpha"; uuid = "beta"; } group { ip = "10.0.0.2"; uuid = "beta"; } }
backends { libvirt { uri = "test:///default"; } cpg { uri = "x:///"; } }
"""


class Desk:
    """A folder with a key and a world of guests, and the command that configures in it."""

    def __init__(self, vmfence: CommandLine, folder: Path) -> None:
        self.vmfence, self.folder = vmfence, folder
        self.target = folder / "vmfence.conf"
        self.key = write_key(folder / "key")
        self.uri = driver_uri(folder, GUESTS)
        self._there = self.files()

    @property
    def argv(self) -> list[str]:
        return [self.vmfence.vmfence, "host", "configure", "-f", str(self.target)]

    @property
    def walk(self) -> list[str]:
        """The answers of the walkthrough."""
        return [*WALK, str(self.key), "libvirt", self.uri, "y"]

    @property
    def options(self) -> list[str]:
        """Every question of the walkthrough as an option."""
        names = ("--listener", "--address", "--port", "--interface", "--key-file", "--backend", "--uri")
        return [word for pair in zip(names, self.walk) for word in pair]

    def answer(self, answers: Sequence[str], *options: str, prefix: Sequence[str] = ()) -> Result:
        """Run it with piped answers."""
        return run_client([*prefix, *self.argv], options, stdin="".join(f"{line}\n" for line in answers))

    def run(self, *options: str, prefix: Sequence[str] = ()) -> Result:
        """Run it without any input."""
        return self.answer([], *options, prefix=prefix)

    def write(self, text: str) -> str:
        self.target.write_text(text)
        self._there = self.files()
        return text

    def settings(self) -> Settings:
        return settings.load(str(self.target))

    def files(self) -> set[str]:
        return set(os.listdir(self.folder))

    def unchanged(self) -> bool:
        return self.files() == self._there


def one_error(done: Result, exit: int = 1) -> str:
    """Return the error of a run that must have failed with exactly one."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.exit, len(lines)) == (exit, 1), done
    assert "Traceback" not in done.stderr
    return lines[0]


def asked(done: Result) -> list[str]:
    """Return the questions that were put."""
    return re.findall(r"^(.*) \[.*\][:?] ", done.stderr, re.MULTILINE)


class Terminal:
    """The command on a pseudo-terminal; a context manager."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._master, slave = os.openpty()
        self.text = ""
        with open(slave, "rb+", buffering=0, closefd=True) as end:
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *argv], stdin=end, stdout=end, stderr=end, env=clean_environment()
            )

    @property
    def pid(self) -> int:
        """The pid of the command: setsid replaces itself by it."""
        return self._process.pid

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def expect(self, pattern: str) -> None:
        """Read until *pattern* comes, and forget what came up to it."""
        deadline = time.monotonic() + LIMIT_S
        while not (match := re.search(pattern, self.text)):
            assert select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0], self.text
            piece = self._read()
            assert piece, f"ended without {pattern!r}: {self.text}"
            self.text += piece
        self.text = self.text[match.end() :]

    def type(self, text: str) -> None:
        """Type *text*, as it is."""
        os.write(self._master, text.encode())

    def end(self) -> tuple[int, str]:
        """Return the exit code and what was written last."""
        while piece := self._read():
            self.text += piece
        return self._process.wait(LIMIT_S), self.text

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode()
        except OSError:  # EIO: everybody has left
            return ""


@contextmanager
def hung_libvirt(folder: Path) -> Iterator[str]:
    """Lend the URI of a libvirt that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        yield f"qemu+unix:///system?socket={folder}/s"
