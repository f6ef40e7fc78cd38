"""A daemon of ours on libvirt's test driver, and a raw client that holds its key.

The world of the test driver lives inside the daemon, so states are read by an honest list: the raw peer of wire.py,
never our own client.  A daemon that is started again finds the world as it was written.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from . import wire
from .net import Namespace
from .ours import READY, CommandLine, driver_uri, our_config
from .process import Daemon, Result, run_client
from .reference import write_key
from .waiting import LabError, wait_until

LOOPBACK = "127.0.0.1"
ALPHA, BETA = "alpha", "beta"
GUESTS = {ALPHA: "11111111-2222-3333-4444-555555555501", BETA: "11111111-2222-3333-4444-555555555502"}
ON, PAUSED, OFF, CRASHED = 1, 3, 5, 6  # states of libvirt
PATIENT = 30.0  # seconds a raw peer waits: longer than any limit of the daemon
NO_FILE_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # file modes then hold for root too


def free_port(address: str = LOOPBACK) -> int:
    """Return a TCP port that is free now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def powerless() -> list[str]:
    """Return the words that begin the command line of a program which file modes apply to."""
    return NO_FILE_RIGHTS if os.geteuid() == 0 else []


def no_trace(log: str) -> bool:
    """Tell whether a log is free of tracebacks and of messages of the event loop about lost errors."""
    return not any(word in log for word in ("Traceback", "never retrieved", "was destroyed", "internal error"))


class Rig:
    """One daemon with a tcp listener on loopback; a context manager.

    *tcp* are further keys of that listener, *listeners* further listeners, *daemon* and *groups* text for their
    sections.  *uris* takes the place of a world with *guests*.  *prefix* begins the command line, *env* is added to
    the environment.
    """

    def __init__(
        self,
        vmfence: CommandLine,
        folder: Path,
        guests: Mapping[str, str] = GUESTS,
        *,
        key: Path | None = None,
        uris: Sequence[str] = (),
        tcp: Mapping[str, object] | None = None,
        listeners: Mapping[str, Mapping[str, object]] | None = None,
        daemon: str = "",
        groups: str = "",
        netns: Namespace | None = None,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        address: str = LOOPBACK,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.address, self.netns, self._programs = folder, address, netns, vmfence
        self.key = key or write_key(folder / "key")
        self.port = netns.call(free_port, address) if netns else free_port(address)
        self._uris = list(uris) or [driver_uri(folder, dict(guests))]
        self._listeners = {"tcp": {"address": address, "port": self.port, **(tcp or {})}, **(listeners or {})}
        self._daemon, self._groups = daemon, groups
        self.config = self.write_config()
        argv = [*prefix, vmfence.vmfence, "host", "daemon", "-f", str(self.config), *options]
        self.daemon = Daemon(argv, folder / "daemon.log", netns, env)

    def __enter__(self) -> Rig:
        try:
            return self.start()
        except BaseException:
            self.daemon.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()

    @property
    def secret(self) -> bytes:
        """The key, as it is in the file now."""
        return self.key.read_bytes()[:4096]

    def start(self) -> Rig:
        """Start the daemon and wait until it is ready."""
        self.daemon.start()
        self.daemon.wait_for_line(READY)
        return self

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the daemon by a signal and start it again."""
        self.daemon.signal(number)
        self.daemon.wait()
        self.start()

    def write_config(self, **changes: object) -> Path:
        """Write the configuration, with other keys of the tcp listener; return its path."""
        listeners = {**self._listeners, "tcp": {**self._listeners["tcp"], **changes}}
        several = "".join(f'"; uri{number} = "{uri}' for number, uri in enumerate(self._uris[1:], 1))
        return our_config(
            self.folder, self._uris[0] + several, self.key, daemon=self._daemon, groups=self._groups,
            listeners={name: dict(settings) for name, settings in listeners.items()},
        )  # fmt: skip

    def reload(self, expected: str = "reloaded: ") -> None:
        """Send SIGHUP and wait for one more line with *expected*."""
        seen = self.told(expected)
        self.daemon.signal(signal.SIGHUP)
        self.wait_told(expected, seen + 1)

    def told(self, text: str) -> int:
        """Return how many times *text* stands in the log of this run."""
        return self.daemon.log().count(text)

    def wait_told(self, text: str, times: int = 1) -> None:
        """Wait until *text* stands that many times in the log of this run."""
        try:
            wait_until(lambda: self.told(text) >= times, PATIENT, f"{text!r} {times} times")
        except LabError as error:
            raise LabError(f"{error} in:\n{self.daemon.log()}") from None

    def rejected(self, reason: str) -> int:
        """Return how many packets were dropped for *reason*, as the daemon counts them; its log tells only some."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.folder / "control"))
            control.sendall(b'{"version": 1, "command": "status"}\n')
            with control.makefile("rb") as answer:
                counts: dict[str, int] = json.loads(answer.readline())["status"]["rejected"]
        return counts.get(reason, 0)

    def connect(self, source: str = "", timeout: float = PATIENT) -> wire.Peer:
        """Return a connection from *source*; nothing is sent yet."""

        def connect() -> wire.Peer:
            target = (self.address, self.port)
            return wire.Peer(socket.create_connection(target, timeout, (source, 0) if source else None), timeout)

        return self.netns.call(connect) if self.netns else connect()

    def send(self, packet: bytes, source: str = "") -> wire.Peer:
        """Return a connection on which *packet* was sent as it is."""
        peer = self.connect(source)
        peer.send(packet)
        return peer

    def packet(self, request: int, guest: str | bytes = b"", **fields: object) -> bytes:
        """Return a signed packet."""
        return wire.sign(wire.packet(request, guest, **fields), self.secret)  # type: ignore[arg-type]

    def ask(self, request: int, guest: str | bytes = b"", *, source: str = "", **fields: object) -> int | None:
        """Hold an honest conversation; return the result code, None when the daemon hangs up instead."""
        with self.send(self.packet(request, guest, **fields), source) as peer:
            return peer.converse(self.secret)

    def hosts(self) -> dict[str, int]:
        """Return the state of every guest that the daemon shows, by name."""
        with self.send(self.packet(wire.LIST)) as peer:
            assert peer.converse(self.secret) == wire.HOSTS
            return {host.name: host.state for host in peer.hosts()}

    def state(self, guest: str) -> int:
        """Return one guest's state."""
        return self.hosts()[guest]

    def power_on(self, *guests: str) -> None:
        """Make sure that *guests* run."""
        for guest in guests:
            assert self.ask(wire.ON, guest) == wire.DONE
            assert self.state(guest) == ON

    def fence(self, action: str, guest: str = "", *more: str, key: Path | None = None) -> Result:
        """Run our agent against the tcp listener."""
        words = ["-T", self.address, "-p", str(self.port), "-k", str(key or self.key), "-o", action]
        return self._programs.fence(*words, *(["-n", guest] if guest else []), *more, netns=self.netns)

    def serves(self, guest: str = BETA) -> None:
        """Check that the daemon is alive, answers another client, and has not stumbled."""
        assert self.ask(wire.STATUS, guest) in (wire.DONE, wire.IS_OFF)
        assert self.daemon.running()
        assert no_trace(self.daemon.log()), self.daemon.log()


def refused(vmfence: CommandLine, config: Path, *options: str, prefix: Sequence[str] = ()) -> str:
    """Run a daemon that must not start; return what it wrote.  Its exit code is an error's, and no traceback shown."""
    done = run_client([*prefix, vmfence.vmfence], ["host", "daemon", "-f", str(config), *options])
    assert done.exit not in (0, 2) and done.exit > 0, done
    assert "error: " in done.stderr and no_trace(done.stderr), done.stderr
    assert " ready: " not in done.stderr
    return done.stderr


@contextmanager
def hung(peer: wire.Peer) -> Iterator[wire.Peer]:
    """Hold a connection that must still be open, and silent, at the end of the block."""
    with peer:
        yield peer
        assert is_open(peer), "hung up on before the block ended: that shows nothing"


def is_open(peer: wire.Peer) -> bool:
    """Tell whether the daemon has neither hung up nor sent anything that was not read."""
    limit = peer.stream.gettimeout()
    peer.stream.setblocking(False)
    try:
        peer.stream.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        peer.stream.settimeout(limit)
    return False


def multicast_rig(vmfence: CommandLine, folder: Path, host: Namespace, **options: object) -> Rig:
    """Return a rig in the host's namespace with a multicast listener on br0 beside tcp on its loopback."""
    return Rig(vmfence, folder, netns=host, listeners={"multicast": {"interface": "br0"}}, **options)  # type: ignore[arg-type]


def unreadable(path: Path) -> None:
    """Make *path* a key that root without rights may not read."""
    write_key(path)
    path.chmod(0)


# Each makes something at a path that must never be taken for a key.
BAD_KEYS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(mode=0o700),
    "empty": lambda path: write_key(path, b""),
    "short": lambda path: write_key(path, b"15 bytes, not 16"[:15]),
    "world-readable": lambda path: write_key(path).chmod(0o604),
    "fifo": lambda path: os.mkfifo(path, 0o600),
    "unreadable": unreadable,
    "dangling": lambda path: path.symlink_to(path.with_name("nowhere")),
}


def remove(path: Path) -> None:
    """Remove whatever is at *path*."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
