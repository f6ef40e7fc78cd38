"""Real guests of a real libvirtd, fenced by all three pairings of which at least one side is ours.

Judged by libvirt alone: state and domain id, which every start changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import libvirt
import pytest

from interop.sides import ADDRESSES, ALPHA, GUESTS, OFF, ON, Client, Endpoint
from lab import wire
from lab.hypervisor import Hypervisor
from lab.net import BRIDGE, Bridge
from lab.ours import CommandLine, driver_uri, our_config
from lab.process import Daemon
from lab.reference import config_text, fence_virtd, write_key

pytestmark = pytest.mark.system
PAUSED = libvirt.VIR_DOMAIN_PAUSED
BOOTED = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)  # restored from an image is another reason
PORTS = {"ours": wire.PORT, "fence_virtd": wire.PORT + 1}
PAIRS = [("real fence_xvm", "ours"), ("our agent", "ours"), ("our agent", "fence_virtd")]
DISK = "<disk type='file'><source file='{}'/><target dev='vda' bus='virtio'/></disk>"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def endpoints(
    bridge: Bridge, hypervisor: Hypervisor, vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Endpoint]]:
    """Our daemon and fence_virtd, both on the same guests, by multicast."""
    folder = tmp_path_factory.mktemp("real")
    key = write_key(folder / "key")
    theirs = config_text("multicast", hypervisor.uri, key, interface=BRIDGE, port=PORTS["fence_virtd"])
    with ExitStack() as stack:
        daemons = {
            "ours": stack.enter_context(vmfence.daemon(_config(folder, hypervisor.uri, key), bridge.host)),
            "fence_virtd": stack.enter_context(fence_virtd(theirs, folder, bridge.host)),
        }
        yield {kind: _endpoint(bridge, kind, key, daemon) for kind, daemon in daemons.items()}


def _config(folder: Path, uri: str, key: Path, daemon: str = "", port: int = PORTS["ours"]) -> Path:
    listeners: dict[str, dict[str, object]] = {"multicast": {"interface": BRIDGE, "port": port}}
    return our_config(folder, uri, key, daemon=daemon, listeners=listeners)


def _endpoint(bridge: Bridge, kind: str, key: Path, daemon: Daemon) -> Endpoint:
    return Endpoint(bridge.host, "multicast", "ipv4", PORTS[kind], key, daemon=daemon)


@pytest.fixture
def our_endpoint(endpoints: dict[str, Endpoint]) -> Endpoint:
    return endpoints["ours"]


@pytest.fixture(params=PAIRS, ids=[" and ".join(pair).replace(" ", "-") for pair in PAIRS])
def ask(
    request: pytest.FixtureRequest, endpoints: dict[str, Endpoint], reference_client: Client, our_client: Client
) -> Callable[[str, str], int]:
    """Return what asks one pair's daemon by its client for an action on a guest, and returns the exit code."""
    client = reference_client if request.param[0].startswith("real") else our_client
    return lambda action, guest: client.ask(endpoints[request.param[1]], action, guest).exit


@pytest.fixture
def new_name(hypervisor: Hypervisor) -> Iterator[str]:
    """A name for a guest, which is removed afterwards whatever has become of it."""
    name = f"guest-{next(_numbers)}"
    yield name
    with hypervisor.connection() as connection, suppress(libvirt.libvirtError):
        domain = connection.lookupByName(name)
        with suppress(libvirt.libvirtError):
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


@pytest.fixture
def guest(new_name: str, hypervisor: Hypervisor) -> str:
    """A guest that runs."""
    hypervisor.define(new_name, start=True)
    return new_name


@pytest.fixture
def transient(new_name: str, hypervisor: Hypervisor) -> str:
    """A guest that runs, whose definition is lost with its end, and was changed since its start."""
    hypervisor.create_transient(new_name)
    with hypervisor.connection() as connection:
        change = (libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, "changed", None, None, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        connection.lookupByName(new_name).setMetadata(*change)
    return new_name


def test_off(ask: Callable[[str, str], int], guest: str, hypervisor: Hypervisor) -> None:
    assert ask("off", guest) == 0
    assert hypervisor.state(guest)[0] == OFF
    assert hypervisor.domain_id(guest) == -1
    assert ask("status", guest) == 2
    assert ask("off", guest) == 0


def test_on(ask: Callable[[str, str], int], guest: str, hypervisor: Hypervisor) -> None:
    hypervisor.power_off(guest)
    assert ask("on", guest) == 0
    assert hypervisor.state(guest) == BOOTED
    before = hypervisor.domain_id(guest)
    assert ask("status", guest) == 0
    assert ask("on", guest) == 0
    assert hypervisor.domain_id(guest) == before


def test_reboot(ask: Callable[[str, str], int], guest: str, hypervisor: Hypervisor) -> None:
    before, process = hypervisor.domain_id(guest), hypervisor.pid_of(guest)
    assert ask("reboot", guest) == 0
    assert hypervisor.state(guest) == BOOTED
    assert hypervisor.domain_id(guest) > before
    assert hypervisor.pid_of(guest) != process


def test_only_the_named_guest_is_fenced(ask: Callable[[str, str], int], guest: str, hypervisor: Hypervisor) -> None:
    other = f"{guest}-other"
    identity = hypervisor.define(other, start=True)
    try:
        assert ask("off", identity) == 0
        assert not hypervisor.is_on(other)
        assert hypervisor.is_on(guest)
    finally:
        hypervisor.undefine(other)


@pytest.mark.parametrize("actions", [("reboot",), ("off", "on"), ("off", "reboot")])
def test_transient_guest_comes_back_from_its_last_xml(
    actions: tuple[str, ...], transient: str, our_endpoint: Endpoint, reference_client: Client, hypervisor: Hypervisor
) -> None:
    before = hypervisor.domain_id(transient)
    for action in actions:
        assert reference_client.ask(our_endpoint, action, transient).exit == 0
        assert (transient in hypervisor.names()) == (action != "off")
        # Once libvirt has forgotten it nobody knows whether it runs elsewhere: that is a failure, never "off".
        status = 1 if action == "off" else 0
        assert reference_client.ask(our_endpoint, "status", transient).exit == status
    assert hypervisor.state(transient) == BOOTED
    assert hypervisor.domain_id(transient) > before
    with hypervisor.connection() as connection:
        domain = connection.lookupByName(transient)
        assert domain.metadata(libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, None) == "changed"
        assert not domain.isPersistent()


def test_reboot_of_a_guest_that_is_off_starts_it(
    guest: str, our_endpoint: Endpoint, reference_client: Client, hypervisor: Hypervisor
) -> None:
    hypervisor.power_off(guest)
    assert reference_client.ask(our_endpoint, "reboot", guest).exit == 0
    assert hypervisor.state(guest) == BOOTED


def test_paused_guest_is_listed_as_off_for_old_callers(
    guest: str, endpoints: dict[str, Endpoint], reference_client: Client, our_client: Client, hypervisor: Hypervisor
) -> None:
    """Only state 1 is "on" in a list, whichever sides speak (D19); nothing is decided by that."""
    hypervisor.suspend(guest)
    for endpoint in endpoints.values():
        for client in (reference_client, our_client):
            listed = client.ask(endpoint, "list").stdout.splitlines()
            assert [line.split()[-1] for line in listed if line.split()[0] == guest] == ["off"]


def test_paused_guest_is_not_off_and_can_be_switched_off(
    guest: str, our_endpoint: Endpoint, reference_client: Client, hypervisor: Hypervisor
) -> None:
    hypervisor.suspend(guest)
    assert reference_client.ask(our_endpoint, "status", guest)[:2] == (0, "Status: ON\n")
    assert reference_client.ask(our_endpoint, "on", guest).exit == 1
    assert hypervisor.state(guest)[0] == PAUSED
    assert reference_client.ask(our_endpoint, "off", guest).exit == 0
    assert hypervisor.state(guest)[0] == OFF


def test_paused_guest_is_rebooted(
    guest: str, our_endpoint: Endpoint, reference_client: Client, hypervisor: Hypervisor
) -> None:
    hypervisor.suspend(guest)
    assert reference_client.ask(our_endpoint, "reboot", guest).exit == 0
    assert hypervisor.state(guest) == BOOTED


@pytest.mark.parametrize("action", ["on", "reboot"])
def test_saved_memory_is_not_resumed(
    action: str, guest: str, our_endpoint: Endpoint, reference_client: Client, hypervisor: Hypervisor
) -> None:
    with hypervisor.connection() as connection:
        connection.lookupByName(guest).managedSave()
        assert connection.lookupByName(guest).hasManagedSaveImage()
    assert reference_client.ask(our_endpoint, "status", guest).stdout == "Status: OFF\n"
    assert reference_client.ask(our_endpoint, action, guest).exit == 0
    assert hypervisor.state(guest) == BOOTED
    with hypervisor.connection() as connection:
        assert not connection.lookupByName(guest).hasManagedSaveImage()


def test_start_that_fails_after_off_is_success_and_an_error_in_the_log(
    new_name: str, our_endpoint: Endpoint, reference_client: Client, hypervisor: Hypervisor, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    hypervisor.define(new_name, start=True, devices=DISK.format(disk))
    disk.unlink()
    assert reference_client.ask(our_endpoint, "reboot", new_name).exit == 0
    assert hypervisor.state(new_name)[0] == OFF
    assert f"ERROR {new_name} is off and could not be started again" in our_endpoint.log
    assert reference_client.ask(our_endpoint, "on", new_name).exit == 1


def test_reset_keeps_the_guest_process(
    guest: str, bridge: Bridge, hypervisor: Hypervisor, vmfence: CommandLine, reference_client: Client, tmp_path: Path
) -> None:
    key, port = write_key(tmp_path / "key"), wire.PORT + 2
    config = _config(tmp_path, hypervisor.uri, key, 'reboot_method = "reset";', port)
    before, process = hypervisor.domain_id(guest), hypervisor.pid_of(guest)
    with vmfence.daemon(config, bridge.host) as daemon:
        endpoint = Endpoint(bridge.host, "multicast", "ipv4", port, key, daemon=daemon)
        assert reference_client.ask(endpoint, "reboot", guest)[:3] == (0, "", "")
        assert (hypervisor.domain_id(guest), hypervisor.pid_of(guest)) == (before, process)
        assert hypervisor.is_on(guest)
        assert f"action=reboot guest={guest} " in endpoint.log
        hypervisor.power_off(guest)
        assert reference_client.ask(endpoint, "reboot", guest).exit == 0
    assert hypervisor.state(guest) == BOOTED


@pytest.mark.parametrize("is_first", [True, False])
def test_several_hypervisors(
    is_first: bool,
    guest: str,
    bridge: Bridge,
    hypervisor: Hypervisor,
    vmfence: CommandLine,
    reference_client: Client,
    tmp_path: Path,
) -> None:
    """Also in the order in which the guest is unknown to the first of them."""
    uris = [hypervisor.uri, driver_uri(tmp_path, GUESTS)]
    first, second = uris if is_first else reversed(uris)
    key, port = write_key(tmp_path / "key"), wire.PORT + 3
    listeners: dict[str, dict[str, object]] = {"tcp": {"address": ADDRESSES["ipv4"], "port": port}}
    config = our_config(tmp_path, f'{first}"; uri1 = "{second}', key, listeners=listeners)
    with vmfence.daemon(config, bridge.host) as daemon:
        endpoint = Endpoint(bridge.host, "tcp", "ipv4", port, key, daemon=daemon)
        listed = [line.split()[0] for line in reference_client.ask(endpoint, "list").stdout.splitlines()]
        assert {*GUESTS, guest} <= set(listed)
        assert listed == sorted(listed, key=str.lower)
        for name in (guest, ALPHA):
            assert reference_client.ask(endpoint, "off", name).exit == 0
        assert not hypervisor.is_on(guest)
        assert endpoint.states()[ALPHA] == OFF
        for name in (guest, ALPHA):
            assert reference_client.ask(endpoint, "on", name).exit == 0
        assert hypervisor.is_on(guest)
        assert endpoint.states()[ALPHA] == ON
