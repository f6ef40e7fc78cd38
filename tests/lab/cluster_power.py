"""What ties the power of a node to its guest: a follower of libvirt's events, and the thread that obeys it.

Run as a program, ``cluster_power.py URI`` writes one line for each event, ``NAME on`` or ``NAME off``, after a first
line ``ready``; it ends when libvirtd does.  A process of its own, because libvirt has one event loop for each process.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import libvirt

from .cluster_node import Node
from .process import clean_environment
from .waiting import LabError

WORDS = {libvirt.VIR_DOMAIN_EVENT_STARTED: "on", libvirt.VIR_DOMAIN_EVENT_STOPPED: "off"}


class PowerWatcher:
    """Switches *nodes* (by the name of the guest) as libvirt switches their guests; a context manager."""

    def __init__(self, uri: str, nodes: Mapping[str, Node]) -> None:
        self._uri, self._nodes = uri, nodes
        self._stack = ExitStack()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PowerWatcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._thread is not None:
            self._thread.join()

    def start(self) -> None:
        """Begin to follow; nothing while it does.  After the end of a libvirtd it must be called again."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stack.close()
        argv = [sys.executable, "-m", "lab.cluster_power", self._uri]
        env = clean_environment({"PYTHONPATH": str(Path(__file__).parents[1])})
        follower = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=env)
        self._stack.callback(follower.wait)
        self._stack.callback(follower.kill)
        assert follower.stdout is not None
        if follower.stdout.readline() != "ready\n":
            raise LabError(f"no events of {self._uri}")
        self._thread = threading.Thread(target=self._follow, args=(follower.stdout,), daemon=True)
        self._thread.start()

    def _follow(self, lines: TextIO) -> None:
        with lines:
            for line in lines:
                guest, word = line.split()
                if node := self._nodes.get(guest):
                    with contextlib.suppress(LabError):  # who waits for one that does not boot has its log
                        node.start() if word == "on" else node.power_off()


def _show(_: Any, domain: Any, event: int, *__: Any) -> None:
    if word := WORDS.get(event):
        print(domain.name(), word, flush=True)


def main(uri: str) -> None:
    """Show the events of *uri* until its libvirtd ends."""
    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open(uri)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, _show, None)
    print("ready", flush=True)
    while connection.isAlive():
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    main(sys.argv[1])
