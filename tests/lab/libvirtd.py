"""A libvirtd of the test's own: its folders, its life and its sudden death.

It lives in a mount namespace in which libvirt's folders are folders of the test, optionally inside a network
namespace, below lab/reaper.py.  It sees none of the machine's guests, and several of them run at once.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import libvirt

from .net import Namespace
from .process import clean_environment, inside
from .waiting import LabError, wait_until

READY_WITHIN = 30.0  # seconds
REAPER = Path(__file__).with_name("reaper.py")
FOLDERS = {
    "lib": Path("/var/lib/libvirt"),
    "log": Path("/var/log/libvirt"),
    "cache": Path("/var/cache/libvirt"),
    "etc": Path("/etc/libvirt"),
}
SETTINGS = {
    # stdio_handler: no virtlogd.  user: the test's folders are root's.  cgroup_controllers: two libvirtds
    # would make the same cgroups.  namespaces: starting a guest is faster without.
    "qemu.conf": 'stdio_handler = "file"\nuser = "root"\ngroup = "root"\nsecurity_driver = "none"\n'
    "cgroup_controllers = []\nnamespaces = []\n",
    "libvirtd.conf": 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n',
}
L = TypeVar("L", bound="Libvirtd")


class Libvirtd:
    """A private libvirtd; a context manager.

    *folder* keeps definitions and logs; within *netns* guests may have links to the bridges there.
    """

    def __init__(self, folder: Path, netns: Namespace | None = None) -> None:
        self.folder = folder
        self.netns = netns
        self.run_folder = Path()  # of short name: a socket's path has at most 107 bytes
        self._reaper: subprocess.Popen[bytes] | None = None
        self._paused = False

    def __enter__(self: L) -> L:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """The URI under which anybody on this machine reaches it."""
        return f"qemu+unix:///system?socket={self.run_folder}/libvirt-sock"

    @property
    def log_file(self) -> Path:
        """What libvirtd wrote."""
        return self.folder / "libvirtd.log"

    def start(self) -> None:
        """Start libvirtd and wait until it answers; after kill() it finds the guests again."""
        if self._reaper is None:
            self._start_reaper()
        self._tell("start")
        wait_until(self._answers, READY_WITHIN, f"libvirtd of {self.folder}")

    def stop(self) -> None:
        """End libvirtd and all its guests at once.  Definitions stay in the folder."""
        if self._reaper is None:
            return
        reaper, self._reaper = self._reaper, None
        self._paused = False
        with reaper:  # closes its stdin, which ends it and all below, and waits
            pass
        shutil.rmtree(self.run_folder, ignore_errors=True)

    def kill(self) -> None:
        """End libvirtd with SIGKILL; the guests go on."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """End libvirtd with SIGTERM; the guests go on."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Restart libvirtd as a package update does; the guests go on."""
        self.terminate()
        self.start()

    def pause(self) -> None:
        """Stop libvirtd with SIGSTOP: connections are accepted by the kernel and never answered."""
        self._tell(f"signal {int(signal.SIGSTOP)}")
        self._paused = True

    def resume(self) -> None:
        """Let a paused libvirtd go on."""
        self._tell(f"signal {int(signal.SIGCONT)}")
        self._paused = False

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend a new connection; LabError while libvirtd is paused."""
        if self._paused:
            raise LabError("libvirtd is paused: the answer would never come")
        connection = _open(self.uri)
        try:
            yield connection
        finally:
            connection.close()

    def _start_reaper(self) -> None:
        self.run_folder = Path(tempfile.mkdtemp(prefix="vmf-", dir="/tmp"))
        binds = _prepare(self.folder, self.run_folder)
        command = ["unshare", "--mount", sys.executable, "-SE", str(REAPER), str(self.log_file), *binds, "--"]
        command += ["libvirtd", "--config", "/etc/libvirt/libvirtd.conf"]
        command += ["--pid-file", f"{self.run_folder}/libvirtd.pid"]
        with self.log_file.open("ab") as log:
            self._reaper = subprocess.Popen(
                inside(self.netns, command), bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, env=clean_environment(), start_new_session=True,
            )  # fmt: skip

    def _tell(self, command: str) -> str:
        """Give the reaper a command and return its answer."""
        if self._reaper is None or self._reaper.stdin is None or self._reaper.stdout is None:
            raise LabError("libvirtd was not started")
        self._reaper.stdin.write(command.encode())
        answer = self._reaper.stdout.readline().decode().strip()
        if not answer:
            raise LabError(f"the process above libvirtd ended:\n{self.log_file.read_text()}")
        return answer

    def _end(self, number: int) -> None:
        self._tell(f"signal {int(number)}")
        self.resume()
        wait_until(lambda: self._tell("signal 0") == "gone", READY_WITHIN, "end of libvirtd")

    def _answers(self) -> bool:
        if self._tell("signal 0") == "gone":
            raise LabError(f"libvirtd ended:\n{self.log_file.read_text()}")
        try:
            _open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True


def _prepare(folder: Path, run_folder: Path) -> list[str]:
    """Make the folders and settings of a libvirtd; return what to mount where, as SOURCE=TARGET."""
    binds = {run_folder: Path("/run/libvirt"), **{folder / name: target for name, target in FOLDERS.items()}}
    for source, target in binds.items():
        source.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
    for name, text in SETTINGS.items():
        (folder / "etc" / name).write_text(text)
    if Path("/run/dbus").is_dir():  # the machine's guest registry must not learn of our guests
        (folder / "dbus").mkdir(exist_ok=True)
        binds[folder / "dbus"] = Path("/run/dbus")
    return [f"{source}={target}" for source, target in binds.items()]


def _open(uri: str) -> Any:
    libvirt.registerErrorHandler(lambda *_: None, None)  # else every error is also written to stderr
    return libvirt.open(uri)
