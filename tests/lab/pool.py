"""A pool of hosts on one bridge: each with a corosync, a libvirtd with real guests, and a fencing daemon of its own.

Host number N (from 1) has corosync's node id N and the address 10.88.0.(10+N).  Its root is an overlay over this
machine's, and its network a namespace; each process is ended by its own pid.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Callable

from .hypervisor import Hypervisor
from .machine import PROGRAM, Bare
from .net import Bridge, Guest
from .ours import READY, CommandLine
from .process import Daemon, Result, run_client
from .reference import FENCE_VIRTD, MODULES, write_key
from .requirements import SYSTEM_PATH
from .waiting import LabError, wait_until

PROGRAMS = ("corosync", "corosync-quorumtool", "nsenter", "chroot")
KEY = "/etc/cluster/fence_xvm.key"
CONFIG, STATE, CONTROL = "/etc/vmfence.conf", "/var/lib/vmfence", "/run/vmfence/control"
TOGETHER_WITHIN = 30.0  # seconds
REFERENCE_STARTS = 50
POLL = 0.05
COROSYNC = """
totem {{
    version: 2
    cluster_name: pool
    transport: knet
    crypto_cipher: none
    crypto_hash: none
    token: 1000
}}
system {{
    move_to_root_cgroup: no
}}
logging {{
    to_syslog: no
    to_stderr: yes
}}
quorum {{
    provider: corosync_votequorum
    {two_node}
}}
nodelist {{
{nodes}}}
"""
NODE = "    node {{\n        ring0_addr: {ipv4}\n        name: h{number}\n        nodeid: {number}\n    }}\n"
OURS = """
fence_virtd {{ listener = "tcp"; backend = "cpg"; state_dir = "{state}"; control_socket = "{control}"; }}
listeners {{ tcp {{ key_file = "{key}"; address = "{ipv4}"; }} }}
backends {{ cpg {{ uri = "qemu:///system"; {more} }} }}
"""
REFERENCE = """
fence_virtd {{ listener = "tcp"; backend = "cpg"; module_path = "{modules}"; }}
listeners {{ tcp {{ key_file = "{key}"; address = "{ipv4}"; }} }}
backends {{ cpg {{ uri = "qemu:///system"; name_mode = "{mode}"; }} }}
"""


def missing() -> list[str]:
    """Return the programs that are missing for a pool."""
    return [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]


class PoolHost:
    """One host; a context manager.  *program* is vmfence or fence_virtd, *mode* the latter's name_mode."""

    def __init__(
        self, number: int, guest: Guest, bridge: Bridge, folder: Path, program: str, mode: str, agent: str
    ) -> None:
        self._agent = agent
        self.number, self.ipv4, self._guest, self._bridge = number, guest.ipv4, guest, bridge
        self.folder, self.program, self.mode = folder, program, mode
        self.hypervisor = Hypervisor(folder / "libvirt", guest)
        self.disk = Bare(folder / "disk", guest, self.hypervisor)
        self._stack = ExitStack()
        self.corosync: Daemon
        self.daemon: Daemon

    def __enter__(self) -> PoolHost:
        with self._stack:
            self._stack.enter_context(self.hypervisor)
            self._stack.enter_context(self.disk)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def install(self, corosync: str, key: bytes, more: str = "") -> None:
        """Write the host's files and make its programs, not started yet."""
        self.disk.write("/etc/corosync/corosync.conf", corosync, 0o644)
        self.disk.write(KEY, key, 0o600)
        self.disk.path("/var/lib/corosync").mkdir(parents=True, exist_ok=True)
        values = {"state": STATE, "control": CONTROL, "key": KEY, "ipv4": self.ipv4, "more": more}
        form, argv = OURS, [PROGRAM, "host", "daemon", "-f", CONFIG]
        if self.program == "fence_virtd":
            form, values = REFERENCE, {**values, "modules": MODULES, "mode": self.mode}
            argv = ["stdbuf", "-oL", FENCE_VIRTD, "-F", "-d99", "-f", CONFIG, "-p", "/run/fence_virtd.pid"]
        self.disk.write(CONFIG, form.format(**values), 0o600)
        self.corosync = Daemon([*self.disk.prefix, "corosync", "-f"], self.folder / "corosync.log")
        self.daemon = Daemon([*self.disk.prefix, *argv], self.folder / "daemon.log")
        self._stack.callback(self.corosync.stop)
        self._stack.callback(self.daemon.stop)

    def start_daemon(self) -> None:
        """Start the fencing daemon and wait until it serves."""
        if self.program == "vmfence":
            self.daemon.start().wait_for_line(READY, 20)
            return
        for _ in range(REFERENCE_STARTS):
            self.daemon.start().wait_listening("tcp", 1229, 20)
            if self._reference_hears():
                return
            self.daemon.kill()
        raise LabError(f"fence_virtd of host {self.number} does not hear its group:\n{self.daemon.log()}")

    def _reference_hears(self) -> bool:
        """Tell whether fence_virtd has the thread that hears the group.

        4.12.1 may start it before the handle that it uses is there (server/cpg.c: cpg_start): then it ends at once, and
        the daemon never gets an answer or gives one.
        """
        return len(list(Path(f"/proc/{self.daemon.pid}/task").iterdir())) > 1

    def ask(self, *arguments: str) -> Result:
        """Ask this host's daemon with our agent, run on the bridge's host; exit status and output as of fence_xvm."""
        argv = ["-T", self.ipv4, "-k", str(self.disk.path(KEY)), *arguments]
        return run_client(self._agent, argv, netns=self._bridge.host)

    def ask_here(self, *arguments: str) -> Result:
        """As ask(), run on the host itself, whose link may be cut."""
        argv = ["-T", self.ipv4, "-k", KEY, *arguments]
        return run_client([*self.disk.prefix, PROGRAM, "agent"], argv)

    def quorate(self) -> bool:
        """Tell whether corosync has quorum here, as its own tool says."""
        return bool(re.search(r"Quorate:\s+Yes", self.disk.run("corosync-quorumtool", "-s").stdout))

    def hosts(self) -> set[int]:
        """Return the node ids that our daemon here sees in the group, as its log has said last."""
        found = re.findall(r"hosts of the pool: ([\d, ]+)", self.daemon.log())
        return {int(number) for number in found[-1].split(",")} if found else set()

    def cut_link(self) -> None:
        """Pull the network cable."""
        self._bridge.host.ip(f"link set {self._guest.port} down")

    def mend_link(self) -> None:
        """Put it back."""
        self._bridge.host.ip(f"link set {self._guest.port} up")


Furnish = Callable[[PoolHost], None]


class PoolLab:
    """Several hosts; a context manager: all are together and their daemons serve when it has been entered.

    *programs* are those of hosts 1, 2, ...: vmfence, fence_virtd, or fence_virtd:uuid for its other name mode.
    *furnish*
    is called for each host before its daemon starts: fence_virtd hangs where there is no guest then.
    """

    def __init__(
        self, vmfence: CommandLine, folder: Path, programs: tuple[str, ...], furnish: Furnish, more: str = ""
    ) -> None:
        self.folder, self._programs, self._furnish, self._more = folder, programs, furnish, more
        self._agent = vmfence.agent
        self.bridge = Bridge(guests=len(programs))
        self.hosts: dict[int, PoolHost] = {}
        self._stack = ExitStack()

    def __enter__(self) -> PoolLab:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, number: int) -> PoolHost:
        return self.hosts[number]

    def wait_together(self, *numbers: int) -> None:
        """Wait until the daemons of these hosts (all of ours, if none is named) see exactly these in the group."""
        wanted = set(numbers or self.hosts)
        ours = [self.hosts[number] for number in wanted if self._programs[number - 1] == "vmfence"]
        self._wait(lambda: all(host.hosts() == wanted for host in ours), f"hosts {wanted} together")

    def wait_alone(self, number: int) -> None:
        """Wait until a host sees nobody else."""
        self._wait(lambda: self[number].hosts() == {number} and not self[number].quorate(), f"host {number} alone")

    def restore(self) -> None:
        """Undo what a test did to links, corosyncs, libvirtds and daemons; all are together afterwards."""
        for host in self.hosts.values():
            host.mend_link()
            host.hypervisor.resume()
            if not host.corosync.running():
                host.corosync.start()
        self._wait(lambda: all(host.quorate() for host in self.hosts.values()), "quorum")
        for host in self.hosts.values():
            if not host.daemon.running():
                host.start_daemon()
        self.wait_together()

    def wait_known(self, guest: str, at: int, by: int) -> None:
        """Wait until host *by* answers that *guest* of host *at* runs."""
        self._wait(lambda: self[by].ask("-o", "status", "-H", guest).exit == 0, f"{guest} at host {at}")

    def truth(self, guest: str) -> list[int]:
        """Return the hosts at which libvirt says that the guest is active."""
        found = []
        for number, host in self.hosts.items():
            if guest in host.hypervisor.names() and host.hypervisor.domain_id(guest) != -1:
                found.append(number)
        return found

    def log(self) -> str:
        """Return what all daemons and corosyncs wrote: for messages about a failed test."""
        return "".join(
            f"--- host {number} {log.name}\n{log.read_text(errors='replace')[-6000:]}"
            for number, host in self.hosts.items()
            for log in (host.folder / "daemon.log", host.folder / "corosync.log")
            if log.exists()
        )

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = write_key(self.folder / "key").read_bytes()
        self._stack.enter_context(self.bridge)
        numbers = range(1, len(self._programs) + 1)
        addresses = dict(zip(numbers, self.bridge.guests))
        nodes = "".join(NODE.format(ipv4=guest.ipv4, number=number) for number, guest in addresses.items())
        two_node = "two_node: 1\n    wait_for_all: 1" if len(numbers) == 2 else ""
        corosync = COROSYNC.format(two_node=two_node, nodes=nodes)
        for number, guest in addresses.items():
            program, _, mode = self._programs[number - 1].partition(":")
            host = PoolHost(
                number, guest, self.bridge, self.folder / f"h{number}", program, mode or "name", self._agent
            )
            self.hosts[number] = self._stack.enter_context(host)
            host.install(corosync, key, self._more)
            self._furnish(host)
            host.corosync.start()
        self._wait(lambda: all(host.quorate() for host in self.hosts.values()), "quorum")
        for host in self.hosts.values():
            host.start_daemon()
        self.wait_together()

    def _wait(self, predicate: Callable[[], bool], what: str) -> None:
        try:
            wait_until(predicate, TOGETHER_WITHIN, what, interval=POLL)
        except LabError as error:
            raise LabError(f"{error}\n{self.log()}") from None
