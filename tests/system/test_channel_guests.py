"""The serial listener and real QEMU guests: it follows them through all that libvirt lets them do.

The guests are empty and say nothing; that the daemon holds the right sockets is what it says itself, and what QEMU says
of its character devices.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt_qemu
import pytest

from lab.hypervisor import Hypervisor
from lab.ours import CommandLine
from lab.rig import Rig, no_trace
from lab.waiting import wait_until

pytestmark = pytest.mark.system
PORT = "<channel type='unix'><source mode='bind'/><target type='virtio' name='{name}'/></channel>"
LINE = "<serial type='unix'><source mode='bind' path='{path}'/><target port='1'/></serial>"
UUID = "11111111-2222-3333-4444-{:012}"


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    """A libvirtd that may be stopped."""
    with Hypervisor(tmp_path_factory.mktemp("libvirt")) as made:
        yield made


@pytest.fixture
def ours(libvirtd: Hypervisor) -> Iterator[Hypervisor]:
    """It, without guests."""
    yield libvirtd
    with libvirtd.connection() as connection:
        for domain in connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
        for domain in connection.listAllDomains():
            domain.undefine()


class Followed(Rig):
    """A daemon that serves the guests of *hypervisor* in *mode*."""

    def __init__(self, vmfence: CommandLine, folder: Path, hypervisor: Hypervisor, mode: str) -> None:
        rules = "group { " + " ".join(f'uuid = "{UUID.format(number)}";' for number in range(1, 9)) + " }"
        # The paths that libvirtd chooses by itself exist where it sees its folders.
        pid = (hypervisor.run_folder / "libvirtd.pid").read_text().strip()
        super().__init__(
            vmfence, folder, uris=[hypervisor.uri], groups=rules, listeners={"serial": {"mode": mode}},
            prefix=["nsenter", "--mount", "--target", pid],
        )  # fmt: skip
        self._hypervisor = hypervisor

    def __enter__(self) -> Followed:
        super().__enter__()
        return self

    def status(self) -> dict[str, Any]:
        shown = json.loads(self._programs.run("host", "status", "-s", str(self.folder / "control"), "--json").stdout)
        return dict(next(each for each in shown["listeners"] if "of guests" in each["where"]))

    def wait_connected(self, connected: int, known: int) -> None:
        text = f"({connected} of {known} connected)"
        wait_until(lambda: text in self.status()["where"], 30, text)

    def is_held(self, name: str, device: str) -> bool:
        """Tell whether QEMU says that somebody is connected to a guest's character device."""
        with self._hypervisor.connection() as connection:
            domain = connection.lookupByName(name)
            answer = libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-chardev"}', 0)
        devices = {each["label"]: each["filename"] for each in json.loads(answer)["return"]}
        return "disconnected" not in devices[f"char{device}"]


def serial(folder: Path, name: str) -> str:
    return LINE.format(path=folder / name)


@pytest.fixture
def sockets(ours: Hypervisor) -> Path:
    """A folder with a short name."""
    return ours.run_folder


def test_life_of_guests(vmfence: CommandLine, ours: Hypervisor, sockets: Path, tmp_path: Path) -> None:
    ours.define("alpha", UUID.format(1), start=True, devices=serial(sockets, "alpha"))
    with Followed(vmfence, tmp_path, ours, "serial") as rig:
        rig.wait_connected(1, 1)
        assert rig.is_held("alpha", "serial0")
        ours.define("beta", UUID.format(2), start=True, devices=serial(sockets, "beta"))
        rig.wait_connected(2, 2)
        ours.power_off("alpha")
        rig.wait_connected(1, 1)
        ours.power_on("alpha")
        rig.wait_connected(2, 2)
        ours.create_transient("gamma", UUID.format(3), devices=serial(sockets, "gamma"))
        rig.wait_connected(3, 3)
        ours.power_off("gamma")
        rig.wait_connected(2, 2)
        ours.define(
            "beta", UUID.format(2), devices=serial(sockets, "elsewhere")
        )  # redefined: holds from the next start
        ours.power_off("beta")
        ours.power_on("beta")
        rig.wait_connected(2, 2)
        assert rig.is_held("alpha", "serial0") and rig.is_held("beta", "serial0")
        assert no_trace(rig.daemon.log()), rig.daemon.log()


def test_a_guest_that_is_killed(vmfence: CommandLine, ours: Hypervisor, sockets: Path, tmp_path: Path) -> None:
    ours.define("alpha", UUID.format(1), start=True, devices=serial(sockets, "alpha"))
    with Followed(vmfence, tmp_path, ours, "serial") as rig:
        rig.wait_connected(1, 1)
        os.kill(ours.pid_of("alpha"), signal.SIGKILL)
        rig.wait_connected(0, 0)
        ours.power_on("alpha")
        rig.wait_connected(1, 1)


def test_virtio_ports_with_the_path_that_libvirt_chose(vmfence: CommandLine, ours: Hypervisor, tmp_path: Path) -> None:
    ours.define("alpha", UUID.format(1), start=True, devices=PORT.format(name="org.vmfence.0"))
    ours.define("beta", UUID.format(2), start=True, devices=PORT.format(name="org.qemu.guest_agent.0"))
    with Followed(vmfence, tmp_path, ours, "virtio") as rig:
        rig.wait_connected(1, 1)
        assert rig.is_held("alpha", "channel0")
        with ours.connection() as connection:
            domain = connection.lookupByName("beta")
            domain.attachDevice(PORT.format(name="org.vmfence.0"))
            rig.wait_connected(2, 2)
            assert rig.is_held("beta", "channel1")
            ports = re.findall("<channel .*?</channel>", domain.XMLDesc(0), re.DOTALL)
            domain.detachDevice(next(port for port in ports if "org.vmfence.0" in port))
            rig.wait_connected(1, 1)
        assert no_trace(rig.daemon.log()), rig.daemon.log()


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_libvirtd_ends_and_comes_back(
    vmfence: CommandLine, ours: Hypervisor, sockets: Path, tmp_path: Path, how: str
) -> None:
    """What changed meanwhile is found; the lines of the guests that stayed are never let go."""
    for number, name in enumerate(("alpha", "beta"), 1):
        ours.define(name, UUID.format(number), start=True, devices=serial(sockets, name))
    with Followed(vmfence, tmp_path, ours, "serial") as rig:
        rig.wait_connected(2, 2)
        if how == "kill":
            ours.kill()
        else:
            ours.terminate()
        rig.wait_told("no request can arrive at serial lines of guests (2 of 2 connected)")
        assert "has ended" in rig.status()["trouble"] or "cannot connect" in rig.status()["trouble"]
        ours.start()
        rig.wait_told("listening again: serial lines")
        assert rig.told("is there") == 2, rig.daemon.log()
        ours.power_off("beta")
        rig.wait_connected(1, 1)
        ours.power_on("beta")
        rig.wait_connected(2, 2)
        assert no_trace(rig.daemon.log()), rig.daemon.log()
