"""Network namespaces, and a bridge with guests on it, shut off from everything outside.

Addresses: the host is 10.88.0.1 and fd88::1 on br0, guest number N (from 11) is 10.88.0.N and fd88::N
on its eth0.  Several such networks exist side by side: only the namespaces' names must differ.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Callable, TypeVar

from .process import clean_environment, inside
from .waiting import wait_until

T = TypeVar("T")
N = TypeVar("N", bound="Namespace")

CLONE_NEWNET = 0x40000000  # linux/sched.h
BRIDGE = "br0"
HOST_IPV4 = "10.88.0.1"
HOST_IPV6 = "fd88::1"
FIRST_GUEST = 11
QUIET_IPV6 = (("accept_dad", "0"), ("accept_ra", "0"))  # addresses are usable at once, and only ours

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


class Namespace:
    """A network namespace with lo up and a name of its own; a context manager."""

    def __init__(self, label: str = "ns") -> None:
        self.name = f"vmf-{os.getpid()}-{next(_numbers)}-{label}"

    def __enter__(self: N) -> N:
        _ip("netns", "add", self.name)
        try:
            for knob, value in QUIET_IPV6:
                self._write_default(knob, value)
            self.ip("link set lo up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "del", self.name)

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; options as for subprocess.run, text and check are set."""
        settings = {"capture_output": True, "text": True, "check": True, "env": clean_environment()}
        return subprocess.run(inside(self, argv), **{**settings, **options})

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen:
        """Start a program inside; its pid is that of the program.  Options as for subprocess.Popen."""
        return subprocess.Popen(inside(self, argv), **{"env": clean_environment(), **options})

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)``, run inside.  Sockets it opens stay inside when it has returned."""
        future: Future[T] = Future()
        thread = threading.Thread(target=self._call, args=(future, function, args), daemon=True)
        thread.start()
        return future.result()

    def ip(self, *commands: str) -> None:
        """Give ip(8) command lines, in this order; OSError at the first that fails."""
        _ip("-n", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    def operstate(self, device: str) -> str:
        """Return the state of *device* as the kernel sees it: UP, DOWN, LOWERLAYERDOWN, UNKNOWN."""
        return json.loads(_ip("-n", self.name, "-j", "link", "show", device))[0]["operstate"]

    def _write_default(self, knob: str, value: str) -> None:
        self.run(["tee", f"/proc/sys/net/ipv6/conf/default/{knob}"], input=value)

    def _call(self, future: Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            _enter(self.name)
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            future.set_exception(error)


class Guest(Namespace):
    """A guest on the bridge: a namespace with one link, eth0."""

    def __init__(self, number: int) -> None:
        super().__init__(f"guest{number}")
        self.ipv4 = f"10.88.0.{number}"
        self.ipv6 = f"fd88::{number}"
        self.port = f"veth{number}"  # its other end, in the host

    def plug_into(self, host: Namespace) -> None:
        """Make the link to *host*; it is not on the bridge yet."""
        self.ip(
            f"link add eth0 type veth peer name {self.port} netns {host.name}",
            f"addr add {self.ipv4}/24 dev eth0",
            f"addr add {self.ipv6}/64 dev eth0 nodad",
            "link set eth0 up",
        )


class Bridge:
    """A host with br0 and guests joined to it; a context manager.

    *snooping* switches the bridge's multicast snooping on, without a querier: the usual trap.
    """

    def __init__(self, guests: int = 2, snooping: bool = False) -> None:
        self.host = Namespace("host")
        self.guests: list[Guest] = []
        self._wanted = guests
        self._snooping = int(snooping)
        self._stack = ExitStack()

    def __enter__(self) -> Bridge:
        with self._stack:  # undone if any of this fails
            self._stack.enter_context(self.host)
            self.create()
            for _ in range(self._wanted):
                self.add_guest()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_guest(self) -> Guest:
        """Join one more guest; it can be reached when this returns."""
        guest = self._stack.enter_context(Guest(FIRST_GUEST + len(self.guests)))
        guest.plug_into(self.host)
        self.guests.append(guest)
        self._attach([guest])
        return guest

    def create(self) -> None:
        """Make br0 with its two addresses and attach all guests: also after delete()."""
        self.host.ip(
            f"link add {BRIDGE} address 52:54:00:88:00:01 type bridge stp_state 0 forward_delay 0"
            f" mcast_snooping {self._snooping}",
            f"link set {BRIDGE} up",
        )
        self.add_address(f"{HOST_IPV4}/24")
        self.add_address(f"{HOST_IPV6}/64")
        self._attach(self.guests)

    def delete(self) -> None:
        """Remove br0 as a host's network restart does: addresses and memberships go with it."""
        self.host.ip(f"link del {BRIDGE}")

    def down(self) -> None:
        """Set br0 down; its IPv6 addresses are lost, as the kernel does it."""
        self.host.ip(f"link set {BRIDGE} down")

    def up(self) -> None:
        """Set br0 up again, with both addresses."""
        self.host.ip(f"link set {BRIDGE} up", f"addr replace {HOST_IPV6}/64 dev {BRIDGE} nodad")
        self._wait_up(self.guests)

    def add_address(self, text: str) -> None:
        """Give br0 another address, such as 10.88.0.2/24 or fd88::2/64."""
        self.host.ip(f"addr add {text} dev {BRIDGE}" + (" nodad" if ":" in text else ""))

    def remove_address(self, text: str) -> None:
        """Take an address from br0."""
        self.host.ip(f"addr del {text} dev {BRIDGE}")

    def _attach(self, guests: list[Guest]) -> None:
        for guest in guests:
            self.host.ip(f"link set {guest.port} master {BRIDGE} up")
        self._wait_up(guests)

    def _wait_up(self, guests: list[Guest]) -> None:
        ends = [(guest, "eth0") for guest in guests] + [(self.host, BRIDGE)] * bool(guests)
        wait_until(lambda: all(end.operstate(link) == "UP" for end, link in ends), what="links up")


def _ip(*args: str, stdin: str = "") -> str:
    done = subprocess.run(["ip", *args], input=stdin, capture_output=True, text=True, env=clean_environment())
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()} ({stdin.strip()})")
    return done.stdout


def _enter(name: str) -> None:
    """Move this thread into a network namespace (setns(2); os.setns is newer than the oldest Python here)."""
    with open(f"/run/netns/{name}", "rb") as handle:
        if _libc.setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {name}")
