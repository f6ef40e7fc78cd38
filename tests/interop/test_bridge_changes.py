"""The host's bridge comes, goes and changes under our running daemon; real fence_xvm must reach it all the same.

The kernel forgets a multicast membership together with its interface, and tells no socket.  Every test has a bridge of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Callable

import pytest

from interop.sides import ADDRESSES, ALPHA, FAMILIES, GUESTS, HASTE, OFF, ON, REFERENCE, TRANSPORTS, Client, Endpoint
from lab import wire
from lab.net import BRIDGE, Bridge
from lab.ours import READY, CommandLine, driver_uri, our_config
from lab.process import Daemon
from lab.reference import write_key

pytestmark = pytest.mark.system
# Whoever was sent nothing sends again soon: that the daemon needs a moment to hear of its interface is no failure.
PATIENCE = {"timeout": 20, "retrans": 5}


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    """A bridge to be broken."""
    with Bridge(guests=1) as made:
        yield made


@pytest.fixture
def client(bridge: Bridge) -> Client:
    return Client(REFERENCE, bridge.guests[0])


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a configuration for both transports of a family."""
    key = write_key(tmp_path / "key")

    def write(family: str = "ipv4", interface: str = BRIDGE) -> Path:
        listeners: dict[str, dict[str, object]] = {
            "multicast": {"family": family, "interface": interface},
            "tcp": {"family": family, "address": ADDRESSES[family]},
        }
        return our_config(tmp_path, driver_uri(tmp_path, GUESTS), key, listeners=listeners)

    return write


@pytest.fixture
def start(
    bridge: Bridge, config: Callable[..., Path], vmfence: CommandLine
) -> Callable[..., AbstractContextManager[Daemon]]:
    """Return what runs our daemon for a family; further arguments are options and what to wait for."""
    return lambda family, options=(), ready=READY: vmfence.daemon(config(family), bridge.host, options, ready)


def check_service(bridge: Bridge, daemon: Daemon, family: str, client: Client, key: Path) -> None:
    """Check that real clients reach *daemon* over both transports, and that their requests are carried out."""
    for transport in TRANSPORTS:
        endpoint = Endpoint(bridge.host, transport, family, wire.PORT, key, daemon=daemon)
        for action, state in (("off", OFF), ("on", ON)):
            assert client.ask(endpoint, action, ALPHA, **PATIENCE).exit == 0, daemon.log()
            assert endpoint.states()[ALPHA] == state
    assert daemon.running()


def test_bridge_is_deleted_and_made_again(
    bridge: Bridge, family: str, client: Client, start: Callable[..., AbstractContextManager[Daemon]], tmp_path: Path
) -> None:
    with start(family) as daemon:
        check_service(bridge, daemon, family, client, tmp_path / "key")
        bridge.delete()
        daemon.wait_for_line("ERROR ")
        bridge.create()
        check_service(bridge, daemon, family, client, tmp_path / "key")


def test_bridge_is_replaced_at_once(
    bridge: Bridge, family: str, client: Client, start: Callable[..., AbstractContextManager[Daemon]], tmp_path: Path
) -> None:
    """Several times, without waiting for the daemon to notice."""
    with start(family) as daemon:
        for _ in range(3):
            bridge.delete()
            bridge.create()
        check_service(bridge, daemon, family, client, tmp_path / "key")


def test_bridge_goes_down_and_up(
    bridge: Bridge, family: str, client: Client, start: Callable[..., AbstractContextManager[Daemon]], tmp_path: Path
) -> None:
    with start(family) as daemon:
        bridge.down()
        endpoint = Endpoint(bridge.host, "multicast", family, wire.PORT, tmp_path / "key", daemon=daemon)
        assert client.ask(endpoint, "monitor", **HASTE).exit == 1
        bridge.up()
        check_service(bridge, daemon, family, client, tmp_path / "key")


def test_bridge_loses_its_addresses_for_a_while(
    bridge: Bridge, family: str, client: Client, start: Callable[..., AbstractContextManager[Daemon]], tmp_path: Path
) -> None:
    address = f"{ADDRESSES[family]}/{24 if family == 'ipv4' else 64}"
    with start(family) as daemon:
        bridge.remove_address(address)
        bridge.add_address(address)
        check_service(bridge, daemon, family, client, tmp_path / "key")


def test_unknown_interface_is_named_with_the_nearest(
    bridge: Bridge, config: Callable[..., Path], vmfence: CommandLine
) -> None:
    result = vmfence.run("host", "daemon", "-f", str(config(interface="br1")), netns=bridge.host)
    assert result.exit != 0
    assert "interface br1 does not exist" in result.stderr
    assert "br0" in result.stderr
    assert "Traceback" not in result.stderr


def test_waits_for_a_bridge_that_is_to_come(
    bridge: Bridge, family: str, client: Client, start: Callable[..., AbstractContextManager[Daemon]], tmp_path: Path
) -> None:
    bridge.delete()
    with start(family, ("-w",), f"WARNING not ready yet.*{BRIDGE}") as daemon:
        bridge.create()
        daemon.wait_for_line(READY)
        check_service(bridge, daemon, family, client, tmp_path / "key")


def test_does_not_wait_unless_told_to(bridge: Bridge, config: Callable[..., Path], vmfence: CommandLine) -> None:
    bridge.delete()
    result = vmfence.run("host", "daemon", "-f", str(config()), netns=bridge.host)
    assert result.exit != 0
    assert f"interface {BRIDGE} does not exist" in result.stderr


def test_can_be_stopped_while_it_waits(bridge: Bridge, start: Callable[..., AbstractContextManager[Daemon]]) -> None:
    bridge.delete()
    with start("ipv4", ("-w",), "not ready yet") as daemon:
        assert daemon.stop() == 0
