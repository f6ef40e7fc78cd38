"""``vmfence host setup`` as a new user runs it: on a machine with libvirt and two guests on a bridge.

Whether it worked is judged by the real fence_xvm on the bridge, by systemd and by libvirt, never by what setup says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import machine as lab_machine
from lab.hypervisor import Hypervisor
from lab.machine import Bare, Machine
from lab.net import Bridge
from lab.ours import READY, CommandLine, our_config
from lab.process import Daemon, Result, clean_environment, run_client
from lab.reference import FENCE_XVM, config_text, write_key
from lab.waiting import wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(bool(lab_machine.missing()), reason=f"missing: {', '.join(lab_machine.missing())}"),
]
GUESTS = ["vm-01", "vm-02"]
KEY, CONFIG, OLD_CONFIG = "/etc/cluster/fence_xvm.key", "/etc/vmfence.conf", "/etc/fence_virt.conf"
UNIT = "/etc/systemd/system/vmfence.service"
MINE = "/srv/mine.conf"
# Setup writes nowhere else.  Left out: what the check's request and a running daemon write themselves.
WATCHED = ("/etc", "/usr/lib/systemd", "/srv")

DESK = """<domain type="qemu"><name>desk</name><memory unit="MiB">32</memory>
<os><type arch="x86_64" machine="pc">hvm</type></os></domain>"""


class Host:
    """A machine with a bridge and guests, and the command line on it."""

    def __init__(self, machine: Bare, bridge: Bridge, folder: Path, vmfence: str) -> None:
        self.machine, self.bridge, self._folder, self._vmfence = machine, bridge, folder, vmfence

    def setup(self, *options: str) -> Result:
        """Run setup; what it writes into a pipe is plain text."""
        done = self.machine.run(self._vmfence, "host", "setup", *options)
        assert not re.search(r"[^\n -~]", done.stdout + done.stderr), "control characters in a pipe"
        assert "Traceback" not in done.stderr
        return done

    def report(self, *options: str) -> dict[str, Any]:
        """Run setup, which must succeed, and return what it says as JSON; steps by name."""
        done = self.setup("--json", *options)
        assert done.exit == 0, done
        found = json.loads(done.stdout)
        return {**found, "steps": {step["step"]: step for step in found["steps"]}}

    def seen(self, *options: str, guest: int = 0) -> list[str]:
        """Return the guests that the real fence_xvm lists, asked in a guest that has got the host's key."""
        key = self._folder / "key"
        write_key(key, self.machine.path(KEY).read_bytes())
        words = ["-o", "list", "-t", "4", "-k", str(key), *options]
        done = run_client(FENCE_XVM, words, netns=self.bridge.guests[guest])
        return [line.split()[0] for line in done.stdout.splitlines()] if done.exit == 0 else []

    def fence(self, action: str, name: str) -> int:
        """Run the real fence_xvm in a guest; return its exit code."""
        words = ["-o", action, "-H", name, "-t", "20", "-k", str(self._folder / "key")]
        return run_client(FENCE_XVM, words, netns=self.bridge.guests[0]).exit


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=2) as made:
        yield made


@pytest.fixture(scope="module")
def hypervisor(tmp_path_factory: pytest.TempPathFactory, bridge: Bridge) -> Iterator[Hypervisor]:
    with Hypervisor(tmp_path_factory.mktemp("libvirt"), bridge.host) as made:
        for name in GUESTS:
            made.define(name, bridge="br0", start=True)
        yield made


@pytest.fixture
def host(tmp_path: Path, bridge: Bridge, hypervisor: Hypervisor) -> Iterator[Host]:
    """A machine with systemd."""
    with Machine(tmp_path / "machine", bridge.host, hypervisor) as machine:
        machine.ok("systemctl", "disable", "fence_virtd")
        yield Host(machine, bridge, tmp_path, lab_machine.PROGRAM)


@pytest.fixture
def bare(tmp_path: Path, bridge: Bridge, hypervisor: Hypervisor) -> Iterator[Host]:
    """A machine without systemd."""
    with Bare(tmp_path / "machine", bridge.host, hypervisor) as machine:
        yield Host(machine, bridge, tmp_path, lab_machine.PROGRAM)


def test_a_new_host_serves_its_guests(host: Host) -> None:
    machine = host.machine
    done = host.setup()
    assert done.exit == 0, done
    assert "on br0" in done.stdout and "vm-01, vm-02" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "vmfence guest check"
    assert host.seen() == GUESTS and host.seen(guest=1) == GUESTS
    assert machine.property("ActiveState") == "active" and machine.property("UnitFileState") == "enabled"
    assert machine.path(KEY).stat().st_mode & 0o777 == 0o600 and machine.path(KEY).stat().st_size == 4096
    assert machine.path(CONFIG).stat().st_mode & 0o777 == 0o600


def test_a_second_run_changes_nothing_and_says_so(host: Host) -> None:
    host.report()
    before, pid = host.machine.tree(*WATCHED), host.machine.property("MainPID")
    again = host.report()
    assert not again["changed"]
    assert {step["state"] for step in again["steps"].values()} == {"chosen", "unchanged", "good"}
    assert "Nothing was changed" in host.setup().stdout
    assert (host.machine.tree(*WATCHED), host.machine.property("MainPID")) == (before, pid)


def test_dry_run_tells_and_changes_nothing(host: Host) -> None:
    before = host.machine.tree(*WATCHED, "/var/lib/vmfence", "/run/vmfence")
    told = host.report("--dry-run")
    assert not told["changed"]
    states = {name: step["state"] for name, step in told["steps"].items()}
    assert states["key"] == states["configuration"] == states["service"] == states["check"] == "would do"
    assert host.machine.tree(*WATCHED, "/var/lib/vmfence", "/run/vmfence") == before
    assert host.machine.property("LoadState") == "not-found"


def test_the_hardened_service_fences_and_remembers(host: Host, hypervisor: Hypervisor) -> None:
    host.report()
    host.seen()  # takes the key over
    assert host.fence("off", "vm-02") == 0 and not hypervisor.is_on("vm-02")
    assert host.fence("on", "vm-02") == 0 and hypervisor.is_on("vm-02")
    history = host.machine.ok(host._vmfence, "host", "history")
    assert [line.split()[2:5] for line in history.splitlines()] == [["off", "vm-02", "ok"], ["on", "vm-02", "ok"]]
    assert "listeners" in host.machine.ok(host._vmfence, "host", "status")


def test_the_service_reloads_restarts_and_stops(host: Host) -> None:
    host.report()
    machine = host.machine
    machine.ok("systemctl", "reload", "vmfence")
    assert host.seen() == GUESTS
    machine.ok("systemctl", "kill", "--kill-who=main", "--signal=KILL", "vmfence")
    wait_until(lambda: machine.property("NRestarts") == "1", what="a restart after its death")
    wait_until(lambda: machine.property("ActiveState") == "active", what="the daemon back")
    assert host.seen() == GUESTS
    machine.ok("systemctl", "stop", "vmfence")
    assert machine.property("Result") == "success" and host.seen("-t", "2") == []


def test_the_watchdog_ends_a_daemon_that_hangs(host: Host) -> None:
    host.report()
    drop_in = "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\nRestartSec=0\n"
    host.machine.write("/etc/systemd/system/vmfence.service.d/fast.conf", drop_in)
    host.machine.ok("systemctl", "daemon-reload")
    host.machine.ok("systemctl", "restart", "vmfence")
    host.machine.ok("kill", "-STOP", host.machine.property("MainPID"))
    wait_until(lambda: host.machine.property("NRestarts") == "1", 20, "a restart by the watchdog")
    wait_until(lambda: host.machine.property("ActiveState") == "active", 20, "the daemon back")
    assert host.seen() == GUESTS


def test_a_group_may_ask_for_the_status(host: Host) -> None:
    host.machine.ok("groupadd", "--system", "vmfence")
    host.report()
    status = [host._vmfence, "host", "status", "--json", "-f", CONFIG]
    host.machine.path(CONFIG).chmod(0o644)
    member = ["setpriv", "--reuid=nobody", "--regid=vmfence", "--clear-groups"]
    stranger = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    assert json.loads(host.machine.ok(*member, *status))["listeners"]
    assert host.machine.run(*stranger, *status).exit == 3


def old_configuration(host: Host, port: int = 1229) -> bytes:
    """Give the machine what fence_virtd would have; return its key."""
    key = os.urandom(64)
    host.machine.write(KEY, key)
    text = config_text("multicast", "qemu:///system", Path(KEY), interface="br0", port=port)
    host.machine.write(OLD_CONFIG, f"# ours since 2014\n{text}")
    return key


def test_an_old_configuration_is_taken_over_as_it_is(host: Host) -> None:
    key = old_configuration(host)
    before = host.machine.tree(OLD_CONFIG, KEY)
    steps = host.report()["steps"]
    assert steps["configuration"]["state"] == steps["key"]["state"] == "unchanged"
    assert OLD_CONFIG in steps["configuration"]["what"]
    assert host.machine.tree(OLD_CONFIG, KEY) == before and host.machine.path(KEY).read_bytes() == key
    assert not host.machine.path(CONFIG).exists()
    assert host.seen() == GUESTS


def test_a_running_fence_virtd_is_to_be_stopped_first(host: Host) -> None:
    old_configuration(host)
    host.machine.ok("systemctl", "enable", "--now", "fence_virtd")
    wait_until(lambda: host.seen() == GUESTS, what="fence_virtd")
    done = host.setup()
    assert done.exit == 1
    assert "stop it first: systemctl disable --now fence_virtd" in done.stderr
    assert re.search(r"^failed +fence_virtd ", done.stdout, re.MULTILINE)
    assert re.search(r"^not done +service ", done.stdout, re.MULTILINE)
    assert host.seen() == GUESTS  # by fence_virtd, as before
    host.machine.ok("systemctl", "disable", "--now", "fence_virtd")
    assert host.report()["steps"]["service"]["state"] == "done"
    assert host.seen() == GUESTS


def test_a_fence_virtd_of_the_next_boot_is_told(host: Host) -> None:
    host.machine.ok("systemctl", "enable", "fence_virtd")
    step = host.report()["steps"]["fence_virtd"]
    assert step["state"] == "by hand" and step["commands"] == ["systemctl disable --now fence_virtd"]


def test_a_full_disk_stops_it_and_it_resumes(host: Host) -> None:
    host.machine.ok("mkdir", "-m", "0700", "/etc/cluster")
    host.machine.ok("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/etc/cluster")
    host.machine.write("/etc/cluster/full", bytes(4096))
    done = host.setup()
    assert done.exit == 1
    assert f"error: cannot make the key {KEY}. No space left on device." in done.stderr
    assert not re.search("^done", done.stdout, re.MULTILINE) and "not done  service" in done.stdout
    assert os.listdir(host.machine.path("/etc/cluster")) == ["full"]
    assert not host.machine.path(CONFIG).exists() and not host.machine.path(UNIT).exists()
    host.machine.path("/etc/cluster/full").unlink()
    assert host.report()["steps"]["key"]["state"] == "done"
    assert host.seen() == GUESTS


def test_a_read_only_folder_stops_it_and_it_resumes(host: Host) -> None:
    folder = os.path.dirname(UNIT)
    host.machine.ok("mount", "--bind", folder, folder)
    host.machine.ok("mount", "-o", "remount,bind,ro", folder)
    done = host.setup()
    assert done.exit == 3 and f"error: cannot write {UNIT}. Read-only file system" in done.stderr
    assert re.search("^done +key ", done.stdout, re.MULTILINE)
    assert re.search("^failed +service ", done.stdout, re.MULTILINE)
    key = host.machine.path(KEY).read_bytes()
    host.machine.ok("umount", folder)
    steps = host.report()["steps"]
    assert {name: steps[name]["state"] for name in ("key", "configuration", "service", "check")} == {
        **dict.fromkeys(("key", "configuration"), "unchanged"),
        "service": "done",
        "check": "good",
    }
    assert host.machine.path(KEY).read_bytes() == key and host.seen() == GUESTS


def test_a_daemon_that_does_not_start_is_reported_with_its_reason(host: Host) -> None:
    old_configuration(host)
    host.machine.write("/var/lib/vmfence", "a file where its folder should be")
    done = host.setup("--no-firewall")
    assert done.exit == 1 and "error: the service does not start. " in done.stderr
    host.machine.path("/var/lib/vmfence").unlink()
    assert host.report()["steps"]["check"]["state"] == "good"


def test_the_unit_fits_an_unusual_configuration(host: Host) -> None:
    old_configuration(host, port=500)
    config = host.machine.path(OLD_CONFIG)
    special = 'fence_virtd { state_dir = "/srv/fence state"; control_socket = "/srv/fence state/control";'
    host.machine.write("/srv/odd 100%.conf", config.read_text().replace("fence_virtd {", special))
    config.unlink()
    report = host.report("--config", "/srv/odd 100%.conf")
    assert report["next"] == ["vmfence guest check -p 500"]
    assert host.seen("-p", "500") == GUESTS
    assert (host.machine.path("/srv/fence state") / "signatures.sqlite").exists()
    assert not host.report("--config", "/srv/odd 100%.conf")["changed"]


def test_a_key_of_another_user_can_be_used(host: Host) -> None:
    old_configuration(host)
    host.machine.ok("chown", "nobody", KEY)
    step = host.report()["steps"]["key"]
    assert step["notes"] and "chown root" in step["notes"][0]
    assert host.seen() == GUESTS


def test_a_packaged_unit_is_left_alone(host: Host) -> None:
    shipped = Path(lab_machine.PROJECT / "contrib/systemd/vmfence.service").read_text()
    host.machine.write("/usr/lib/systemd/system/vmfence.service", shipped, 0o644)
    host.machine.ok("ln", "-s", host._vmfence, "/usr/bin/vmfence")
    host.machine.ok("systemctl", "daemon-reload")
    assert host.report()["steps"]["service"]["state"] == "done"
    assert host.machine.property("FragmentPath").endswith("/lib/systemd/system/vmfence.service")
    assert host.seen() == GUESTS


def test_the_guests_of_a_users_session_are_found_and_served(tmp_path: Path, bridge: Bridge) -> None:
    """libvirt of a user, whose folder is closed even to a root without rights: the unit gets the one it needs."""
    with (
        Hypervisor(tmp_path / "libvirt", bridge.host) as empty,
        Machine(tmp_path / "machine", bridge.host, empty) as machine,
    ):
        machine.ok("systemctl", "disable", "fence_virtd")
        machine.ok("useradd", "--create-home", "alice")
        folder = f"/run/user/{machine.ok('id', '-u', 'alice').strip()}"
        machine.ok("install", "-d", "-m", "0700", "-o", "alice", folder)
        machine.ok(
            "systemd-run", "--uid=alice", "-E", "HOME=/home/alice", "-E", f"XDG_RUNTIME_DIR={folder}", "libvirtd"
        )
        uri = f"qemu+unix:///session?socket={folder}/libvirt/libvirt-sock"
        wait_until(lambda: machine.run("virsh", "-c", uri, "version").exit == 0, what="the user's libvirt")
        machine.write("/run/desk.xml", DESK)
        machine.ok("virsh", "-c", uri, "define", "/run/desk.xml")
        host = Host(machine, bridge, tmp_path, lab_machine.PROGRAM)
        refused = host.setup()  # she may have guests of any kind; who wants them fenced says so
        assert refused.exit == 1 and f"to serve them give --uri '{uri}'" in refused.stderr
        report = host.report("--uri", uri)
    assert report["steps"]["libvirt"]["what"].startswith(f"{uri}: QEMU")
    assert "answers with 1 guest" in report["steps"]["check"]["what"]
    assert report["next"] == ["vmfence guest check -T 10.0.2.2"]


def test_a_user_is_not_permitted(host: Host) -> None:
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", host._vmfence, "host", "setup"]
    done = host.machine.run(*user)
    assert done.exit == 3 and done.stderr.startswith("error: ")


def test_without_systemd_it_says_what_to_do_instead(bare: Host, tmp_path: Path) -> None:
    steps = bare.report()["steps"]
    assert steps["service"]["state"] == "by hand" and steps["key"]["state"] == "done"
    assert "is free for the daemon" in steps["check"]["what"]
    [command] = steps["service"]["commands"]
    with Daemon([*bare.machine.prefix, *shlex.split(command)], tmp_path / "daemon.log") as daemon:
        daemon.wait_for_line(READY)
        assert bare.seen() == GUESTS
        before = bare.machine.tree(*WATCHED)
        again = bare.report()
        assert not again["changed"] and "answers with 2 guests" in again["steps"]["check"]["what"]
        assert bare.machine.tree(*WATCHED) == before


def test_every_step_can_be_chosen(bare: Host) -> None:
    options = ["--key-file", "/etc/own.key", "--config", "/etc/own.conf", "--listener", "tcp", "--interface", "br0"]
    options += ["--uri", "qemu:///system", "--no-firewall", "--no-service", "--no-check", "--yes"]
    report = bare.report(*options)
    assert {name: step["state"] for name, step in report["steps"].items()} == {
        **dict.fromkeys(("libvirt", "listener"), "chosen"),
        **dict.fromkeys(("key", "configuration"), "done"),
        **dict.fromkeys(("firewall", "service", "check"), "left out"),
    }
    assert report["next"] == ["vmfence guest check -T 10.88.0.1 -k /etc/own.key"]
    assert not bare.machine.path(CONFIG).exists() and bare.machine.path("/etc/own.key").exists()
    refused = bare.setup("--config", "/etc/own.conf", "--listener", "multicast")
    assert refused.exit == 2 and "--listener contradicts /etc/own.conf" in refused.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--uri", "qemu+unix:///system?socket=/nowhere"], 4, "cannot connect to libvirt"),
        (["--interface", "br9"], 1, "this host has no interface br9. did you mean 'br0'?"),
        (["--interface", "veth11"], 1, "veth11 is a port of br0"),
        (["--listener", "smoke"], 2, "smoke"),
        (["--config", "/nowhere/own.conf", "--no-service"], 1, "/nowhere"),
    ],
)
def test_bad_options(bare: Host, options: list[str], code: int, said: str) -> None:
    done = bare.setup(*options)
    assert done.exit == code and said in done.stderr, done
    assert done.stderr.startswith("error: ")


def test_an_interface_of_the_configuration_that_is_not_there_is_told(bare: Host) -> None:
    """As with the fence_virt.conf of Debian's package, which nobody has touched."""
    text = config_text("multicast", "qemu:///system", Path(KEY), interface="virbr0")
    bare.machine.write(OLD_CONFIG, text)
    done = bare.setup()
    assert done.exit == 1 and not bare.machine.path(KEY).exists()
    assert f"error: {OLD_CONFIG}:2: this host has no interface virbr0." in done.stderr
    assert "vmfence host configure" in done.stderr


def test_a_wrong_configuration_is_told_line_by_line(bare: Host) -> None:
    text = 'fence_virtd { listener = "multicast"; bakend = "libvirt"; }\nlisteners { multicst { } }\n'
    bare.machine.write(OLD_CONFIG, text)
    done = bare.setup()
    assert done.exit == 1 and not done.stdout
    assert f"{OLD_CONFIG}:1: unknown key 'bakend'" in done.stderr and f"{OLD_CONFIG}:2: " in done.stderr


@pytest.mark.parametrize("program", ["nft", "iptables"])
def test_rules_of_others_are_told_and_not_touched(bare: Host, program: str, tmp_path: Path) -> None:
    """Judged in the network of the machine: packets are dropped before, and pass once the lines are typed."""
    close = {
        "nft": """nft add table inet guard
            nft add chain inet guard in '{ type filter hook input priority 0; policy drop; }'
            nft add rule inet guard in ct state established accept
            nft add rule inet guard in iif lo accept""",
        "iptables": """iptables -P INPUT DROP
            iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
            iptables -A INPUT -i lo -j ACCEPT""",
    }[program]
    machine = bare.machine
    machine.ok("sh", "-c", close)
    try:
        rules = machine.ok("nft", "list", "ruleset")
        step = bare.report()["steps"]["firewall"]
        assert step["state"] == "by hand" and all(line.startswith(f"{program} ") for line in step["commands"])
        assert machine.ok("nft", "list", "ruleset") == rules
        with Daemon([*machine.prefix, bare._vmfence, "host", "daemon"], tmp_path / "daemon.log") as daemon:
            daemon.wait_for_line(READY)
            assert bare.seen("-t", "2") == []
            done = bare.setup()
            assert done.exit == 1 and "do by hand what step firewall says" in done.stderr
            for line in step["commands"]:
                machine.ok(*shlex.split(line))
            assert bare.seen() == GUESTS
            assert bare.report()["steps"]["firewall"]["state"] == "unchanged"
    finally:
        machine.ok("sh", "-c", "nft flush ruleset; iptables -P INPUT ACCEPT; iptables -F")


def test_progress_is_for_terminals(bare: Host) -> None:
    main, side = os.openpty()
    argv = [*bare.machine.prefix, bare._vmfence, "host", "setup", "--dry-run"]
    with os.fdopen(side, "wb") as terminal:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=terminal, env=clean_environment(), check=True)
    shown = os.read(main, 65536)
    os.close(main)
    assert b"asking libvirt ..." in shown and b"\x1b[K" in shown
    assert b"\x1b" not in done.stdout


def test_an_interrupt_leaves_no_half_files(bare: Host, hypervisor: Hypervisor) -> None:
    hypervisor.pause()
    try:
        argv = [*bare.machine.prefix, bare._vmfence, "host", "setup"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, env=clean_environment(), text=True) as running:
            wait_until(
                lambda: Path(f"/proc/{running.pid}/wchan").exists() and _has_thread(running.pid), what="the survey"
            )
            running.send_signal(signal.SIGINT)
            assert running.stderr is not None and running.stderr.read().strip() == "error: interrupted."
        assert running.returncode == 1
    finally:
        hypervisor.resume()
    assert not bare.machine.path("/etc/cluster").exists() and not bare.machine.path(CONFIG).exists()


def test_an_interrupt_tells_what_was_done_and_what_was_not(host: Host) -> None:
    """Ctrl-C while systemd waits for the daemon, which is held up before it starts."""
    slow = "[Service]\nExecStartPre=+/bin/sh -c 'mkfifo /run/held; read line < /run/held'\n"
    host.machine.write("/etc/systemd/system/vmfence.service.d/slow.conf", slow)
    argv = [*host.machine.prefix, host._vmfence, "host", "setup"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, env=clean_environment(), text=True, **output) as running:  # type: ignore[call-overload]
        wait_until(lambda: host.machine.path("/run/held").exists(), what="the start of the service")
        host.machine.ok("kill", "-INT", *host.machine.ok("pgrep", "-f", f"{host._vmfence} host setup").split())
        said, error = running.communicate(timeout=30)
    assert running.returncode == 1 and error.strip() == "error: interrupted."
    found = re.findall(r"^(done|failed|not done) +(\w+) ", said, re.MULTILINE)
    assert {name: state for state, name in found} == {
        **dict.fromkeys(("key", "configuration"), "done"),
        "service": "failed",
        "check": "not done",
    }
    assert "interrupted: it may be done" in said and "Stopped." in said
    assert "is set up" not in said and "fence_xvm" not in said.splitlines()[-1]
    host.machine.path("/etc/systemd/system/vmfence.service.d/slow.conf").unlink()
    host.machine.ok("systemctl", "daemon-reload")
    steps = host.report()["steps"]
    assert steps["service"]["state"] == "done" and steps["check"]["state"] == "good"
    assert host.seen() == GUESTS


def test_the_answer_of_another_host_is_not_taken_for_ours(bare: Host, tmp_path: Path) -> None:
    """A second daemon with our key and other guests answers at our address, and none of ours runs."""
    bare.report()
    text = config_text("multicast", "test:///default", Path(KEY), interface="br0")
    folders = 'fence_virtd { state_dir = "/srv/state"; control_socket = "/srv/control";'
    bare.machine.write("/srv/other.conf", text.replace("fence_virtd {", folders, 1))
    argv = [*bare.machine.prefix, bare._vmfence, "host", "daemon", "--config", "/srv/other.conf"]
    with Daemon(argv, tmp_path / "daemon.log") as daemon:
        daemon.wait_for_line(READY)
        done = bare.setup()
    assert done.exit == 1 and "another host answered at multicast" in done.stderr
    assert "not of this host: test" in done.stderr and "is set up" not in done.stdout


def test_an_accept_behind_a_reject_opens_nothing(bare: Host) -> None:
    """Judged by the real nft and iptables of the machine."""
    machine = bare.machine
    guard = "nft add table inet guard; nft add chain inet guard in '{ type filter hook input priority 0; }'"
    late = {
        "nft": f"{guard}; nft add rule inet guard in iifname br0 reject;"
        "nft add rule inet guard in udp dport 1229 accept",
        "iptables": "iptables -A INPUT -i br0 -j REJECT; iptables -A INPUT -p udp --dport 1229 -j ACCEPT",
    }
    first = {
        "nft": f"{guard}; nft add rule inet guard in ct state vmap '{{ established : accept, invalid : drop }}';"
        "nft add rule inet guard in ip daddr 225.0.0.12 udp dport '{ 53, 1229 }' counter accept;"
        "nft add rule inet guard in ip protocol igmp accept;"
        "nft add rule inet guard in iifname != lo reject",
        "iptables": "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP;"
        "iptables -A INPUT -i br+ -p udp -m multiport --dports 53,1229 -m comment --comment 'a b' -j ACCEPT;"
        "iptables -A INPUT -p igmp -j ACCEPT; iptables -A INPUT ! -i lo -j REJECT",
    }
    for rules, expected in ((late, "by hand"), (first, "unchanged")):
        for program, commands in rules.items():
            machine.ok("sh", "-c", commands)
            step = bare.report("--no-check", "--no-service")["steps"]["firewall"]
            machine.ok("sh", "-c", "nft flush ruleset; iptables -F; iptables -X")
            assert step["state"] == expected, (program, step)


def test_rules_that_cannot_be_read_are_no_proof(bare: Host) -> None:
    bare.machine.write("/usr/local/sbin/nft", "#!/bin/sh\necho broken >&2; exit 1\n", 0o755)
    environment = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = [*bare.machine.prefix, bare._vmfence, "host", "setup", "--json", "--no-check", "--no-service"]
    done = subprocess.run(argv, capture_output=True, text=True, env={**clean_environment(), **environment}, check=True)
    step = next(step for step in json.loads(done.stdout)["steps"] if step["step"] == "firewall")
    assert step["state"] == "by hand" and step["notes"] == ["nft -j list ruleset failed. broken."]


def _has_thread(pid: int) -> bool:
    return len(os.listdir(f"/proc/{pid}/task")) > 1


# Where something is already: another configuration in service, another host, a rival.


def add_groups(host: Host, config: str, groups: str) -> None:
    host.machine.write(config, host.machine.path(config).read_text() + f"groups {{ {groups} }}\n")


def test_a_plain_setup_keeps_the_configuration_of_the_service(host: Host) -> None:
    """With its access rules, which the usual place knows nothing of."""
    host.report("--config", MINE)
    add_groups(host, MINE, f'group {{ ip = "{host.bridge.guests[0].ipv4}"; uuid = "vm-01"; }}')
    report = host.report("--config", MINE)
    assert report["steps"]["service"]["what"].startswith("restart") or report["changed"]
    assert (host.seen(), host.seen(guest=1)) == (["vm-01"], [])
    before = host.machine.tree("/etc", "/srv")
    again = host.report()
    assert not again["changed"] and MINE in again["steps"]["configuration"]["what"]
    assert host.machine.tree("/etc", "/srv") == before and not host.machine.path(CONFIG).exists()
    assert (host.seen(), host.seen(guest=1)) == (["vm-01"], [])
    host.machine.path(MINE).rename(host.machine.path("/srv/moved.conf"))
    done = host.setup()
    assert done.exit == 1 and f"the configuration of the service, {MINE}, is gone" in done.stderr
    assert not host.machine.path(CONFIG).exists()


def test_the_keys_of_groups_are_named_and_tried(host: Host) -> None:
    host.report()
    host.machine.write("/etc/cluster/a.key", os.urandom(64))
    groups = 'group { name = "A"; ip = "10.88.0.0/16"; key_file = "/etc/cluster/a.key"; uuid = "vm-01"; }'
    groups += ' group { name = "B"; ip = "10.88.0.0/16"; key_file = "/etc/cluster/bb.key"; uuid = "vm-02"; }'
    add_groups(host, CONFIG, groups)
    done = host.setup("--json")
    assert done.exit == 0, done
    found = json.loads(done.stdout)
    [made] = [step for step in found["steps"] if step["step"] == "key" and step["state"] == "done"]
    assert "bb.key" in made["what"] and "is the path right?" in made["notes"][0]
    check = found["steps"][-1]
    for key, shown in ((KEY, "0 guests"), ("/etc/cluster/a.key", "1 guest"), ("/etc/cluster/bb.key", "1 guest")):
        assert f"by {key} with {shown}" in check["what"]
    assert found["next"] == [f"vmfence guest check -k /etc/cluster/{name}.key" for name in ("a", "bb")]


@pytest.fixture
def other_host(host: Host, vmfence: CommandLine, tmp_path: Path) -> Iterator[None]:
    """Another host on the bridge, with the key of ours and a guest of its own; it knows no rules for us."""
    host.report()
    folder = tmp_path / "other"
    folder.mkdir()
    key = write_key(folder / "key", host.machine.path(KEY).read_bytes())
    listeners: dict[str, dict[str, object]] = {"multicast": {"interface": "eth0"}}
    config = our_config(folder, "test:///default", key, listeners=listeners)
    with vmfence.daemon(config, host.bridge.guests[1]):
        yield


def test_another_host_with_the_same_key_is_told_every_time(host: Host, other_host: None) -> None:
    for _ in range(5):
        check = host.report()["steps"]["check"]
        assert "answers with 2 guests" in check["what"]
        [note] = check["notes"]
        assert note.startswith(f"{host.bridge.guests[1].ipv4} answers too") and "test" in note
    config = host.machine.path(CONFIG).read_text()
    host.machine.write(CONFIG, config.replace("fence_virtd {", 'fence_virtd { unknown_guest = "ignore";'))
    check = host.report()["steps"]["check"]
    assert "answers with 2 guests" in check["what"] and not check["notes"]


def test_output_that_nobody_takes_stops_nothing(host: Host) -> None:
    machine = host.machine
    for where in ("| true; exit ${PIPESTATUS[0]}", ">/dev/full"):
        done = machine.run("bash", "-c", f"{host._vmfence} host setup {where}")
        assert done.exit == 1 and "error: not all output could be written." in done.stderr, done
        assert "all steps were carried out" in done.stderr and done.stderr.count("\n") == 1
        assert machine.property("ActiveState") == "active" and host.seen() == GUESTS
        machine.ok("systemctl", "stop", "vmfence")
        machine.ok("rm", CONFIG, KEY, UNIT)


def test_a_masked_service_is_told(host: Host) -> None:
    host.machine.ok("systemctl", "mask", "vmfence")
    done = host.setup()
    assert done.exit == 1 and "systemctl unmask vmfence.service" in done.stderr
    host.machine.ok("systemctl", "unmask", "vmfence")
    assert host.report()["steps"]["service"]["state"] == "done"


def test_a_fence_virtd_at_another_port_is_not_in_the_way(host: Host) -> None:
    key = "/etc/cluster/other.key"
    host.machine.write(key, os.urandom(64))
    text = config_text("multicast", "qemu:///system", Path(key), interface="br0", port=1300)
    host.machine.write("/srv/other.conf", text)
    host.machine.ok("systemd-run", "fence_virtd", "-F", "-f", "/srv/other.conf", "-p", "/run/other.pid")
    wait_until(lambda: host.machine.run("pgrep", "fence_virtd").exit == 0, what="fence_virtd")
    step = host.report()["steps"]["fence_virtd"]
    assert step["state"] == "unchanged" and step["notes"]
    assert host.seen() == GUESTS


def test_a_dry_run_sees_that_no_configuration_can_be_put_there(bare: Host) -> None:
    done = bare.setup("--dry-run", "--no-service", "--config", "/nowhere/own.conf")
    assert done.exit == 1 and "there is no folder /nowhere" in done.stderr


def drop_in(host: Host, config: str) -> None:
    """Have a drop-in name *config* to the service that setup has installed, as administrators do."""
    [command] = re.findall("^ExecStart=.*?(?= --config|$)", host.machine.path(UNIT).read_text(), re.MULTILINE)
    text = f"[Service]\nExecStart=\n{command} --config {config}\n"
    host.machine.write(f"{UNIT}.d/own.conf", text, 0o644)
    host.machine.ok("systemctl", "daemon-reload")


def running_config(host: Host) -> str:
    words = (host._vmfence, "host", "status", "--json", "--socket", "/run/vmfence/control")
    return str(json.loads(host.machine.ok(*words))["config"])


@pytest.mark.parametrize("is_running", [True, False])
def test_the_configuration_that_a_drop_in_names_is_kept(host: Host, is_running: bool) -> None:
    host.report()
    host.machine.write(MINE, host.machine.path(CONFIG).read_text())
    add_groups(host, MINE, f'group {{ ip = "{host.bridge.guests[0].ipv4}"; uuid = "vm-01"; }}')
    drop_in(host, MINE)
    host.machine.ok("systemctl", "restart" if is_running else "stop", "vmfence")
    report = host.report()
    assert MINE in report["steps"]["configuration"]["what"] and running_config(host) == MINE
    assert (host.seen(), host.seen(guest=1)) == (["vm-01"], [])
    assert "nothing is proved for guests" in report["steps"]["check"]["notes"][0]
    for command in ("list", "history", "status", "check"):
        assert f"note: configuration {MINE}: " in host.machine.run(host._vmfence, "host", command).stderr
    assert not host.report()["changed"]
    done = host.setup("--config", CONFIG)
    assert done.exit == 1 and f"{UNIT}.d/own.conf names {MINE}, not {CONFIG}" in done.stderr
    assert running_config(host) == MINE


def test_rules_that_the_unit_names_are_not_discarded_for_an_earlier_file(host: Host) -> None:
    """Both are usual places, of which the daemon would take the other one if the unit did not name this."""
    host.report()
    host.machine.write(OLD_CONFIG, host.machine.path(CONFIG).read_text())
    add_groups(host, OLD_CONFIG, f'group {{ ip = "{host.bridge.guests[0].ipv4}"; uuid = "vm-01"; }}')
    asked = host.setup("--config", OLD_CONFIG)
    assert asked.exit == 0 and running_config(host) == OLD_CONFIG
    assert not host.report()["changed"] and running_config(host) == OLD_CONFIG
    assert (host.seen(), host.seen(guest=1)) == (["vm-01"], [])
    drop_in(host, CONFIG)
    before = host.machine.tree("/etc")
    done = host.setup()
    assert done.exit == 1 and f"the daemon that runs has {OLD_CONFIG}, the next start" in done.stderr
    assert "--config" in done.stderr and host.machine.tree("/etc") == before


def test_a_stranger_at_the_port_is_told_at_once(host: Host) -> None:
    script = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 1229))"
    host.machine.ok("systemd-run", "--unit=stranger", "python3", "-c", f"{script}; time.sleep(600)")
    wait_until(lambda: ":04CD " in host.machine.ok("cat", "/proc/net/udp"), what="the stranger")
    done = host.setup()
    assert done.exit == 1 and re.search(r"^failed +port ", done.stdout, re.MULTILINE)
    assert re.search(r"error: python3\S* \(\d+\) has UDP 0\.0\.0\.0 port 1229", done.stderr), done.stderr
    assert re.search(r"^not done +service ", done.stdout, re.MULTILINE)
    host.machine.ok("systemctl", "stop", "stranger")
    assert host.report()["steps"]["service"]["state"] == "done"


def test_a_configuration_in_tmp_is_refused_beforehand(host: Host) -> None:
    done = host.setup("--config", "/tmp/own.conf")
    assert done.exit == 1 and "error: the service cannot read /tmp/own.conf. " in done.stderr
    assert not done.stdout and not host.machine.path(KEY).exists() and not host.machine.path("/tmp/own.conf").exists()
