"""``vmfence host setup`` gives real QEMU guests their way to the host: a virtio port, a serial line.

Whether it did is judged by libvirt, and by the daemon, which connects to the sockets.  A vsock device needs a host with
vhost_vsock; what is told without is tested here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from lab.hypervisor import Hypervisor
from lab.ours import READY, CommandLine
from lab.process import Daemon, Result, run_client
from lab.waiting import wait_until

pytestmark = pytest.mark.system
CONTROLLER = "<controller type='virtio-serial'/>"
ROOM = 20.0
UUID = "11111111-2222-3333-4444-{:012}"


class Desk:
    """A host's command line, with libvirt's folders as the private libvirtd has them."""

    def __init__(self, vmfence: CommandLine, hypervisor: Hypervisor, folder: Path) -> None:
        self.vmfence, self.hypervisor, self.folder = vmfence, hypervisor, folder
        self.config = folder / "vmfence.conf"
        pid = (hypervisor.run_folder / "libvirtd.pid").read_text().strip()
        self.prefix = ["nsenter", "--mount", "--target", pid]

    def setup(self, *options: str, stdin: str | None = None) -> Result:
        words = ["host", "setup", "--no-firewall", "--no-service", "--no-check", "-f", str(self.config)]
        words += ["--uri", self.hypervisor.uri, *options]
        done = run_client([*self.prefix, self.vmfence.vmfence], words, stdin=stdin or "")
        assert "Traceback" not in done.stderr
        return done

    def steps(self, *options: str) -> dict[str, tuple[str, str]]:
        """Run setup as JSON, which must succeed; return state and text of the devices' steps by guest."""
        done = self.setup("--json", *options)
        assert done.exit == 0, done
        found = [step for step in json.loads(done.stdout)["steps"] if step["step"] in ("virtio", "serial", "vsock")]
        return {step["what"].partition(":")[0]: (step["state"], step["what"].partition(": ")[2]) for step in found}

    def daemon(self) -> Daemon:
        """Return a daemon with the configuration that was written; its state is the test's."""
        text = self.config.read_text()
        own = f'fence_virtd {{ state_dir = "{self.folder}/state"; control_socket = "{self.folder}/control";'
        self.config.write_text(text.replace("fence_virtd {", own, 1))
        argv = [*self.prefix, self.vmfence.vmfence, "host", "daemon", "-f", str(self.config)]
        return Daemon(argv, self.folder / "daemon.log")

    def where(self) -> str:
        """Return what the daemon says of its listener."""
        shown = self.vmfence.run("host", "status", "-s", str(self.folder / "control"), "--json")
        return str(json.loads(shown.stdout)["listeners"][0]["where"])

    def devices(self, name: str, kind: str, *, live: bool) -> list[str]:
        """Return the devices of that kind that a guest has."""
        with self.hypervisor.connection() as connection:
            flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
            return re.findall(f"<{kind} .*?</{kind}>", connection.lookupByName(name).XMLDesc(flags), re.DOTALL)


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    with Hypervisor(tmp_path_factory.mktemp("libvirt")) as made:
        yield made


@pytest.fixture
def desk(vmfence: CommandLine, libvirtd: Hypervisor, tmp_path: Path) -> Iterator[Desk]:
    """It with a running guest that can be given ports, one that cannot, and one that is off."""
    libvirtd.define("alpha", UUID.format(1), start=True, devices=CONTROLLER)
    libvirtd.define("bare", UUID.format(2), start=True)
    libvirtd.define("off", UUID.format(3))
    yield Desk(vmfence, libvirtd, tmp_path)
    with libvirtd.connection() as connection:
        for domain in connection.listAllDomains():
            persists = domain.isPersistent()
            if domain.isActive():
                domain.destroy()
            if persists:
                domain.undefine()


def test_virtio_ports_are_added_and_served(desk: Desk) -> None:
    found = desk.steps("--listener", "virtio", "--define", "--yes")
    assert found["alpha"] == ("done", "has a virtio port org.vmfence.0")
    assert found["off"] == ("done", "has a virtio port org.vmfence.0")
    state, text = found["bare"]
    assert state == "done" and "when it is shut off and started again" in text and "controllers" in text
    for name in ("alpha", "bare", "off"):
        (port,) = desk.devices(name, "channel", live=False)
        assert "org.vmfence.0" in port and "type='unix'" in port
    assert len(desk.devices("alpha", "channel", live=True)) == 1
    with desk.daemon() as daemon:
        daemon.wait_for_line(READY)
        wait_until(lambda: "(1 of 1 connected)" in desk.where(), ROOM, "the port of alpha")
        desk.hypervisor.power_off("bare")
        desk.hypervisor.power_on("bare")
        desk.hypervisor.power_on("off")
        wait_until(lambda: "(3 of 3 connected)" in desk.where(), ROOM, "all ports")
        with desk.hypervisor.connection() as connection:
            (port,) = desk.devices("alpha", "channel", live=True)
            connection.lookupByName("alpha").detachDevice(port)
        wait_until(lambda: "(2 of 2 connected)" in desk.where(), ROOM, "the port taken away")


def test_a_second_run_changes_nothing(desk: Desk) -> None:
    desk.steps("--listener", "virtio", "--define", "--yes")
    before = [desk.devices(name, "channel", live=False) for name in ("alpha", "bare", "off")]
    again = desk.setup("--listener", "virtio", "--define", "--yes", "--json")
    assert again.exit == 0 and json.loads(again.stdout)["changed"] is False
    states = {name: state for name, (state, _) in desk.steps().items()}
    assert states == {"alpha": "unchanged", "off": "unchanged", "bare": "by hand"}
    assert [desk.devices(name, "channel", live=False) for name in ("alpha", "bare", "off")] == before
    assert "virsh" in desk.setup().stdout and "shutdown --domain bare" in desk.setup().stdout
    desk.hypervisor.power_off("bare")
    desk.hypervisor.power_on("bare")
    assert desk.steps()["bare"][0] == "unchanged"


def test_what_was_taken_away_by_hand_is_added_again(desk: Desk) -> None:
    desk.steps("--listener", "virtio", "--define", "--yes")
    with desk.hypervisor.connection() as connection:
        (port,) = desk.devices("off", "channel", live=False)
        connection.lookupByName("off").detachDeviceFlags(port, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    assert desk.steps()["off"] == ("by hand", "add a virtio port org.vmfence.0")
    assert desk.steps("--define", "--yes")["off"][0] == "done"
    assert len(desk.devices("off", "channel", live=False)) == 1


def test_the_commands_that_are_told_do_it(desk: Desk) -> None:
    """Without --define no guest is changed; typed into a shell, what is told does what --define does."""
    done = desk.setup("--listener", "virtio", "--json")
    assert done.exit == 0, done
    steps = {step["what"].partition(":")[0]: step for step in json.loads(done.stdout)["steps"]}
    assert steps["alpha"]["state"] == "by hand" and not desk.devices("alpha", "channel", live=False)
    assert [command.split()[-1] for command in steps["alpha"]["commands"]] == ["--config", "--live"]
    for name in ("alpha", "off"):
        for command in steps[name]["commands"]:
            subprocess.run([*desk.prefix, "sh", "-c", command], check=True, capture_output=True)
    found = desk.steps()
    assert found["alpha"][0] == found["off"][0] == "unchanged" and found["bare"][0] == "by hand"


def test_dry_run_shows_the_device_and_changes_nothing(desk: Desk) -> None:
    done = desk.setup("--listener", "virtio", "--define", "--dry-run")
    assert done.exit == 0, done
    xml = '<channel type="unix"><source mode="bind"/><target type="virtio" name="org.vmfence.0"/></channel>'
    assert f"echo {shlex.quote(xml)} | virsh" in done.stdout
    assert not desk.config.exists() and not desk.devices("alpha", "channel", live=False)


def test_guests_are_changed_only_after_a_question(desk: Desk) -> None:
    done = desk.setup("--listener", "virtio", "--define")
    assert done.exit == 2 and "--yes" in done.stderr and "alpha: add a virtio port" in done.stderr
    assert not desk.config.exists() and not desk.devices("alpha", "channel", live=False)


def test_one_guest_alone(desk: Desk) -> None:
    assert set(desk.steps("--listener", "virtio", "--guest", "alpha", "--define", "--yes")) == {"alpha"}
    assert not desk.devices("off", "channel", live=False)
    text = desk.config.read_text()
    assert UUID.format(1) in text and UUID.format(3) not in text
    told = desk.setup().stdout
    assert "no group lets in by virtio port org.vmfence.0: bare, off" in told


def test_a_transient_guest(desk: Desk) -> None:
    desk.hypervisor.create_transient("brief", UUID.format(4), devices=CONTROLLER)
    done = desk.setup("--listener", "virtio", "--define", "--yes")
    assert done.exit == 0 and "gone when it ends" in done.stdout
    assert len(desk.devices("brief", "channel", live=True)) == 1


def test_a_guest_that_refuses_holds_up_no_other(desk: Desk) -> None:
    """It is told in the end; the others, and what comes after, are done."""
    desk.hypervisor.create_transient("brief", UUID.format(4))  # no controller, and no definition to add one to
    done = desk.setup("--listener", "virtio", "--define", "--yes")
    assert done.exit == 1 and "libvirt refused a device for brief" in done.stderr
    assert len(desk.devices("off", "channel", live=False)) == 1 and desk.config.exists()


def test_a_port_of_another_kind_is_left_alone(desk: Desk) -> None:
    other = "<channel type='pty'><target type='virtio' name='org.vmfence.0'/></channel>"
    desk.hypervisor.define("taken", UUID.format(5), devices=other)
    state, text = desk.steps("--listener", "virtio", "--define", "--yes")["taken"]
    assert state == "by hand" and "remove it first" in text
    assert len(desk.devices("taken", "channel", live=False)) == 1


def test_serial_lines_are_there_at_the_next_start(desk: Desk) -> None:
    found = desk.steps("--listener", "serial", "--define", "--yes")
    assert found["off"] == ("done", "has a serial line")
    assert found["alpha"][0] == "done" and "shut off and started again" in found["alpha"][1]
    (line,) = desk.devices("alpha", "serial", live=False)
    assert "port='1'" in line
    with desk.daemon() as daemon:
        daemon.wait_for_line(READY)
        for name in ("alpha", "bare"):
            desk.hypervisor.power_off(name)
        for name in ("alpha", "bare", "off"):
            desk.hypervisor.power_on(name)
        wait_until(lambda: "(3 of 3 connected)" in desk.where(), ROOM, "all lines")
    assert {state for state, _ in desk.steps().values()} == {"unchanged"}


@pytest.mark.skipif(os.path.exists("/dev/vhost-vsock"), reason="this host has vhost_vsock, so nothing is refused")
def test_no_guest_gets_a_vsock_that_would_keep_it_from_starting(desk: Desk) -> None:
    done = desk.setup("--listener", "vsock", "--define", "--yes", "--key-file", str(desk.folder / "key"))
    assert done.exit == 0 and "modprobe vhost_vsock" in done.stdout, done
    assert not desk.devices("off", "vsock", live=False)
