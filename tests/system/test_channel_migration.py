"""The serial listener and a real QEMU guest that is migrated, live, to another libvirtd and back.

Both libvirtds are on this machine, each with its own folders; the memory travels through a unix socket.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from lab import wire
from lab.hypervisor import Hypervisor
from lab.migration import be_another_host
from lab.ours import CommandLine
from lab.rig import Rig, no_trace
from lab.waiting import wait_until

pytestmark = pytest.mark.system
PORT = "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.vmfence.0'/></channel>"
ALPHA, BETA = "11111111-2222-3333-4444-000000000001", "11111111-2222-3333-4444-000000000002"
RUNNING_MIGRATED = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED)
KEPT, FORGOTTEN = 0, libvirt.VIR_MIGRATE_UNDEFINE_SOURCE  # what becomes of the definition that stays behind


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Hypervisor]:
    """The libvirtd that our daemon watches, with two guests that have a channel."""
    with Hypervisor(tmp_path / "here") as made:
        be_another_host(made)
        made.define("alpha", ALPHA, start=True, devices=PORT)
        made.define("beta", BETA, start=True, devices=PORT)
        yield made


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Hypervisor]:
    """One that it knows nothing of."""
    with Hypervisor(tmp_path / "there") as made:
        be_another_host(made)
        yield made


def migrate(name: str, source: Hypervisor, target: Hypervisor, left_behind: int = KEPT) -> None:
    """Migrate a running guest, live; it runs at *target* when this returns."""
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
    way = {libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{target.run_folder}/migration"}
    with source.connection() as connection:
        connection.lookupByName(name).migrateToURI3(target.uri, way, flags | libvirt.VIR_MIGRATE_UNSAFE | left_behind)
    assert target.state(name) == RUNNING_MIGRATED


def is_held(hypervisor: Hypervisor, name: str) -> bool:
    """Tell whether QEMU says that somebody is connected to a guest's channel."""
    with hypervisor.connection() as connection:
        domain = connection.lookupByName(name)
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-chardev"}', 0))
    filename = next(each["filename"] for each in answer["return"] if each["label"] == "charchannel0")
    return "disconnected" not in filename


def wait_connected(vmfence: CommandLine, rig: Rig, number: int) -> None:
    """Wait until the daemon says that it knows *number* channels and is connected to all."""

    def where() -> list[str]:
        done = vmfence.run("host", "status", "-s", str(rig.folder / "control"), "--json")
        return [each["where"] for each in json.loads(done.stdout)["listeners"]]

    text = f"({number} of {number} connected)"
    wait_until(lambda: any(text in each for each in where()), 30, text)


@pytest.mark.parametrize(
    ("left_behind", "answer"),
    [
        pytest.param(KEPT, wire.FAILED, id="kept"),
        pytest.param(FORGOTTEN, wire.DENIED, id="forgotten"),  # a guest that is unknown is in nobody's group
    ],
)
def test_a_guest_that_is_migrated_away_and_back_while_its_channel_is_open(
    vmfence: CommandLine, here: Hypervisor, there: Hypervisor, tmp_path: Path, left_behind: int, answer: int
) -> None:
    # The paths that libvirtd chooses by itself exist where it sees its folders.
    prefix = ["nsenter", "--mount", "--target", (here.run_folder / "libvirtd.pid").read_text().strip()]
    rig = Rig(
        vmfence, tmp_path / "rig", uris=[here.uri], listeners={"serial": {"mode": "virtio"}}, prefix=prefix,
        groups=f'group {{ uuid = "{ALPHA}"; uuid = "{BETA}"; ip = "127.0.0.1"; }}',
    )  # fmt: skip
    with rig:
        wait_connected(vmfence, rig, 2)
        assert is_held(here, "alpha") and is_held(here, "beta")
        assert rig.ask(wire.STATUS, "alpha") == wire.DONE

        migrate("alpha", here, there, left_behind)
        wait_connected(vmfence, rig, 1)
        assert is_held(here, "beta") and not is_held(there, "alpha")
        assert rig.ask(wire.STATUS, "beta") == wire.DONE
        for request in (wire.STATUS, wire.OFF, wire.REBOOT, wire.ON):
            assert rig.ask(request, "alpha") == answer, request
        assert rig.fence("status", "alpha").exit not in (0, 2)  # neither on nor off
        assert there.state("alpha") == RUNNING_MIGRATED
        assert here.names() == (["alpha", "beta"] if left_behind == KEPT else ["beta"])
        assert left_behind == FORGOTTEN or not here.is_on("alpha")

        migrate("alpha", there, here)
        wait_connected(vmfence, rig, 2)
        assert is_held(here, "alpha") and is_held(here, "beta")
        assert rig.ask(wire.STATUS, "alpha") == rig.ask(wire.STATUS, "beta") == wire.DONE
        assert rig.daemon.running() and rig.told(" ready: ") == 1
        assert no_trace(rig.daemon.log()), rig.daemon.log()
