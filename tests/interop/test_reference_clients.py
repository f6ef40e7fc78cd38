"""Real fence_xvm and fence_virt (4.12.1) against our daemon."""

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
    HASTE,
    OFF,
    ON,
    UMLAUT,
    Client,
    Endpoint,
    OurDaemons,
    access_rules,
    group,
    shown,
)
from lab.net import BRIDGE, Bridge
from lab.ours import CommandLine, driver_uri, our_config
from lab.reference import write_key
from lab.waiting import wait_until

pytestmark = pytest.mark.system
LONG_NAME = "z" * 70


@pytest.fixture
def client(reference_client: Client) -> Client:
    return reference_client


@pytest.fixture
def daemons(our_daemons: OurDaemons) -> OurDaemons:
    return our_daemons


class TestRequests(Requests):
    """Every action."""


class TestSecurity(Security):
    """Hash and auth, keys, access rules."""


@pytest.mark.parametrize("auth", HASHES)
@pytest.mark.parametrize("hash", HASHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_hash_and_auth(transport: str, family: str, hash: str, auth: str, client: Client, daemons: OurDaemons) -> None:
    check_hash_and_auth(daemons.at(transport, family, hash=weakest(hash, auth), auth=auth), client, hash)


def test_unknown_guest_is_not_off(client: Client, endpoint: Endpoint) -> None:
    assert client.ask(endpoint, "status", "nobody").exit == 1


def test_names_differ_in_case(client: Client, endpoint: Endpoint) -> None:
    assert client.ask(endpoint, "status", ALPHA.upper()).exit == 1


def test_reboot_of_a_guest_that_is_off_starts_it(client: Client, endpoint: Endpoint) -> None:
    endpoint.put(ALPHA, OFF)
    assert client.ask(endpoint, "reboot", ALPHA).exit == 0
    assert endpoint.states()[ALPHA] == ON


def test_each_request_is_one_line_of_the_log(client: Client, endpoint: Endpoint, bridge: Bridge) -> None:
    origin = bridge.guests[0].ipv4 if endpoint.family == "ipv4" else bridge.guests[0].ipv6
    line = f"request action=off guest={UMLAUT} origin={origin} via={endpoint.transport} result=ok"
    before = endpoint.log.count(line)
    assert client.ask(endpoint, "off", UMLAUT).exit == 0
    wait_until(lambda: endpoint.log.count(line) == before + 1, what=line)  # written after the answer


def test_name_that_does_not_fit_a_record_is_cut(transport: str, client: Client, daemons: OurDaemons) -> None:
    endpoint = daemons.at(transport, guests=(LONG_NAME,))
    names = [line.split()[0] for line in client.ask(endpoint, "list").stdout.splitlines()]
    assert names == [ALPHA, BETA, UMLAUT, LONG_NAME[:63]]


def test_client_with_auth_is_not_served_without(transport: str, client: Client, daemons: OurDaemons) -> None:
    endpoint = daemons.at(transport, auth="none")
    endpoint.put(ALPHA, ON)
    assert client.ask(endpoint, "off", ALPHA, auth="sha256", **HASTE).exit == 1
    assert endpoint.states()[ALPHA] == ON


@pytest.mark.parametrize("listed", [ALPHA, GUESTS[ALPHA]])
def test_access_rules_know_guests_by_name_and_uuid(
    listed: str, transport: str, client: Client, daemons: OurDaemons, bridge: Bridge
) -> None:
    endpoint = daemons.at(transport, groups=access_rules(bridge, listed))
    for guest in (ALPHA, GUESTS[ALPHA]):
        endpoint.put(ALPHA, ON)
        assert client.ask(endpoint, "off", guest).exit == 0
        assert endpoint.states()[ALPHA] == OFF
    assert client.ask(endpoint, "list").stdout == shown({ALPHA: OFF})


def test_key_of_a_group_opens_its_guests_only(
    transport: str, client: Client, daemons: OurDaemons, tmp_path: Path
) -> None:
    everything = group(ip=tuple(ADDRESSES.values()), uuid=(*GUESTS,))
    endpoint = daemons.at(transport, groups=everything + group(key_file=(write_key(tmp_path / "own"),), uuid=(ALPHA,)))
    for guest, exit_code, state in ((ALPHA, 0, OFF), (BETA, 3, ON)):
        endpoint.put(guest, ON)
        assert client.ask(endpoint, "off", guest, key_file=tmp_path / "own").exit == exit_code
        assert endpoint.states()[guest] == state
    endpoint.put(ALPHA, ON)
    assert client.ask(endpoint, "off", ALPHA).exit == 3
    assert endpoint.states()[ALPHA] == ON


def test_one_daemon_serves_multicast_and_tcp(
    client: Client, bridge: Bridge, vmfence: CommandLine, tmp_path: Path
) -> None:
    key, port = write_key(tmp_path / "key"), 1300
    listeners = {
        "multicast": {"interface": BRIDGE, "port": port},
        "tcp": {"address": ADDRESSES["ipv4"], "port": port},
    }
    config = our_config(tmp_path, driver_uri(tmp_path, GUESTS), key, listeners=listeners)
    with vmfence.daemon(config, bridge.host) as daemon:
        by_multicast, by_tcp = (Endpoint(bridge.host, one, "ipv4", port, key, daemon=daemon) for one in listeners)
        assert client.ask(by_multicast, "off", ALPHA).exit == 0
        assert client.ask(by_tcp, "status", ALPHA).stdout == "Status: OFF\n"
        assert client.ask(by_tcp, "on", ALPHA).exit == 0
        assert client.ask(by_multicast, "status", ALPHA).stdout == "Status: ON\n"
