"""A pool whose hosts are the nodes of a real Pacemaker cluster: each has a libvirtd with real guests and our daemon.

Libvirtd, QEMUs and daemon live in the node's own process table: they end with its power, as a host's do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import libvirt

from .cluster import ClusterLab
from .cluster_node import KEY, Node
from .hypervisor import FIRMWARE_SIZE, GUEST, HALT, RESET_VECTOR
from .libvirtd import FOLDERS, SETTINGS
from .ours import READY, CommandLine
from .process import Daemon, Result, run_client
from .waiting import wait_until

CONFIG, STATE, CONTROL = "/etc/vmfence.conf", "/var/lib/vmfence", "/run/vmfence/control"
FIRMWARE = "/var/lib/halt.rom"
SOCKETS = "/srv/libvirt"  # not below /run, which is the node's own: tests connect from outside
DAEMON = ("vmfence", "host", "daemon", "-f", CONFIG)
STARTED_WITHIN, TOGETHER_WITHIN = 60.0, 60.0  # seconds
POLL = 0.05
OURS = """
fence_virtd {{ listener = "tcp"; backend = "cpg"; state_dir = "{state}"; control_socket = "{control}"; }}
listeners {{ tcp {{ key_file = "{key}"; address = "{ipv4}"; }} }}
backends {{ cpg {{ uri = "qemu+unix:///system?socket={sockets}/libvirt-sock"; {more} }} }}
"""


class NodeHost:
    """What makes a node a host of the pool.  Its libvirtd and daemon do not start with its power: start() does that."""

    def __init__(self, number: int, node: Node, lab: ClusterLab, agent: str, more: str) -> None:
        self.number, self.node, self._lab, self._agent = number, node, lab, agent
        values = {"state": STATE, "control": CONTROL, "key": KEY, "ipv4": node.ipv4, "sockets": SOCKETS, "more": more}
        node.disk.write(CONFIG, OURS.format(**values), 0o600)
        node.disk.write(FIRMWARE, (bytes(RESET_VECTOR) + HALT).ljust(FIRMWARE_SIZE, b"\0"), 0o644)
        # Not this machine's own guests and networks.
        node.disk.ok("rm", "-rf", *map(str, FOLDERS.values()))
        for name, text in SETTINGS.items():
            node.disk.write(f"{FOLDERS['etc']}/{name}", text, 0o600)
        with node.path(f"{FOLDERS['etc']}/libvirtd.conf").open("a") as settings:
            settings.write(f'unix_sock_dir = "{SOCKETS}"\n')
        self._log = lab.folder / f"{node.name}.daemon.log"
        self.daemon: Daemon | None = None

    def start(self) -> None:
        """Start what of libvirtd and daemon does not run."""
        if self.node.run(["pgrep", "-x", "libvirtd"]).exit:
            self.node.ok("mkdir", "-p", SOCKETS, *map(str, FOLDERS.values()))
            self.node.ok("libvirtd", "--daemon")
            wait_until(self._is_answering, STARTED_WITHIN, f"libvirtd of {self.node.name}", POLL)
        if self.node.run(["pgrep", "-x", "vmfence"]).exit:
            self.stop()
            self.daemon = Daemon([*self.node.prefix, *DAEMON], self._log)
            self.daemon.start().wait_for_line(READY, STARTED_WITHIN)

    def stop(self) -> None:
        """Forget a daemon that has ended, or is about to with the node's power."""
        if self.daemon is not None:
            self.daemon.stop()

    def kill_daemon(self) -> None:
        """End the daemon with SIGKILL, and wait for that: as a zombie it would still be found by its name."""
        assert self.daemon is not None
        self.node.ok("pkill", "-KILL", "-x", "vmfence")
        self.daemon.wait()

    def ensure(self, guest: str) -> None:
        """Make sure that *guest* is defined here and runs."""
        with self.connection() as connection:
            if guest not in [domain.name() for domain in connection.listAllDomains()]:
                number = f"99000000-0000-4000-8000-0000000000{self.number:02}"
                connection.defineXML(GUEST.format(firmware=FIRMWARE, name=guest, uuid=number, devices=""))
            domain = connection.lookupByName(guest)
            if not domain.isActive():
                domain.create()

    def has_running(self, guest: str) -> bool:
        """Tell whether the guest's QEMU is there; without power nothing is."""
        if not self.node.is_on():
            return False
        return not self.node.run(["pgrep", "-f", f"guest={guest},"]).exit

    def ask(self, *arguments: str) -> Result:
        """Ask this host's daemon with our agent, run on the bridge's host."""
        argv = ["-T", self.node.ipv4, "-k", str(self._lab.key), *arguments]
        return run_client(self._agent, argv, netns=self._lab.bridge.host)

    def hosts(self) -> set[int]:
        """Return the node ids that the daemon here sees in the group, as its log has said last."""
        found = re.findall(r"hosts of the pool: ([\d, ]+)", self.log())
        return {int(number) for number in found[-1].split(",")} if found else set()

    def log(self) -> str:
        """Return what the daemon wrote since it was started."""
        return "" if self.daemon is None else self.daemon.log()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend a new connection to libvirtd."""
        libvirt.registerErrorHandler(lambda *_: None, None)  # else every error is also written to stderr
        connection = libvirt.open(f"qemu+unix:///system?socket={self.node.path(SOCKETS)}/libvirt-sock")
        try:
            yield connection
        finally:
            connection.close()

    def _is_answering(self) -> bool:
        try:
            with self.connection():
                return True
        except libvirt.libvirtError:
            return False


class PoolCluster:
    """Three nodes that are hosts; a context manager.  Guest gN runs at node nN.

    *more* are further settings of the backend, by the number of the host.
    """

    def __init__(self, vmfence: CommandLine, folder: Path, more: dict[int, str]) -> None:
        self.cluster = ClusterLab(vmfence, folder, nodes=3)
        self.hosts: dict[int, NodeHost] = {}
        self._agent, self._more = vmfence.agent, more
        self._stack = ExitStack()

    def __enter__(self) -> PoolCluster:
        with self._stack:
            self._stack.enter_context(self.cluster)
            for number, node in enumerate(self.cluster.nodes.values(), 1):
                self.hosts[number] = NodeHost(number, node, self.cluster, self._agent, self._more.get(number, ""))
                self._stack.callback(self.hosts[number].stop)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, number: int) -> NodeHost:
        return self.hosts[number]

    def reset(self) -> None:
        """All nodes online, without devices or history; all daemons together; all guests running."""
        self.cluster.reset()
        for number, host in self.hosts.items():
            host.start()
            host.ensure(f"g{number}")
        self.wait_together(*self.hosts)
        for by in self.hosts.values():
            wait_until(partial(self._knows_all, by), TOGETHER_WITHIN, f"guests known to {by.node.name}", POLL)

    def wait_together(self, *numbers: int) -> None:
        """Wait until the daemons of these hosts see exactly these in the group."""
        wanted = set(numbers)
        wait_until(
            lambda: all(self.hosts[number].hosts() == wanted for number in numbers), TOGETHER_WITHIN, f"hosts {wanted}"
        )

    def log(self) -> str:
        """Return what the daemons wrote: for messages about a failed test."""
        return "".join(f"--- host {number}\n{host.log()[-4000:]}" for number, host in self.hosts.items())

    def _knows_all(self, host: NodeHost) -> bool:
        return all(host.ask("-o", "status", "-H", f"g{number}").exit == 0 for number in self.hosts)
