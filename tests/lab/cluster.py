"""A real Pacemaker cluster on one bridge, whose nodes are fenced through real guests of a private libvirtd.

Node nN is a set of namespaces (lab/cluster_node.py) at 10.88.0.(10+N) and plays the guest lab-nN: an empty QEMU
guest beside it.  Who stops that guest cuts the node's power, who starts it switches the node on (lab/cluster_power.py),
so that a fenced node goes down and comes back.  The host is the bridge's, with a fencing daemon on multicast.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Callable

import libvirt
from lxml import etree

from .cluster_node import Node
from .cluster_power import PowerWatcher
from .hypervisor import Hypervisor
from .net import BRIDGE, FIRST_GUEST, Bridge
from .ours import READY, CommandLine, our_config
from .process import Daemon
from .reference import FENCE_VIRTD, config_text, write_key
from .reference import READY as REFERENCE_READY
from .requirements import SYSTEM_PATH
from .waiting import LabError, wait_until

PROGRAMS = ("corosync", "pacemakerd", "pcs", "crm_mon", "nsenter", "setsid", "pgrep", "bash")
# The machine may be a cluster's node itself.
STATE = ("/etc/corosync", "/var/lib/corosync", "/var/lib/pacemaker", "/var/log/corosync", "/var/log/pacemaker")
STARTED_WITHIN = 5.0  # seconds from power to the processes
ONLINE_WITHIN = 90.0  # seconds; about 10 on an idle machine
POLL = 0.2  # seconds: each question starts a program
# Corosync runs with real time priority where it may, so a busy machine seldom makes it lose its token of one second.
COROSYNC = """
totem {{
    version: 2
    cluster_name: lab
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
    to_logfile: yes
    logfile: /var/log/corosync/corosync.log
    timestamp: hires
}}
quorum {{
    provider: corosync_votequorum
    {two_node}
}}
nodelist {{
{nodes}}}
"""
NODE = """    node {{
        ring0_addr: {ipv4}
        name: {name}
        nodeid: {number}
    }}
"""
TWO_NODE = "two_node: 1\n    wait_for_all: 1"
# Without dc-deadtime the first election takes 20 s.
CIB = """<cib crm_feature_set="3.16.0" validate-with="pacemaker-3.9" epoch="1" num_updates="0" admin_epoch="0">
<configuration>
<crm_config><cluster_property_set id="cib-bootstrap-options">
<nvpair id="cib-bootstrap-options-dc-deadtime" name="dc-deadtime" value="2s"/>
</cluster_property_set></crm_config>
<nodes>{nodes}</nodes><resources/><constraints/></configuration><status/></cib>
"""


def missing() -> list[str]:
    """Return the programs that are missing for a cluster."""
    return [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]


class ClusterLab:
    """A cluster of 2 or 3 nodes with its host; a context manager: everybody is online when it has been entered.

    *daemon* is the program that fences: "vmfence" or "fence_virtd".
    """

    def __init__(self, vmfence: CommandLine, folder: Path, nodes: int = 2, daemon: str = "vmfence") -> None:
        self.folder = folder
        self.bridge = Bridge(guests=nodes)
        self.hypervisor = Hypervisor(folder / "libvirt", self.bridge.host)
        self.nodes: dict[str, Node] = {}
        self.key = folder / "key"
        self._names = [f"n{number}" for number in range(1, nodes + 1)]
        self._vmfence, self._kind = vmfence, daemon
        self._ready = READY if daemon == "vmfence" else REFERENCE_READY
        self._stack = ExitStack()
        self._fresh = ""  # the configuration of a cluster that no test has touched

    def __enter__(self) -> ClusterLab:
        with self._stack:  # undone if any of this fails
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def guest(self, node: str) -> str:
        """Return the name of a node's guest."""
        return f"lab-{node}"

    def uuid(self, node: str) -> str:
        """Return the UUID of a node's guest."""
        return f"88000000-0000-4000-8000-0000000000{FIRST_GUEST + self._names.index(node)}"

    @property
    def host_map(self) -> str:
        """The value of pcmk_host_map that is right."""
        return ";".join(f"{node}:{self.guest(node)}" for node in self.nodes)

    def guest_id(self, node: str) -> int:
        """Return the number that changes whenever a node's guest is started, or -1 while it is off."""
        return self.hypervisor.domain_id(self.guest(node))

    def wait_online(self, *names: str, timeout_s: float = ONLINE_WITHIN) -> None:
        """Wait until each of *names* (all nodes, if none) sees exactly these online."""
        wanted = set(names or self.nodes)

        def online() -> bool:
            return all(self.nodes[name].members() == wanted for name in sorted(wanted))

        self._wait(online, timeout_s, f"{', '.join(sorted(wanted))} online")

    def wait_fenced(self, node: str, guest_id: int, timeout_s: float = ONLINE_WITHIN) -> None:
        """Wait until a node's guest runs again with another number than *guest_id*."""
        self._wait(lambda: self.guest_id(node) not in (guest_id, -1), timeout_s, f"{node} fenced")

    def configuration(self) -> str:
        """Return the cluster's configuration as XML: the same text for the same configuration."""
        tree = etree.fromstring(self._any_node().ok("cibadmin", "--query", "--scope", "configuration").encode())
        return etree.tostring(tree, method="c14n").decode()

    def reset(self) -> None:
        """Undo what a test did to nodes, guests, links, key, agent, daemon and configuration; quick if it was nothing.

        All nodes are online afterwards, without devices, failures or fencing history.  Libvirtd must be running.
        """
        if not self.daemon.running():
            self.daemon.start().wait_for_line(self._ready)
        self._watcher.start()
        for name, node in self.nodes.items():
            node.install(self.key.read_bytes())
            node.mend_link()
            self._wait(partial(self._has_power, self.guest(name)), ONLINE_WITHIN, f"{name} switched on")
        self._revive()
        self.wait_online()
        if self.configuration() != self._fresh:
            self._any_node().ok("cibadmin", "--replace", "--scope", "configuration", "--xml-pipe", stdin=self._fresh)
        self._forget()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_key(self.key)
        self._stack.enter_context(self.bridge)
        self._stack.enter_context(self.hypervisor)
        self.daemon = self._stack.enter_context(self._make_daemon())
        self.daemon.wait_for_line(self._ready)
        self._make_nodes()
        watched = {self.guest(name): node for name, node in self.nodes.items()}
        self._watcher = self._stack.enter_context(PowerWatcher(self.hypervisor.uri, watched))
        for name in self.nodes:  # which starts the nodes
            self.hypervisor.define(self.guest(name), self.uuid(name), start=True)
        self.wait_online()
        self._fresh = self.configuration()

    def _has_power(self, guest: str) -> bool:
        """Switch a guest on if it is off; False where a fence that the test left behind ends it meanwhile."""
        try:
            if not self.hypervisor.is_on(guest):
                self.hypervisor.power_on(guest)
        except libvirt.libvirtError:
            return False
        return True

    def _revive(self) -> None:
        """Switch on the nodes that are off, and off and on those that have lost corosync or Pacemaker."""
        for node in self.nodes.values():
            node.start()
            try:
                wait_until(node.has_daemons, STARTED_WITHIN, interval=POLL)
            except LabError:
                node.power_off()
                node.start()

    def _forget(self) -> None:
        """Remove every trace of devices, failures and fencing."""
        node = self._any_node()

        def is_clean() -> bool:
            mon = etree.fromstring(node.ok("crm_mon", "--output-as=xml", "--inactive").encode())
            return not any(mon.findall(f"{part}/*") for part in ("resources", "failures", "fence_history"))

        if not is_clean():
            node.ok("crm_resource", "--refresh")
            node.ok("stonith_admin", "--history", "*", "--cleanup")
            self._wait(is_clean, ONLINE_WITHIN, "nothing left of the devices")
        for one in self.nodes.values():  # 2.1.5 keeps what is deleted while another node joins
            for device in one.registered_devices():
                one.ok("stonith_admin", f"--deregister={device}")

    def _make_daemon(self) -> Daemon:
        (self.folder / "host").mkdir()
        if self._kind == "vmfence":
            listeners: dict[str, dict[str, object]] = {"multicast": {"interface": BRIDGE}}
            config = our_config(self.folder / "host", self.hypervisor.uri, self.key, listeners=listeners)
            argv = [self._vmfence.vmfence, "host", "daemon", "-f", str(config)]
        else:
            config = self.folder / "host" / "fence_virt.conf"
            config.write_text(config_text("multicast", self.hypervisor.uri, self.key, interface=BRIDGE))
            config.chmod(0o600)
            argv = ["stdbuf", "-oL", FENCE_VIRTD, "-F", "-d99", "-f", str(config), "-p", str(config) + ".pid"]
        return Daemon(argv, self.folder / "host" / "daemon.log", self.bridge.host)

    def _make_nodes(self) -> None:
        addresses = dict(zip(self._names, self.bridge.guests))
        for name, guest in addresses.items():
            node = Node(name, self.uuid(name), guest, self.bridge, self.folder / name, self.hypervisor)
            self.nodes[name] = self._stack.enter_context(node)
        entries = "".join(
            NODE.format(ipv4=node.ipv4, name=name, number=number)
            for number, (name, node) in enumerate(self.nodes.items(), 1)
        )
        corosync = COROSYNC.format(two_node=TWO_NODE if len(self.nodes) == 2 else "", nodes=entries)
        cib_nodes = "".join(f'<node id="{number}" uname="{name}"/>' for number, name in enumerate(self.nodes, 1))
        hosts = "".join(f"{node.ipv4} {name}\n" for name, node in self.nodes.items())
        for node in self.nodes.values():
            node.disk.ok("find", *STATE, "-type", "f", "-delete")
            node.install(self.key.read_bytes())
            node.disk.write("/etc/hosts", f"127.0.0.1 localhost\n{hosts}", 0o644)
            node.disk.write("/etc/corosync/corosync.conf", corosync, 0o644)
            node.disk.write("/var/lib/pacemaker/cib/cib.xml", CIB.format(nodes=cib_nodes), 0o600)
            node.disk.ok("chown", "-R", "hacluster:haclient", "/var/lib/pacemaker/cib")

    def _any_node(self) -> Node:
        return next(node for node in self.nodes.values() if node.is_on())

    def _wait(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for *predicate*, or fail with the logs."""
        try:
            wait_until(predicate, timeout_s, what, interval=POLL)
        except LabError as error:
            logs = "".join(node.log() for node in self.nodes.values())
            raise LabError(f"{error}\n--- daemon\n{self.daemon.log()}{logs}") from None
