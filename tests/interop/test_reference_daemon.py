"""Our agent, under the names fence_xvm and fence_virt and its own, against real fence_virtd (4.12.1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.matrix import Requests, Security, check_hash_and_auth, weakest
from interop.sides import (
    ADDRESSES,
    ALPHA,
    BETA,
    FAMILIES,
    GUESTS,
    HASHES,
    OFF,
    ON,
    UMLAUT,
    Client,
    Endpoint,
    ReferenceDaemons,
)
from lab import wire
from lab.net import Bridge
from lab.ours import driver_uri
from lab.reference import config_text, fence_virtd, write_key

pytestmark = pytest.mark.system
LONG_NAME = "z" * 70


@pytest.fixture
def client(our_client: Client) -> Client:
    return our_client


@pytest.fixture
def daemons(reference_daemons: ReferenceDaemons) -> ReferenceDaemons:
    return reference_daemons


class TestRequests(Requests):
    """Every action."""


class TestSecurity(Security):
    """Hash and auth, keys, access rules."""


@pytest.mark.parametrize("auth", HASHES)
@pytest.mark.parametrize("hash", HASHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_hash_and_auth(family: str, hash: str, auth: str, client: Client, daemons: ReferenceDaemons) -> None:
    endpoint = daemons.at("multicast", family, hash=weakest(hash, auth), auth=auth)
    check_hash_and_auth(endpoint, client, hash)


@pytest.mark.parametrize("hash", HASHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_hash_over_tcp(family: str, hash: str, client: Client, daemons: ReferenceDaemons) -> None:
    """There fence_virtd can demand no other auth than sha256."""
    check_hash_and_auth(daemons.at("tcp", family, hash="none"), client, hash)


def test_our_own_name_takes_the_options_of_both(client: Client, endpoint: Endpoint) -> None:
    own = client.called("fence_vmfence")
    endpoint.put(ALPHA, ON)
    assert own.ask(endpoint, "off", ALPHA)[:3] == (0, "", "")
    assert endpoint.states()[ALPHA] == OFF
    assert own.tell(endpoint, "status", ALPHA)[:3] == (2, "Status: OFF\n", "")
    assert own.ask(endpoint, "list").stdout == client.ask(endpoint, "list").stdout


def test_reboot_of_a_guest_that_is_off_leaves_it_off(client: Client, endpoint: Endpoint) -> None:
    endpoint.put(ALPHA, OFF)
    assert client.ask(endpoint, "reboot", ALPHA).exit == 0
    assert endpoint.states()[ALPHA] == OFF


def test_rubbish_in_records_is_not_printed(transport: str, client: Client, daemons: ReferenceDaemons) -> None:
    """fence_virtd leaves bytes of its stack behind names that do not fit (D13)."""
    result = client.ask(daemons.at(transport, guests=(LONG_NAME,)), "list")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [ALPHA, BETA, UMLAUT, LONG_NAME[:63]]


@pytest.mark.parametrize("family", FAMILIES)
def test_busy_call_back_port_is_no_obstacle(
    family: str, client: Client, daemons: ReferenceDaemons, bridge: Bridge
) -> None:
    """Another agent on the same guest, as when a cluster fences two nodes at once (D25)."""
    endpoint = daemons.at("multicast", family)
    guest = bridge.guests[0]
    endpoint.put(ALPHA, ON)
    with guest.call(wire.listen, guest.ipv4 if family == "ipv4" else guest.ipv6, endpoint.port):
        assert client.ask(endpoint, "off", ALPHA)[:3] == (0, "", "")
    assert endpoint.states()[ALPHA] == OFF


@pytest.mark.parametrize(("written", "weakest"), [("none", "none"), ("sha1", "sha1"), ("sha512", "sha512")])
def test_auth_of_a_tcp_listener_means_its_hash(
    written: str, weakest: str, client: Client, bridge: Bridge, tmp_path: Path
) -> None:
    """Installations with this setting exist, and worked with clients that knew nothing of it (D16)."""
    key, port = write_key(tmp_path / "key"), 1300
    uri = driver_uri(tmp_path, GUESTS)
    config = config_text("tcp", uri, key, hash="sha256", auth=written, address=ADDRESSES["ipv4"], port=port)
    with fence_virtd(config, tmp_path, bridge.host) as daemon:
        endpoint = Endpoint(bridge.host, "tcp", "ipv4", port, key, weakest, daemon=daemon)
        endpoint.put(ALPHA, ON)
        assert client.ask(endpoint, "off", ALPHA)[:3] == (0, "", "")
        assert endpoint.states()[ALPHA] == OFF
