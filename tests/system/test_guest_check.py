"""``guest check`` on a real bridge: green when fencing works, and the right code first for each fault produced.

Faults are made with nft, keys, settings and programs; the daemon is ours or the real fence_virtd, both on libvirt's
test driver.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import wire
from lab.libvirtd import Libvirtd
from lab.net import BRIDGE, HOST_IPV4, Bridge, Guest, Namespace
from lab.ours import CommandLine, driver_uri, our_config
from lab.reference import config_text, fence_virtd, write_key
from lab.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.long]
GUESTS = {"alpha": "11111111-2222-3333-4444-555555555501"}
OTHERS = {"omega": "11111111-2222-3333-4444-555555555509"}
IGNORE = 'unknown_guest = "ignore";'


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=1) as made:
        yield made


@pytest.fixture
def guest(bridge: Bridge) -> Iterator[Guest]:
    yield bridge.guests[0]
    for end in (bridge.guests[0], bridge.host):
        end.run(["nft", "flush", "ruleset"])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "key")


class Hosts:
    """Starts daemons of ours and fence_virtd on the host; all end with it."""

    def __init__(self, vmfence: CommandLine, folder: Path, key: Path, host: Namespace, stack: ExitStack) -> None:
        self._vmfence, self._folder, self._key, self._host, self._stack = vmfence, folder, key, host, stack

    def ours(self, *, uri: str = "", groups: str = "", daemon: str = "", **settings: object) -> None:
        """Run our daemon with a multicast listener; *daemon*: more text for its section."""
        keys = {"interface": BRIDGE, "key_file": self._key, **settings}
        uri = uri or driver_uri(self._folder, GUESTS)
        config = our_config(self._folder, uri, self._key, daemon=daemon, groups=groups, listeners={"multicast": keys})
        self._stack.enter_context(self._vmfence.daemon(config, self._host))

    def tcp(self, **settings: object) -> None:
        """Run our daemon with a tcp listener."""
        uri = driver_uri(self._folder, GUESTS)
        keys = {"address": HOST_IPV4, **settings}
        config = our_config(self._folder, uri, self._key, listeners={"tcp": keys})
        self._stack.enter_context(self._vmfence.daemon(config, self._host))

    def reference(self, **settings: object) -> None:
        """Run the real fence_virtd."""
        text = config_text("multicast", driver_uri(self._folder, GUESTS), self._key, interface=BRIDGE, **settings)
        self._stack.enter_context(fence_virtd(text, self._folder, self._host))


@pytest.fixture
def hosts(vmfence: CommandLine, tmp_path: Path, key: Path, bridge: Bridge) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(vmfence, tmp_path, key, bridge.host, stack)


@pytest.fixture
def check(vmfence: CommandLine, guest: Guest, key: Path) -> Any:
    """Run ``guest check`` in the guest and return its JSON; the key may be given anew."""

    def run(*words: str, key_file: Path = key) -> dict[str, Any]:
        done = vmfence.run("guest", "check", "--json", "-k", str(key_file), *words, netns=guest)
        assert done.stderr == "", done
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.exit == (1 if found["worst"] == "error" else 4 if found["not_judged"] else 0), done
        return found

    return run


def errors(found: dict[str, Any]) -> list[str]:
    return [one["code"] for one in found["findings"] if one["severity"] == "error"]


def worries(found: dict[str, Any]) -> list[str]:
    return [one["code"] for one in found["findings"] if one["severity"] != "note"]


def about(found: dict[str, Any], code: str) -> str:
    return " ".join(" ".join(one.values()) for one in found["findings"] if one["code"] == code)


def block(end: Namespace, rule: str, hook: str = "input") -> None:
    """Let the firewall of *end* do *rule*, and accept everything else."""
    chain = f"chain c {{ type filter hook {hook} priority 0; {rule}\n }}"
    end.run(["nft", "-f", "-"], input=f"table inet t {{\n {chain}\n}}\n")


# All is well


@pytest.mark.parametrize("daemon", ["ours", "reference"])
def test_a_healthy_guest_has_nothing_to_worry_about(hosts: Hosts, check: Any, daemon: str) -> None:
    getattr(hosts, daemon)()
    found = check("--strict")
    assert worries(found) == []
    assert {"guest-not-heard", "guest-failed", "guest-no-guests"} <= set(found["passed"])


def test_a_healthy_guest_by_tcp(hosts: Hosts, check: Any) -> None:
    hosts.tcp()
    assert worries(check("-T", HOST_IPV4)) == []


def test_ipv6(hosts: Hosts, check: Any, guest: Guest) -> None:
    hosts.ours(family="ipv6", address="ff05::3:1")
    assert worries(check("-i", "ipv6")) == []
    block(guest, "tcp dport 1229 drop")
    found = check("-i", "ipv6")
    assert errors(found) == ["guest-firewall"] and "guest-not-heard" in found["passed"]


def test_a_firewall_that_admits_the_call_back(hosts: Hosts, check: Any, guest: Guest) -> None:
    hosts.ours()
    block(guest, "policy drop; tcp dport 1229 accept; ct state established accept")
    assert worries(check()) == []


def test_it_is_told_for_people_too(hosts: Hosts, vmfence: CommandLine, guest: Guest, key: Path) -> None:
    hosts.ours()
    done = vmfence.run("guest", "check", "-k", str(key), netns=guest)
    assert done.exit == 0 and "ok       guest-not-heard: a host hears the request and calls back" in done.stdout
    assert "0 errors, 0 warnings" in done.stdout


# One fault each


def test_no_key(check: Any, tmp_path: Path) -> None:
    assert errors(check(key_file=tmp_path / "none")) == ["guest-key"]


def test_a_key_for_everybody_is_closed_by_fix(hosts: Hosts, vmfence: CommandLine, guest: Guest, key: Path) -> None:
    hosts.ours()
    key.chmod(0o644)
    words = ("guest", "check", "-k", str(key))
    done = vmfence.run(*words, netns=guest)
    assert done.exit == 1 and "guest-key:" in done.stdout and key.stat().st_mode & 0o777 == 0o644
    done = vmfence.run(*words, "--fix", "--yes", netns=guest)
    assert done.exit == 0 and key.stat().st_mode & 0o777 == 0o600


def test_a_weak_key(hosts: Hosts, check: Any, key: Path) -> None:
    key.write_text("redhatredhatredhatredhatredhatredhat")
    hosts.ours()
    assert worries(check()) == ["guest-key-weak"]


@pytest.mark.parametrize("daemon", ["ours", "reference"])
def test_another_key(hosts: Hosts, vmfence: CommandLine, check: Any, tmp_path: Path, daemon: str) -> None:
    getattr(hosts, daemon)()
    found = check(key_file=write_key(tmp_path / "other"))
    assert errors(found) == ["guest-not-heard"]
    ours = vmfence.run("host", "keygen", "--check", str(tmp_path / "other")).stdout.splitlines()[-1]
    assert "vmfence host keygen --check" in about(found, "guest-not-heard") and ours in about(found, "guest-not-heard")


def test_no_daemon(check: Any) -> None:
    assert errors(check()) == ["guest-not-heard"]


def test_the_hosts_firewall_drops_requests(hosts: Hosts, check: Any, bridge: Bridge) -> None:
    hosts.ours()
    block(bridge.host, "udp dport 1229 drop")
    assert errors(check()) == ["guest-not-heard"]


@pytest.mark.parametrize("verdict", ["drop", "reject"])
@pytest.mark.parametrize("daemon", ["ours", "reference"])
def test_the_guests_firewall_stops_the_call_back(
    hosts: Hosts, check: Any, guest: Guest, daemon: str, verdict: str
) -> None:
    getattr(hosts, daemon)()
    block(guest, f"tcp dport 1229 {verdict}")
    found = check()
    assert errors(found) == ["guest-firewall"]
    assert "tcp dport 1229 accept" in about(found, "guest-firewall")


def test_a_call_back_is_seen_although_no_rule_stops_it(hosts: Hosts, check: Any, bridge: Bridge, guest: Guest) -> None:
    """Here the strict reverse path filter does, since the way back to the host leads elsewhere."""
    hosts.ours()
    hardware = guest.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    with ExitStack() as undo:
        for end, make, unmake in (
            (bridge.host, f"neigh replace {guest.ipv4} lladdr {hardware} dev {BRIDGE} nud permanent",
             f"neigh del {guest.ipv4} dev {BRIDGE}"),
            (guest, f"route add {HOST_IPV4}/32 dev lo", f"route del {HOST_IPV4}/32 dev lo"),
        ):  # fmt: skip
            end.ip(make)
            undo.callback(end.ip, unmake)
        guest.run(["sysctl", "-w", "net.ipv4.conf.eth0.rp_filter=1"])
        undo.callback(guest.run, ["sysctl", "-w", "net.ipv4.conf.eth0.rp_filter=0"])
        found = check()
    assert errors(found) == ["guest-call-back-blocked"]
    assert "reverse path filter" in about(found, "guest-call-back-blocked")


def test_both_firewalls(hosts: Hosts, check: Any, bridge: Bridge, guest: Guest) -> None:
    hosts.ours()
    block(bridge.host, "udp dport 1229 drop")
    block(guest, "tcp dport 1229 drop")
    assert errors(check()) == ["guest-firewall", "guest-not-heard"]


def test_requests_cannot_leave(hosts: Hosts, check: Any, guest: Guest) -> None:
    hosts.ours()
    block(guest, "oifname eth0 udp dport 1229 drop", hook="output")
    assert errors(check()) == ["guest-not-sent"]


@pytest.mark.parametrize("daemon", ["ours", "reference"])
def test_a_stronger_hash_is_demanded(hosts: Hosts, check: Any, daemon: str) -> None:
    getattr(hosts, daemon)(hash="sha512")
    found = check()
    assert errors(found) == ["guest-hash-weak"]
    assert "hash=sha512" in about(found, "guest-hash-weak")


@pytest.mark.parametrize("daemon", ["ours", "reference"])
def test_auth_differs(hosts: Hosts, check: Any, daemon: str) -> None:
    getattr(hosts, daemon)(auth="sha512")
    found = check()
    assert errors(found) == ["guest-auth-differs"]
    assert "the host has sha512" in about(found, "guest-auth-differs")


def test_the_reference_has_no_auth(hosts: Hosts, check: Any) -> None:
    hosts.reference(auth="none")
    found = check()
    assert errors(found) == ["guest-auth-differs"] and "the host has none" in about(found, "guest-auth-differs")


def test_the_guest_has_no_auth(hosts: Hosts, check: Any) -> None:
    hosts.reference()
    assert errors(check("-C", "none")) == ["guest-auth-differs"]


def test_the_hosts_libvirt_stops_or_hangs(hosts: Hosts, check: Any, tmp_path: Path, bridge: Bridge) -> None:
    with Libvirtd(tmp_path / "libvirt", bridge.host) as libvirtd:
        hosts.ours(uri=libvirtd.uri)
        libvirtd.pause()
        assert errors(check()) == ["guest-not-answered"]
        libvirtd.resume()
        libvirtd.kill()
        found = check()
    assert errors(found) == ["guest-failed"] and "libvirt" in about(found, "guest-failed")


def test_another_address_than_the_senders(hosts: Hosts, check: Any, bridge: Bridge, guest: Guest) -> None:
    """With access rules the address must be the true one; who proves the key is told so."""
    hosts.ours(groups=f'group {{ uuid = "{GUESTS["alpha"]}"; ip = "{guest.ipv4}"; }}')
    guest.ip("addr add 10.88.0.77/24 dev eth0")
    chain = "chain c { type nat hook postrouting priority 100; oifname eth0 udp dport 1229 snat to 10.88.0.77\n }"
    guest.run(["nft", "-f", "-"], input=f"table ip n {{\n {chain}\n}}\n")
    try:
        found = check()
    finally:
        guest.ip("addr del 10.88.0.77/24 dev eth0")
    assert "guest-refused" in errors(found) and "another address than the sender's" in about(found, "guest-refused")


def test_access_rules_name_another_machine(hosts: Hosts, check: Any) -> None:
    hosts.ours(groups=f'group {{ uuid = "{GUESTS["alpha"]}"; ip = "10.88.0.99"; }}')
    assert errors(check()) == ["guest-no-guests"]


def test_the_port_is_taken(hosts: Hosts, check: Any, guest: Guest) -> None:
    hosts.ours()
    with guest.call(wire.listen, guest.ipv4):
        assert worries(check()) == ["guest-port-taken"]


def test_the_interface_is_down(hosts: Hosts, check: Any, bridge: Bridge, guest: Guest) -> None:
    hosts.ours()
    bridge.host.ip(f"link set {guest.port} down")
    try:
        assert errors(check())[0] == "guest-link"
    finally:
        bridge.host.ip(f"link set {guest.port} up")
        wait_until(lambda: guest.operstate("eth0") == "UP", what="link up")


def test_a_machine_without_an_address(vmfence: CommandLine, key: Path) -> None:
    with Namespace() as alone:
        done = vmfence.run("guest", "check", "--json", "-k", str(key), "-t", "0.5", netns=alone)
        assert errors(json.loads(done.stdout))[0] == "guest-address"
        done = vmfence.run("guest", "check", "--json", "-k", str(key), "-t", "0.5", "-i", "ipv6", netns=alone)
        assert errors(json.loads(done.stdout))[0] == "guest-address"


def test_by_tcp_nobody_listens_or_another_key(hosts: Hosts, check: Any, tmp_path: Path) -> None:
    assert errors(check("-T", HOST_IPV4)) == ["guest-unreachable"]
    hosts.tcp(hash="sha512")
    assert errors(check("-T", HOST_IPV4)) == ["guest-hash-weak"]
    assert errors(check("-T", HOST_IPV4, key_file=write_key(tmp_path / "other"))) == ["guest-refused"]


@contextmanager
def second_host(
    vmfence: CommandLine, folder: Path, key: Path, bridge: Bridge, guests: dict[str, str], daemon: str = ""
) -> Iterator[None]:
    """Run our daemon on another machine of the bridge; *daemon*: more text for its section."""
    folder.mkdir()
    with Guest(60) as second:
        second.plug_into(bridge.host)
        bridge.host.ip(f"link set {second.port} master {BRIDGE} up")
        wait_until(lambda: second.operstate("eth0") == "UP", what="link up")
        listeners: dict[str, dict[str, object]] = {"multicast": {"interface": "eth0", "key_file": key}}
        config = our_config(folder, driver_uri(folder, guests), key, daemon=daemon, listeners=listeners)
        with vmfence.daemon(config, second):
            yield


@pytest.mark.parametrize("second", ["", IGNORE])
def test_two_hosts_with_different_guests(
    hosts: Hosts, vmfence: CommandLine, check: Any, tmp_path: Path, key: Path, bridge: Bridge, second: str
) -> None:
    """One that speaks for guests that it does not have is enough, whichever it is."""
    hosts.ours()
    with second_host(vmfence, tmp_path / "second", key, bridge, OTHERS, second):
        found = check()
    assert errors(found) == ["guest-hosts-differ"] and "2 hosts" in about(found, "guest-hosts-differ")
    assert 'unknown_guest = "ignore"' in about(found, "guest-hosts-differ")


@pytest.mark.parametrize("guests", [OTHERS, {}], ids=["guests of its own", "no guest"])
def test_two_hosts_that_are_silent_about_guests_of_others(
    hosts: Hosts,
    vmfence: CommandLine,
    check: Any,
    tmp_path: Path,
    key: Path,
    bridge: Bridge,
    guest: Guest,
    guests: dict[str, str],
) -> None:
    """What the finding advises is no fault afterwards, and fencing works."""
    hosts.ours(daemon=IGNORE)
    with second_host(vmfence, tmp_path / "second", key, bridge, guests, IGNORE):
        found = check()
        asked = [vmfence.fence("-o", "status", "-H", name, "-k", str(key), netns=guest) for name in (*GUESTS, *guests)]
    assert worries(found) == [] and "2 hosts" in about(found, "guest-hosts-differ")
    assert ("shows this machine no guest" in about(found, "guest-no-guests")) == (not guests)
    assert [done.exit for done in asked] == [0] * len(asked)


# What it must not do


def test_who_has_not_the_key_is_told_nothing(hosts: Hosts, guest: Guest) -> None:
    """The same refused question, signed with another key: no call-back at all."""
    hosts.ours(hash="sha512")
    packet = wire.packet(wire.MONITOR, address=guest.ipv4, port=1300, flags=2)
    assert _answer(guest, wire.sign(packet, b"another key of 32 bytes or more..")) is None


def test_a_refused_packet_played_back_is_not_answered(hosts: Hosts, guest: Guest, key: Path) -> None:
    hosts.ours(hash="sha512")
    signed = wire.sign(wire.packet(wire.MONITOR, address=guest.ipv4, port=1300, flags=2), key.read_bytes())
    assert _answer(guest, signed, key.read_bytes()) == wire.FAILED
    assert _answer(guest, signed, key.read_bytes()) is None


@pytest.mark.parametrize(("action", "flags"), [(wire.MONITOR, 0), (wire.MONITOR, 1), (wire.OFF, 2), (wire.LIST, 2)])
def test_nobody_else_is_called_back_for_a_refusal(
    hosts: Hosts, guest: Guest, key: Path, action: int, flags: int
) -> None:
    hosts.ours(hash="sha512")
    packet = wire.packet(action, "alpha", address=guest.ipv4, port=1300, flags=flags)
    assert _answer(guest, wire.sign(packet, key.read_bytes()), key.read_bytes()) is None


def test_an_old_client_gets_its_one_byte(hosts: Hosts, guest: Guest, key: Path) -> None:
    """Accepted, failed, and not asked for: nothing follows the code."""
    hosts.ours()
    packet = wire.sign(wire.packet(wire.NULL, address=guest.ipv4, port=1300, flags=0), key.read_bytes())
    with guest.call(wire.listen, guest.ipv4, 1300) as listener:
        guest.call(lambda: wire.send_datagram(packet, source=guest.ipv4))
        peer = wire.accept(listener)
        assert peer is not None
        with peer:
            assert peer.converse(key.read_bytes()) == wire.FAILED and peer.closed()


def _answer(guest: Guest, packet: bytes, key: bytes = b"") -> int | None:
    """Send *packet* and return the code of the conversation that follows, None when there is none."""
    with guest.call(wire.listen, guest.ipv4, 1300) as listener:
        guest.call(lambda: wire.send_datagram(packet, source=guest.ipv4))
        peer = wire.accept(listener, 1.0)
        if peer is None:
            return None
        with peer:
            code: int | None = peer.converse(key)
            return code


# Again and again


def test_watch_writes_a_line_for_each_change(
    hosts: Hosts, vmfence: CommandLine, guest: Guest, key: Path, bridge: Bridge
) -> None:
    hosts.ours()
    words = ("guest", "check", "-k", str(key), "--watch", "--interval", "0", "-t", "1")
    done = vmfence.run(*words, "--count", "2", netns=guest)
    assert done.exit == 0 and done.stdout.count("\n") == 1 and done.stdout.rstrip().endswith("  ok")
    assert done.stderr == "2 checks, 0 changes\n"
    block(bridge.host, "udp dport 1229 drop")
    done = vmfence.run(*words, "--count", "1", netns=guest)
    assert done.exit == 1 and "error guest-not-heard" in done.stdout
