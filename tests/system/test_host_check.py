"""``host check`` on a booted machine: green as setup leaves it, red under the right code for each mistake.

The machine is set up once; every mistake is really made on it, judged, and undone.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import machine as lab_machine
from lab.hypervisor import Hypervisor
from lab.machine import PROGRAM, Machine
from lab.net import HOST_IPV4, Bridge
from lab.ours import CommandLine, driver_uri, our_config
from lab.process import Result, run_client
from lab.reference import FENCE_XVM, config_text, write_key
from lab.waiting import wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(bool(lab_machine.missing()), reason=f"missing: {', '.join(lab_machine.missing())}"),
]
GUESTS = ["vm-01", "vm-02"]
KEY, CONFIG = "/etc/cluster/fence_xvm.key", "/etc/vmfence.conf"
WATCHED = ("/etc", "/usr/lib/systemd")


class Host:
    """A machine that ``host setup`` has made ready, and what it needs to be that again."""

    def __init__(self, machine: Machine, bridge: Bridge, hypervisor: Hypervisor, vmfence: CommandLine) -> None:
        self.machine, self.bridge, self.hypervisor, self.vmfence = machine, bridge, hypervisor, vmfence
        machine.ok(PROGRAM, "host", "setup")
        self.config, self.key = machine.path(CONFIG).read_text(), machine.path(KEY).read_bytes()

    def check(self, *options: str, prefix: tuple[str, ...] = ()) -> Result:
        """Run the check; whatever it finds, it ends without a traceback.  In time: tests/real/test_check_options.py."""
        done = self.machine.run(*prefix, PROGRAM, "host", "check", *options)
        assert "Traceback" not in done.stderr, done
        return done

    def judged(self, *options: str) -> dict[str, Any]:
        """Return what the check finds, as JSON."""
        done = self.check("--json", *options)
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.exit == (1 if found["worst"] == "error" else 4 if found["not_judged"] else 0), done
        return found

    def configure(self, old: str, new: str) -> None:
        """Put *new* in the place of *old* in the configuration."""
        text = self.machine.path(CONFIG).read_text()
        assert old in text
        self.machine.write(CONFIG, text.replace(old, new))

    def restart(self) -> None:
        """Start the daemon anew; it may be one that waits or fails."""
        self.machine.run("systemctl", "restart", "--no-block", "vmfence")

    def mended(self) -> None:
        """Put back configuration, key and service."""
        self.machine.write(CONFIG, self.config)
        self.machine.write(KEY, self.key)
        self.machine.run("systemctl", "reset-failed", "vmfence")
        self.machine.ok("systemctl", "enable", "vmfence")
        self.machine.ok("systemctl", "restart", "vmfence")

    def ask(self, folder: Path, key: bytes | None = None, *options: str) -> int:
        """Ask from a guest with the real fence_xvm; return its exit code."""
        path = write_key(folder / "key", key or self.key)
        words = ["-o", "list", "-t", "2", "-k", str(path), *options]
        return run_client(FENCE_XVM, words, netns=self.bridge.guests[0]).exit


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    with Bridge(guests=2) as bridge, Hypervisor(folder / "libvirt", bridge.host) as hypervisor:
        for name in GUESTS:
            hypervisor.define(name, bridge="br0", start=True)
        with Machine(folder / "machine", bridge.host, hypervisor) as machine:
            machine.ok("systemctl", "disable", "fence_virtd")
            yield Host(machine, bridge, hypervisor, vmfence)


def test_a_host_that_was_set_up_is_green(host: Host) -> None:
    before = host.machine.tree(*WATCHED)
    done = host.check("--strict")
    assert done.exit == 0, done
    found = host.judged("--strict")
    assert {one["severity"] for one in found["findings"]} <= {"note"} and found["not_judged"] == []
    assert len(found["passed"]) > 40
    assert host.machine.tree(*WATCHED) == before


def test_a_user_who_may_see_little_is_told_so(host: Host) -> None:
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    done = host.check("--json", prefix=nobody)
    found = json.loads(done.stdout)
    assert done.exit == 3 and found["worst"] == "note", done
    assert {"host-key-missing", "host-daemon", "host-firewall", "host-unanswered"} <= {
        one["code"] for one in found["not_judged"]
    }


def test_a_member_of_the_group_sees_the_daemon(host: Host) -> None:
    host.machine.ok("groupadd", "--system", "--force", "vmfence")
    host.machine.path(CONFIG).chmod(0o644)
    host.machine.ok("systemctl", "restart", "vmfence")
    member = ("setpriv", "--reuid=nobody", "--regid=vmfence", "--clear-groups")
    found = json.loads(host.check("--json", prefix=member).stdout)
    host.mended()
    assert {"host-daemon", "host-listener", "host-group", "host-configuration"} <= set(found["passed"])
    assert "host-key-weak" in {one["code"] for one in found["not_judged"]}
    assert found["worst"] in (None, "note"), found["findings"]


# Mistakes: each is made in the machine, and must be the first finding of its severity

Undo = ExitStack
Mistake = Callable[[Host, Undo, Path], None]
MISTAKES: dict[str, tuple[str, str, Mistake]] = {}


def mistake(code: str, severity: str = "error") -> Callable[[Mistake], Mistake]:
    """Enter a mistake into the table: *code* is what must be found with this *severity*."""

    def enter(make: Mistake) -> Mistake:
        MISTAKES[make.__name__] = (code, severity, make)
        return make

    return enter


@mistake("host-firewall")
def nft_drops(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("nft", "add table inet mine; add chain inet mine in { type filter hook input priority 0; }")
    undo.callback(host.machine.ok, "nft", "delete table inet mine")
    host.machine.ok("nft", 'add rule inet mine in iifname "br0" udp dport 1229 drop')


@mistake("host-firewall")
def iptables_drops(host: Host, undo: Undo, folder: Path) -> None:
    rule = ["INPUT", "-i", "br0", "-p", "udp", "--dport", "1229", "-j", "REJECT"]
    host.machine.ok("iptables", "-A", *rule)
    undo.callback(host.machine.ok, "iptables", "-D", *rule)


@mistake("host-firewall")
def nft_drops_all_but_this_host(host: Host, undo: Undo, folder: Path) -> None:
    nft(host, undo, "inet", f'iifname "br0" ip saddr != {HOST_IPV4} udp dport 1229 drop')
    assert host.ask(folder) != 0


@mistake("host-firewall")
def iptables_drops_a_guest(host: Host, undo: Undo, folder: Path) -> None:
    assert host.ask(folder, None, "-t", "15") == 0
    rule = ["INPUT", "-s", host.bridge.guests[0].ipv4, "-p", "udp", "-j", "DROP"]
    host.machine.ok("iptables", "-A", *rule)
    undo.callback(host.machine.ok, "iptables", "-D", *rule)
    assert host.ask(folder) != 0


@mistake("host-firewall")
def bridge_drops(host: Host, undo: Undo, folder: Path) -> None:
    nft(host, undo, "bridge", "udp dport 1229 drop")
    assert host.ask(folder) != 0


def nft(host: Host, undo: Undo, family: str, rule: str) -> None:
    """Have a table of *family* with one *rule* for what comes in."""
    host.machine.ok("nft", f"add table {family} mine")
    undo.callback(host.machine.ok, "nft", f"delete table {family} mine")
    host.machine.ok("nft", f"add chain {family} mine in {{ type filter hook input priority 0; }}")
    host.machine.ok("nft", f"add rule {family} mine in {rule}")


@mistake("host-firewall-back")
def way_back_closed(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("iptables", "-A", "OUTPUT", "-o", "br0", "-p", "tcp", "--dport", "1229", "-j", "REJECT")
    undo.callback(host.machine.ok, "iptables", "-F", "OUTPUT")
    assert host.ask(folder) != 0


@mistake("host-firewall-back")
def way_back_closed_by_nft(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("nft", "add table inet mine; add chain inet mine out { type filter hook output priority 0; }")
    undo.callback(host.machine.ok, "nft", "delete table inet mine")
    host.machine.ok("nft", 'add rule inet mine out oifname "br0" tcp dport 1000-2000 drop')


@mistake("host-firewall-back")
def guests_answers_dropped(host: Host, undo: Undo, folder: Path) -> None:
    """The request comes in, and nothing that the guest says on the connection back to it."""
    rule = ["INPUT", "-s", host.bridge.guests[0].ipv4, "-p", "tcp", "-j", "DROP"]
    assert host.ask(folder, None, "-t", "15") == 0
    host.machine.ok("iptables", "-A", *rule)
    undo.callback(host.machine.ok, "iptables", "-D", *rule)
    assert host.ask(folder) != 0


@mistake("host-firewall-back")
def nothing_established_comes_in(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("nft", "add table inet mine")
    undo.callback(host.machine.ok, "nft", "delete table inet mine")
    host.machine.ok("nft", "add chain inet mine in { type filter hook input priority 0; policy drop; }")
    for rule in ('iifname "lo" accept', "udp dport 1229 accept", "ip protocol igmp accept"):
        host.machine.ok("nft", f"add rule inet mine in {rule}")
    assert host.ask(folder) != 0


@mistake("host-interface-missing")
def interface_misspelt(host: Host, undo: Undo, folder: Path) -> None:
    host.configure('"br0"', '"br9"')
    host.restart()


@mistake("host-interface-missing")
def interface_is_a_port(host: Host, undo: Undo, folder: Path) -> None:
    host.configure('"br0"', f'"{host.bridge.guests[0].port}"')
    host.restart()


@mistake("host-interface-missing")
def bridge_gone(host: Host, undo: Undo, folder: Path) -> None:
    host.bridge.delete()
    undo.callback(host.bridge.create)


@mistake("host-interface-down")
def bridge_down(host: Host, undo: Undo, folder: Path) -> None:
    host.bridge.down()
    undo.callback(host.bridge.up)


@mistake("host-bridge-unheard")
def another_bridge(host: Host, undo: Undo, folder: Path) -> None:
    host.bridge.host.ip("link add br7 type bridge", "link set br7 up", "addr add 10.77.0.1/24 dev br7")
    undo.callback(host.bridge.host.ip, "link del br7")
    host.configure('"br0"', '"br7"')
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-key-missing")
def key_missing(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.path(KEY).unlink()


@mistake("host-key-unusable")
def key_open(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.path(KEY).chmod(0o644)


@mistake("host-key-unusable")
def key_short(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.write(KEY, "redhat\n")


@mistake("host-key-weak", "warning")
def key_typed(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.write(KEY, "somebody has typed this key by hand, so it is text\n")
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-key-stale")
def key_replaced(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.write(KEY, bytes(range(256)))


@mistake("host-daemon-stale", "warning")
def configuration_changed(host: Host, undo: Undo, folder: Path) -> None:
    host.configure("fence_virtd {", 'fence_virtd { reboot_method = "reset";')


@mistake("host-daemon-stale")
def port_changed(host: Host, undo: Undo, folder: Path) -> None:
    """Nobody listens there, for the daemon was not reloaded."""
    host.configure('interface = "br0";', 'interface = "br0"; port = "1300";')


@mistake("host-daemon-stale")
def key_named_elsewhere(host: Host, undo: Undo, folder: Path) -> None:
    other = "/etc/cluster/other.key"
    host.machine.write(other, bytes(range(255, -1, -1)))
    undo.callback(host.machine.path(other).unlink)
    host.configure('interface = "br0";', f'interface = "br0"; key_file = "{other}";')


@mistake("host-daemon-stale")
def reload_refused(host: Host, undo: Undo, folder: Path) -> None:
    host.configure("fence_virtd {", 'fence_virtd { state_dir = "/var/lib/elsewhere";')
    host.machine.run("systemctl", "reload", "vmfence")
    wait_until(lambda: "reload refused at" in host.machine.ok(PROGRAM, "host", "status"), what="the refusal")


@mistake("host-target-unknown")
def rules_leave_nobody(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.write(CONFIG, host.config + 'groups { group { uuid = "vm-o1"; } }')
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-second-daemon")
def a_python_has_the_port(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("systemctl", "stop", "vmfence")
    script = "import socket, time; s = socket.socket(2, 2); s.bind(('0.0.0.0', 1229)); time.sleep(600)"
    host.machine.ok("systemd-run", "--unit=holder", str(Path(sys.executable).resolve()), "-c", script)
    undo.callback(host.machine.ok, "systemctl", "stop", "holder")
    wait_until(lambda: ":04CD " in host.machine.ok("cat", "/proc/net/udp"), what="the holder of the port")


@mistake("host-configuration")
def configuration_misspelt(host: Host, undo: Undo, folder: Path) -> None:
    host.configure("fence_virtd {", 'fence_virtd { reboot_methode = "reset";')


@mistake("host-configuration")
def configuration_gone(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.path(CONFIG).unlink()
    old = host.machine.path("/etc/fence_virt.conf")
    if old.exists():
        text = old.read_bytes()
        undo.callback(old.write_bytes, text)
        old.unlink()


@mistake("host-libvirt")
def libvirt_stopped(host: Host, undo: Undo, folder: Path) -> None:
    host.hypervisor.terminate()
    undo.callback(host.hypervisor.start)


@mistake("host-libvirt")
def libvirt_hung(host: Host, undo: Undo, folder: Path) -> None:
    host.hypervisor.pause()
    undo.callback(host.hypervisor.resume)


@mistake("host-daemon")
def daemon_stopped(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("systemctl", "stop", "vmfence")


@mistake("host-daemon")
def daemon_hung(host: Host, undo: Undo, folder: Path) -> None:
    pid = host.machine.property("MainPID")
    host.machine.ok("kill", f"-{signal.SIGSTOP.value}", pid)
    undo.callback(host.machine.run, "kill", f"-{signal.SIGCONT.value}", pid)


@mistake("host-second-daemon")
def fence_virtd_runs(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("systemctl", "stop", "vmfence")
    text = config_text("multicast", "qemu:///system", Path(KEY), interface="br0")
    host.machine.write("/etc/fence_virt.conf", text)
    host.machine.ok("systemctl", "start", "fence_virtd")
    undo.callback(host.machine.ok, "systemctl", "stop", "fence_virtd")
    wait_until(lambda: host.ask(folder) == 0, what="fence_virtd")


@mistake("host-rival-at-boot", "warning")
def fence_virtd_enabled(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("systemctl", "enable", "fence_virtd")
    undo.callback(host.machine.ok, "systemctl", "disable", "fence_virtd")


@mistake("host-boot", "warning")
def not_enabled(host: Host, undo: Undo, folder: Path) -> None:
    host.machine.ok("systemctl", "disable", "vmfence")


@mistake("host-rp-filter")
def strict_filter(host: Host, undo: Undo, folder: Path) -> None:
    away(host, undo, folder)
    knob = ["tee", "/proc/sys/net/ipv4/conf/br0/rp_filter"]
    host.bridge.host.run(knob, input="1")
    undo.callback(host.bridge.host.run, knob, input="0")


@mistake("host-route-astray", "warning")
def routed_away(host: Host, undo: Undo, folder: Path) -> None:
    away(host, undo, folder)


def away(host: Host, undo: Undo, folder: Path) -> None:
    """Route a guest's address to elsewhere: one that the host has called back."""
    assert host.ask(folder, None, "-t", "15") == 0
    host.bridge.host.ip("link add away type bridge", "link set away up")
    undo.callback(host.bridge.host.ip, "link del away")
    host.bridge.host.ip(f"route add {host.bridge.guests[0].ipv4}/32 dev away")


@mistake("host-several")
def another_host(host: Host, undo: Undo, folder: Path) -> None:
    """A second host on the bridge, with the same key and other guests, that answers for all."""
    key = write_key(folder / "key", host.key)
    uri = driver_uri(folder, {"other": "11111111-2222-3333-4444-555555555509"})
    config = our_config(folder, uri, key, listeners={"multicast": {"interface": "eth0"}})
    undo.enter_context(host.vmfence.daemon(config, host.bridge.guests[1]))


@mistake("host-callback", "warning")
def callback_refused(host: Host, undo: Undo, folder: Path) -> None:
    guest = host.bridge.guests[0]
    guest.run(["nft", "add table inet mine; add chain inet mine in { type filter hook input priority 0; }"])
    undo.callback(guest.run, ["nft", "delete", "table", "inet", "mine"])
    guest.run(["nft", "add rule inet mine in tcp dport 1229 reject with icmpx type admin-prohibited"])
    assert host.ask(folder) != 0


@mistake("host-rejected", "warning")
def wrong_key_of_a_guest(host: Host, undo: Undo, folder: Path) -> None:
    assert host.ask(folder, b"another key " * 8) != 0


@mistake("host-guests-unseen", "warning")
def guest_of_nobody(host: Host, undo: Undo, folder: Path) -> None:
    words = "-machine none -nodefaults -display none -daemonize -pidfile /run/lonely.pid"
    uuid = "11111111-2222-3333-4444-555555555508"
    host.machine.ok("qemu-system-x86_64", "-name", "guest=lonely", "-uuid", uuid, *words.split())
    undo.callback(lambda: host.machine.ok("kill", host.machine.path("/run/lonely.pid").read_text().strip()))


@mistake("host-macvtap", "warning")
def by_macvtap(host: Host, undo: Undo, folder: Path) -> None:
    host.hypervisor.define("vm-03", devices="<interface type='direct'><source dev='br0' mode='bridge'/></interface>")
    undo.callback(host.hypervisor.undefine, "vm-03")


@mistake("host-network-down", "warning")
def network_down(host: Host, undo: Undo, folder: Path) -> None:
    host.hypervisor.define("vm-03", bridge="br5")
    undo.callback(host.hypervisor.undefine, "vm-03")


@mistake("host-name-long", "warning")
def name_long(host: Host, undo: Undo, folder: Path) -> None:
    host.hypervisor.define("n" * 64, bridge="br0")
    undo.callback(host.hypervisor.undefine, "n" * 64)


@mistake("host-target-unknown", "warning")
def rule_for_nobody(host: Host, undo: Undo, folder: Path) -> None:
    rules = f'groups {{ group {{ ip = "{HOST_IPV4}"; uuid = "vm-01"; uuid = "vm-02"; uuid = "vm-o3"; }} }}'
    host.machine.write(CONFIG, host.config + rules)
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-address-loopback")
def loopback(host: Host, undo: Undo, folder: Path) -> None:
    text = """fence_virtd { listener = "tcp"; backend = "libvirt"; }
    backends { libvirt { uri = "qemu:///system"; } }
    """
    host.machine.write(CONFIG, text)
    host.machine.ok("systemctl", "restart", "vmfence")


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_found_under_its_code(host: Host, tmp_path: Path, name: str) -> None:
    code, severity, make = MISTAKES[name]
    try:
        with ExitStack() as undo:
            make(host, undo, tmp_path)
            found = host.judged()
    finally:
        host.mended()
    codes = [one["code"] for one in found["findings"] if one["severity"] == severity]
    assert codes[:1] == [code], found["findings"]
    assert found["worst"] == severity
    fault = next(one for one in found["findings"] if one["code"] == code)
    assert fault["subject"] and fault["message"] and fault["evidence"] + fault["remedy"]


def test_the_remedy_starts_the_network_of_the_guests(host: Host) -> None:
    """A network of libvirt's is started by its name, not by that of its bridge; this one has no addresses to serve."""
    devices = "<interface type='network'><source network='default'/></interface>"
    with ExitStack() as undo:
        with host.hypervisor.connection() as connection:
            network = connection.networkDefineXML("<network><name>default</name><bridge name='virbr7'/></network>")
        host.hypervisor.define("vm-03", devices=devices)
        undo.callback(host.hypervisor.undefine, "vm-03")
        [down] = [one for one in host.judged()["findings"] if one["code"] == "host-network-down"]
        assert down["subject"] == "virbr7"
        host.machine.ok("sh", "-c", down["remedy"])
        found = host.judged()
        with host.hypervisor.connection() as connection:
            network = connection.networkLookupByName("default")
            is_kept = bool(network.autostart())
            network.destroy()
            network.undefine()
    assert is_kept and "host-network-down" in found["passed"]


@pytest.mark.parametrize("daemon", ["libvirtd", "virtqemud"])
def test_the_remedy_names_the_daemon_that_systemd_has(host: Host, daemon: str) -> None:
    folder = "/etc/systemd/system"
    host.machine.write(f"{folder}/{daemon}.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
    host.machine.run("systemctl", "daemon-reload")
    host.hypervisor.pause()
    try:
        hung = next(one for one in host.judged()["findings"] if one["code"] == "host-libvirt")
    finally:
        host.hypervisor.resume()
        host.machine.ok("rm", f"{folder}/{daemon}.service")
        host.machine.ok("systemctl", "daemon-reload")
        host.mended()
    is_masked = daemon == "libvirtd"  # as it is in this machine, whatever lies in its folders
    expected = "systemctl list-unit-files" if is_masked else f"systemctl restart {daemon}.service"
    assert expected in hung["remedy"], hung


def test_another_network_within_that_of_the_bridge_is_no_fault(host: Host, tmp_path: Path) -> None:
    """As one of libvirt's own may lie in it: no guest of the bridge has an address there, and all are answered."""
    knob = ["tee", "/proc/sys/net/ipv4/conf/br0/rp_filter"]
    with ExitStack() as undo:
        host.bridge.host.ip("link add away type bridge", "link set away up", "route add 10.88.0.128/25 dev away")
        undo.callback(host.bridge.host.ip, "link del away")
        host.bridge.host.run(knob, input="1")
        undo.callback(host.bridge.host.run, knob, input="0")
        assert host.ask(tmp_path, None, "-t", "15") == 0
        found = host.judged()
    assert found["worst"] == "note" and "host-route-astray" in [one["code"] for one in found["findings"]]
    assert "host-rp-filter" in found["passed"]


def test_failure_for_an_answer_is_no_answer(host: Host) -> None:
    host.hypervisor.terminate()
    try:
        found = host.judged("--only", "host-unanswered")
        everything = host.judged()
    finally:
        host.hypervisor.start()
    [fault] = found["findings"]
    assert fault["severity"] == "error" and "libvirt" in fault["evidence"]
    errors = [one["code"] for one in everything["findings"] if one["severity"] == "error"]
    assert errors == ["host-libvirt", "host-unanswered"]


def test_a_guest_that_has_its_answers_again_is_not_told(host: Host, tmp_path: Path) -> None:
    with ExitStack() as undo:
        callback_refused(host, undo, tmp_path)
        told = next(one for one in host.judged()["findings"] if one["code"] == "host-callback")
    assert "Connect call failed" not in told["evidence"] and "No route to host" in told["evidence"]
    assert host.ask(tmp_path, None, "-t", "15") == 0
    assert "host-callback" in host.judged()["passed"]


def test_a_daemon_that_hangs_is_not_said_to_be_mended(host: Host) -> None:
    pid = host.machine.property("MainPID")
    host.machine.ok("kill", f"-{signal.SIGSTOP.value}", pid)
    try:
        done = host.check("--fix", "--yes", "--only", "host-daemon")
    finally:
        host.machine.ok("kill", f"-{signal.SIGCONT.value}", pid)
        host.mended()
    assert f"process {pid} runs and does not answer" in done.stdout and "systemctl restart" in done.stdout
    assert done.exit == 1 and ": done" not in done.stderr


def test_after_all_that_the_host_is_green_again(host: Host) -> None:
    found = host.judged("--skip", "host-callback", "--skip", "host-rejected")
    assert [one["code"] for one in found["findings"] if one["severity"] != "note"] == []


def test_two_mistakes_are_both_found(host: Host, tmp_path: Path) -> None:
    try:
        with ExitStack() as undo:
            nft_drops(host, undo, tmp_path)
            key_replaced(host, undo, tmp_path)
            codes = [one["code"] for one in host.judged()["findings"] if one["severity"] == "error"]
    finally:
        host.mended()
    assert {"host-firewall", "host-key-stale"} <= set(codes)


# Mending


def test_nothing_is_mended_unasked(host: Host) -> None:
    host.machine.ok("systemctl", "disable", "vmfence")
    try:
        done = host.check("--fix")
        assert done.exit == 2 and "say that you mean it with --yes" in done.stderr
        assert host.machine.property("UnitFileState") == "disabled"
    finally:
        host.mended()


def test_safe_remedies_are_carried_out_and_the_rest_is_left(host: Host) -> None:
    host.machine.ok("systemctl", "disable", "--now", "vmfence")
    host.machine.path(KEY).chmod(0o644)
    host.hypervisor.define("n" * 64, bridge="br0")
    try:
        done = host.check("--fix", "--yes")  # the key first: a daemon is not started with one like that
        again = host.check("--fix", "--yes", "--json")
    finally:
        host.hypervisor.undefine("n" * 64)
        state, mode = host.machine.property("UnitFileState"), host.machine.path(KEY).stat().st_mode & 0o777
        host.mended()
    assert f"chmod 0600 {KEY}: done" in done.stderr and "systemctl enable vmfence.service: done" in done.stderr
    left = done.stderr.partition("left to you, since it takes a decision:")[2]
    assert "host-daemon: " in left and "host-name-long: " in left
    assert "systemctl start vmfence.service: done" in again.stderr
    found = json.loads(again.stdout)
    assert again.exit == 0 and [one["code"] for one in found["findings"] if one["severity"] != "note"] == [
        "host-name-long"
    ]
    assert (state, mode) == ("enabled", 0o600)
