"""A node of a real cluster: corosync and pacemakerd in namespaces of their own, with a power button.

Its disk is an overlay over this machine's root that outlives the power.  Its processes live in a process table of
their own below a first process that ends when the test process does; switching the power off kills that one, and the
kernel all others at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lxml import etree

from .libvirtd import Libvirtd
from .machine import LAUNCHER, Bare
from .net import Bridge, Guest
from .process import Result, clean_environment, run_client
from .waiting import LabError, wait_until

BOOTED_WITHIN = 30.0  # seconds until the namespaces are ready; corosync and Pacemaker take longer
KEY = "/etc/cluster/fence_xvm.key"
PROGRAM, AGENT = "/usr/local/bin/vmfence", "/usr/sbin/fence_vmfence"
AGENT_LAUNCHER = LAUNCHER.replace("vmfence.cli.entry", "vmfence.agent.main").replace("main()", "main(sys.argv)")
# Pacemaker's controller asks for metadata as user hacluster, who must reach the interpreter.
INTERPRETER = Path(sys.base_prefix)
UP = "[@online='true'][@unclean='false'][@pending='false']"
LOGS, LOG_LINES = ("/var/log/corosync/corosync.log", "/var/log/pacemaker/pacemaker.log"), 100
# Read with the pipe of the test process as its standard input: the end of that is the end of the node.
# Pacemaker's last resort is to reset the machine through /proc: that one would be this machine.
# Each run has a name of its own, as after a real boot.
# Corosync writes the machine's log if it can.  Not every machine has DMI, so all of /sys/class is an overlay.
INIT = """
set -e
echo {name} > /proc/sys/kernel/hostname
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
[ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null /proc/sysrq-trigger
[ ! -S /dev/log ] || mount --bind /dev/null /dev/log
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
cat /proc/sys/kernel/random/uuid > /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
mkdir -p /run/lock /run/dmi/upper /run/dmi/work
mount -t overlay overlay -o lowerdir=/sys/class,upperdir=/run/dmi/upper,workdir=/run/dmi/work /sys/class
rm -rf /sys/class/dmi
mkdir -p /sys/class/dmi/id
echo {uuid} > /sys/class/dmi/id/product_uuid
chmod 0400 /sys/class/dmi/id/product_uuid
touch /run/booted
exec 3<&0 < /dev/null
corosync 3<&-
setsid pacemakerd 3<&- &
read -r -u 3 _
"""


class Node:
    """One node; a context manager that makes its disk.  Its power is off until start().

    *guest* is its network namespace, *uuid* that of the libvirt guest it plays.
    """

    def __init__(self, name: str, uuid: str, guest: Guest, bridge: Bridge, folder: Path, libvirtd: Libvirtd) -> None:
        self.name, self.uuid, self.ipv4 = name, uuid, guest.ipv4
        self.guest, self._host = guest, bridge.host
        self.disk = Bare(folder, guest, libvirtd)
        self.console = folder.with_suffix(".console")
        self._power = threading.RLock()  # the power watcher and the tests press the same button
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Node:
        self.disk.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.power_off()
        self.disk.__exit__()

    def install(self, key: bytes) -> None:
        """Put the programs and the key where they belong, whatever a test did to them."""
        self.disk.write(PROGRAM, LAUNCHER, 0o755)
        self.disk.write(AGENT, AGENT_LAUNCHER, 0o755)
        self.disk.write(KEY, key, 0o600)
        self.disk.ok("chmod", "a+x", *map(str, INTERPRETER.parents))

    def path(self, inside: str) -> Path:
        """Return where a file of the node's disk is found from outside, also while its power is off."""
        return self.disk.path(inside)

    def start(self) -> None:
        """Switch the power on and begin to start corosync and Pacemaker; nothing while it is on."""
        with self._power:
            if self.is_on():
                return
            self.power_off()  # it may have ended by itself
            init = INIT.format(name=self.name, uuid=self.uuid)
            enter = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "bash", "-c", init]
            with self.console.open("ab") as log:
                self._keeper = subprocess.Popen(
                    [*self.disk.prefix, *enter], stdin=subprocess.PIPE, stdout=log, stderr=log, env=clean_environment()
                )
            wait_until(self._has_booted, BOOTED_WITHIN, f"namespaces of {self.name}")

    def power_off(self) -> None:
        """End all processes of the node at once, as the loss of power does; they are gone when this returns."""
        with self._power:
            keeper, self._keeper, pid, self._pid = self._keeper, None, self._pid, 0
            if keeper is None:
                return
            if keeper.poll() is None:
                with suppress(ProcessLookupError):  # it may end by itself at this moment
                    os.kill(pid or keeper.pid, signal.SIGKILL)
            with keeper:  # waits until the kernel has cleared the process table
                pass

    def is_on(self) -> bool:
        """Tell whether the node has power and its namespaces are ready."""
        keeper = self._keeper
        return self._pid != 0 and keeper is not None and keeper.poll() is None

    def run(self, argv: Sequence[str], *, timeout_s: float = 60, stdin: str | None = None) -> Result:
        """Run a program on the node to its end, whatever its exit status.

        Raises LabError when the power is off, subprocess.TimeoutExpired after *timeout_s* seconds.
        """
        return run_client(self.prefix, argv, stdin=stdin, timeout=timeout_s)

    def ok(self, *argv: str, timeout_s: float = 60, stdin: str | None = None) -> str:
        """Run a program on the node that must end with 0; return its output."""
        done = self.run(argv, timeout_s=timeout_s, stdin=stdin)
        if done.exit:
            raise LabError(f"{self.name}: {shlex.join(argv)}: exit {done.exit}\n{done.stdout}{done.stderr}")
        return done.stdout

    @property
    def prefix(self) -> list[str]:
        """The words that begin the command line of a program which is to run on the node."""
        pid = self._pid
        if not self.is_on():
            raise LabError(f"{self.name} has no power")
        return ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]

    def registered_devices(self) -> list[str]:
        """Return the ids of the devices that this node's fencer has."""
        found = etree.fromstring(self.ok("stonith_admin", "--list-registered", "--output-as=xml").encode())
        return [item.text or "" for item in found.iter("item")]

    def members(self) -> set[str]:
        """Return the names of the nodes that this one sees online and clean; empty while Pacemaker does not answer."""
        try:
            done = self.run(["crm_mon", "--output-as=xml"])
        except LabError:  # no power
            return set()
        if done.exit:
            return set()
        mon = etree.fromstring(done.stdout.encode())
        if mon.find("summary/current_dc[@present='true']") is None:
            return set()
        return {node.get("name", "") for node in mon.findall(f"nodes/node{UP}")}

    def has_daemons(self) -> bool:
        """Tell whether corosync and Pacemaker run."""
        return not any(self.run(["pgrep", "-x", name]).exit for name in ("corosync", "pacemakerd"))

    def kill_corosync(self) -> None:
        """End corosync with SIGKILL: the others lose the node, which goes on running otherwise."""
        self.ok("pkill", "-KILL", "-x", "corosync")

    def cut_link(self) -> None:
        """Pull the node's network cable; it stays out through power cycles."""
        self._host.ip(f"link set {self.guest.port} down")

    def mend_link(self) -> None:
        """Put the cable back."""
        self._host.ip(f"link set {self.guest.port} up")

    def log(self) -> str:
        """Return the end of what console, corosync and Pacemaker wrote: for messages about a failed test."""
        return "".join(f"--- {file}\n{_end_of(file)}" for file in (self.console, *map(self.path, LOGS)))

    def _has_booted(self) -> bool:
        assert self._keeper is not None
        if self._keeper.poll() is not None:
            raise LabError(f"{self.name} did not boot:\n{self.log()}")
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text().split()
        if not children or not Path(f"/proc/{children[0]}/root/run/booted").exists():
            return False
        self._pid = int(children[0])
        return True


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines(keepends=True) if log.exists() else []
    return "".join(lines[-LOG_LINES:])
