"""What must hold whichever side is ours: honest requests work in every combination, all others change nothing.

Test modules subclass these and define the fixtures *client* and *daemons*.  Actions are judged by the state of the
guests afterwards, read by the raw peer.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interop.sides import (
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
    Daemons,
    Endpoint,
    access_rules,
    shown,
)
from lab import wire
from lab.net import Bridge
from lab.reference import write_key
from lab.waiting import wait_until

POWER = [("off", ON, OFF), ("off", OFF, OFF), ("on", OFF, ON), ("on", ON, ON), ("reboot", ON, ON)]
WORDS = {ON: ("Status: ON\n", 0), OFF: ("Status: OFF\n", 2)}
SHA = [name for name in HASHES if name != "none"]


def check_hash_and_auth(endpoint: Endpoint, client: Client, hash: str) -> None:
    """Check that a request signed with *hash* is carried out, with the auth of *endpoint*."""
    endpoint.put(ALPHA, ON)
    assert client.ask(endpoint, "off", ALPHA, hash=hash)[:3] == (0, "", "")
    assert endpoint.states()[ALPHA] == OFF


def weakest(hash: str, auth: str) -> str:
    """Return the minimum for a daemon that is to accept *hash*: with neither hash nor auth it has no key to verify."""
    return hash if auth == "none" else "none"


class Requests:
    """Every action, for a daemon with default hash and auth."""

    @pytest.mark.parametrize("action", ["list", "list-status"])
    def test_list(self, action: str, client: Client, endpoint: Endpoint) -> None:
        endpoint.put(BETA, OFF)
        result = client.ask(endpoint, action)
        assert (result.exit, result.stdout, result.stderr) == (0, shown(endpoint.states()), "")
        assert f"{GUESTS[BETA]} off\n" in result.stdout

    def test_monitor(self, client: Client, endpoint: Endpoint) -> None:
        assert client.ask(endpoint, "monitor")[:3] == (0, "", "")

    @pytest.mark.parametrize("state", [ON, OFF])
    @pytest.mark.parametrize("guest", [ALPHA, UMLAUT, GUESTS[ALPHA], GUESTS[ALPHA].upper()])
    def test_status(self, guest: str, state: int, client: Client, endpoint: Endpoint) -> None:
        endpoint.put(guest, state)
        result = client.ask(endpoint, "status", guest)
        assert (result.stdout, result.exit) == WORDS[state]

    @pytest.mark.parametrize(("action", "before", "after"), POWER)
    def test_power(self, action: str, before: int, after: int, client: Client, endpoint: Endpoint) -> None:
        endpoint.put(ALPHA, before)
        others = {**endpoint.states(), ALPHA: after}
        assert client.ask(endpoint, action, ALPHA)[:3] == (0, "", "")
        assert endpoint.states() == others

    @pytest.mark.parametrize("guest", [UMLAUT, GUESTS[UMLAUT], GUESTS[UMLAUT].upper()])
    def test_power_by_any_kind_of_name(self, guest: str, client: Client, endpoint: Endpoint) -> None:
        for action, state in (("off", OFF), ("on", ON)):
            endpoint.put(UMLAUT, ON if state == OFF else OFF)
            assert client.ask(endpoint, action, guest).exit == 0
            assert endpoint.states()[UMLAUT] == state

    @pytest.mark.parametrize("family", FAMILIES)
    def test_flag_uuid(self, family: str, client: Client, daemons: Daemons) -> None:
        endpoint = daemons.at("multicast", family)
        endpoint.put(ALPHA, ON)
        assert client.ask(endpoint, "off", GUESTS[ALPHA], "-u").exit == 0
        assert endpoint.states()[ALPHA] == OFF

    def test_defaults_are_those_of_the_daemon(self, transport: str, client: Client, daemons: Daemons) -> None:
        """Port, group, family, hash and auth need not be said."""
        endpoint = daemons.at(transport, port=wire.PORT)
        unsaid = {"ipport": None, "hash": None, "auth": None, "ip_family": None, "timeout": None}
        endpoint.put(ALPHA, OFF)
        assert client.ask(endpoint, "status", ALPHA, **unsaid).stdout == "Status: OFF\n"
        assert client.tell(endpoint, "on", ALPHA, **unsaid).exit == 0
        assert endpoint.states()[ALPHA] == ON

    @pytest.mark.parametrize("family", FAMILIES)
    def test_default_action_is_reboot(self, family: str, client: Client, daemons: Daemons) -> None:
        endpoint = daemons.at("multicast", family, guests=("once",))
        endpoint.put("once", ON)
        assert client.ask(endpoint, "", "once", action=None)[:3] == (0, "", "")
        assert endpoint.states()["once"] == ON
        wait_until(lambda: re.search("(?i)reboot.*once", endpoint.log), what="reboot in the daemon's log")

    def test_null_does_nothing_and_fails(self, client: Client, endpoint: Endpoint) -> None:
        before = endpoint.states()
        assert client.ask(endpoint, "null", ALPHA).exit == 1
        assert endpoint.states() == before

    @pytest.mark.parametrize("action", ["off", "reboot", "on"])
    def test_unknown_guest_cannot_be_switched(self, action: str, client: Client, endpoint: Endpoint) -> None:
        before = endpoint.states()
        assert client.ask(endpoint, action, "nobody").exit == 1
        assert endpoint.states() == before

    def test_options_on_standard_input(self, client: Client, endpoint: Endpoint) -> None:
        endpoint.put(ALPHA, ON)
        assert client.tell(endpoint, "off", ALPHA)[:3] == (0, "", "")
        assert endpoint.states()[ALPHA] == OFF
        assert client.tell(endpoint, "status", ALPHA)[:2] == (2, "Status: OFF\n")

    @pytest.mark.parametrize("name", ["plug", "domain"])
    def test_other_names_of_the_guest_on_standard_input(self, name: str, client: Client, endpoint: Endpoint) -> None:
        endpoint.put(ALPHA, ON)
        assert client.tell(endpoint, "status", **{name: ALPHA})[:2] == (0, "Status: ON\n")


class Security:
    """Hash and auth, keys, access rules."""

    @pytest.mark.parametrize("minimum", SHA)
    @pytest.mark.parametrize("hash", HASHES)
    def test_weaker_hash_is_refused(
        self, transport: str, hash: str, minimum: str, client: Client, daemons: Daemons
    ) -> None:
        endpoint = daemons.at(transport, hash=minimum)
        endpoint.put(ALPHA, ON)
        accepted = HASHES[hash] >= HASHES[minimum]
        result = client.ask(endpoint, "off", ALPHA, hash=hash, **({} if accepted else HASTE))
        assert result.exit == (0 if accepted else 1)
        assert endpoint.states()[ALPHA] == (OFF if accepted else ON)

    @pytest.mark.parametrize("auth", ["none", "sha1", "sha512"])
    def test_other_auth_is_refused(self, transport: str, auth: str, client: Client, daemons: Daemons) -> None:
        endpoint = daemons.at(transport)
        endpoint.put(ALPHA, ON)
        assert client.ask(endpoint, "off", ALPHA, auth=auth, **HASTE).exit not in (0, 2)
        assert endpoint.states()[ALPHA] == ON

    def test_wrong_key_is_refused(self, client: Client, endpoint: Endpoint, tmp_path: Path) -> None:
        endpoint.put(ALPHA, ON)
        wrong = write_key(tmp_path / "wrong")
        assert client.ask(endpoint, "off", ALPHA, key_file=wrong, **HASTE).exit == 1
        assert endpoint.states()[ALPHA] == ON

    @pytest.mark.parametrize("family", FAMILIES)
    def test_access_rules(self, transport: str, family: str, client: Client, daemons: Daemons, bridge: Bridge) -> None:
        endpoint = daemons.at(transport, family, groups=access_rules(bridge, ALPHA, GUESTS[ALPHA]))
        states = dict.fromkeys(GUESTS, ON)
        for guest in GUESTS:
            endpoint.put(guest, ON)
        for guest in (BETA, GUESTS[BETA]):
            for action in ("off", "reboot", "on", "status"):
                assert client.ask(endpoint, action, guest).exit == 3
        assert client.ask(endpoint, "list").stdout == shown({ALPHA: ON})
        assert endpoint.states() == states
        for guest in (ALPHA, GUESTS[ALPHA]):
            endpoint.put(ALPHA, ON)
            assert client.ask(endpoint, "off", guest).exit == 0
            assert endpoint.states() == {**states, ALPHA: OFF}

    def test_stranger_to_the_access_rules(
        self, transport: str, client: Client, daemons: Daemons, bridge: Bridge
    ) -> None:
        endpoint = daemons.at(transport, groups=access_rules(bridge, ALPHA, GUESTS[ALPHA]))
        stranger = Client(client.programs, bridge.guests[1])
        endpoint.put(ALPHA, ON)
        assert stranger.ask(endpoint, "off", ALPHA).exit == 3
        assert stranger.ask(endpoint, "list")[:3] == (0, "", "")
        assert stranger.ask(endpoint, "monitor")[:3] == (0, "", "")
        assert endpoint.states()[ALPHA] == ON
