"""The laboratory itself works: the reference programs, real guests, a bridge between namespaces.

Guests are judged by libvirt, read anew, never by what a program printed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import requirements, wire
from lab.hypervisor import RUNNING, Hypervisor
from lab.net import HOST_IPV4, HOST_IPV6, Bridge
from lab.process import Daemon, clean_environment, run_client
from lab.reference import FENCE_VIRT, FENCE_XVM, config_text, fence_virtd, write_key
from lab.waiting import LabError, wait_until

LACKS = requirements.missing()
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(LACKS), reason=f"missing: {', '.join(LACKS)}"),
]
GUESTS = ("vm-01", "vm-02")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def bridge():
    with Bridge(guests=2) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def hypervisor(folder, bridge):
    with Hypervisor(folder / "libvirt", bridge.host) as hypervisor:
        for name in GUESTS:
            hypervisor.define(name)
        yield hypervisor


@pytest.fixture
def guests(hypervisor):
    """Both guests, running."""
    for name in GUESTS:
        if not hypervisor.is_on(name):
            hypervisor.power_on(name)
    return hypervisor


@pytest.fixture(scope="module")
def key(folder):
    return write_key(folder / "key")


@pytest.fixture(scope="module")
def multicast(folder, bridge, hypervisor, key):
    config = config_text("multicast", hypervisor.uri, key, interface="br0")
    with fence_virtd(config, folder, bridge.host, "multicast") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def tcp(folder, bridge, hypervisor, key):
    config = config_text("tcp", hypervisor.uri, key, address=HOST_IPV4)
    with fence_virtd(config, folder, bridge.host, "tcp") as daemon:
        yield daemon


@pytest.fixture
def xvm(bridge, multicast, key):
    """fence_xvm, run in the first guest."""

    def run(action, guest=""):
        options = ["-k", str(key), "-t", "20", "-o", action, *(["-H", guest] if guest else [])]
        return run_client(FENCE_XVM, options, netns=bridge.guests[0])

    return run


def test_list_shows_both_guests(xvm, guests):
    result = xvm("list")
    assert result.exit == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(GUESTS)


def test_off_and_on_change_the_state_of_one_guest(xvm, guests):
    assert xvm("off", "vm-01").exit == 0
    assert not guests.is_on("vm-01")
    assert xvm("status", "vm-01").exit == 2
    assert xvm("on", "vm-01").exit == 0
    assert guests.is_on("vm-01")
    assert xvm("status", "vm-01").exit == 0
    assert guests.is_on("vm-02")


def test_reboot_gives_the_guest_a_new_life(xvm, guests):
    before = guests.domain_id("vm-02"), guests.pid_of("vm-02")
    assert xvm("reboot", "vm-02").exit == 0
    assert guests.is_on("vm-02")
    assert guests.domain_id("vm-02") != before[0]
    assert guests.pid_of("vm-02") != before[1]


def test_fence_virt_reaches_tcp_with_options_on_stdin(bridge, tcp, guests, key):
    options = f"ipaddr={HOST_IPV4}\nkey_file={key}\nport=vm-02\naction=off\ntimeout=20\n"
    assert run_client(FENCE_VIRT, stdin=options, netns=bridge.guests[1]).exit == 0
    assert not guests.is_on("vm-02")


def test_raw_peer_speaks_to_a_tcp_listener(bridge, tcp, guests, key):
    secret = key.read_bytes()
    with bridge.guests[0].call(wire.connect, HOST_IPV4) as peer:
        peer.send(wire.sign(wire.packet(wire.LIST), secret))
        assert peer.converse(secret) == wire.HOSTS
        assert [(host.name, host.state) for host in peer.hosts()] == [(name, RUNNING) for name in GUESTS]


def test_raw_peer_is_called_back_after_multicast(bridge, multicast, guests, key):
    secret, guest = key.read_bytes(), bridge.guests[1]
    packet = wire.packet(wire.STATUS, "vm-01", address=guest.ipv4, port=wire.PORT)
    with guest.call(wire.listen, guest.ipv4) as listener:
        guest.call(wire.send_datagram, wire.sign(packet, secret), wire.GROUP, wire.PORT, guest.ipv4)
        with wire.accept(listener) as peer:
            assert peer.converse(secret) == wire.DONE


def test_raw_peer_with_a_wrong_key_is_turned_away(bridge, tcp, guests):
    with bridge.guests[0].call(wire.connect, HOST_IPV4) as peer:
        peer.send(wire.sign(wire.packet(wire.OFF, "vm-01"), b"wrong"))
        assert peer.closed()
    assert guests.is_on("vm-01")


def test_multicast_over_ipv6(folder, bridge, guests, key):
    config = config_text("multicast", guests.uri, key, family="ipv6", interface="br0", port=1230)
    options = ["-k", str(key), "-i", "ipv6", "-p", "1230", "-t", "20", "-o", "status", "-H", "vm-01"]
    with fence_virtd(config, folder, bridge.host, "ipv6"):
        assert run_client(FENCE_XVM, options, netns=bridge.guests[0]).exit == 0


@pytest.mark.parametrize("address", [HOST_IPV4, HOST_IPV6])
def test_bridge_made_anew_carries_both_families(address):
    with Bridge(guests=1) as bridge:
        bridge.delete()
        bridge.create()
        listener = bridge.host.call(wire.listen, address)
        with listener, bridge.guests[0].call(wire.connect, address), wire.accept(listener) as peer:
            assert peer.stream.getpeername()[0] in (bridge.guests[0].ipv4, bridge.guests[0].ipv6)


def test_bridge_down_and_up_again(bridge, tcp):
    bridge.down()
    with pytest.raises(OSError):
        bridge.guests[0].call(wire.connect, HOST_IPV4, wire.PORT, 0.5)
    bridge.up()
    with bridge.guests[0].call(wire.connect, HOST_IPV4):
        pass


def test_guests_survive_the_death_of_libvirtd(guests):
    before = guests.pid_of("vm-01")
    guests.kill()
    assert guests.pid_of("vm-01") == before
    guests.start()
    assert guests.is_on("vm-01")
    guests.restart()
    assert guests.pid_of("vm-01") == before


def test_paused_libvirtd_is_refused_instead_of_waited_for(guests):
    guests.pause()
    try:
        with pytest.raises(LabError, match="paused"):
            guests.state("vm-01")
    finally:
        guests.resume()
    assert guests.is_on("vm-01")


def test_transient_guest_is_gone_after_its_end(hypervisor):
    hypervisor.create_transient("vm-t")
    assert hypervisor.is_on("vm-t")
    hypervisor.power_off("vm-t")
    assert "vm-t" not in hypervisor.names()


def test_hung_guest_is_cleaned_up(tmp_path):
    with Hypervisor(tmp_path) as hypervisor:
        hypervisor.define("vm-01", start=True)
        pid = hypervisor.pid_of("vm-01")
        hypervisor.hang("vm-01")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_daemon_shows_its_log_when_it_dies(tmp_path):
    with Daemon(["sh", "-c", "echo last words; exit 3"], tmp_path / "log") as daemon:
        with pytest.raises(LabError, match="exit status 3(.|\n)*last words"):
            daemon.wait_for_line("never")
        assert daemon.wait() == 3


def test_stubborn_daemon_is_killed(tmp_path):
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    with Daemon(["sh", "-c", script], tmp_path / "log") as daemon:
        daemon.wait_for_line("up")
        assert daemon.stop(timeout=0.2) == -signal.SIGKILL


def test_a_daemon_ends_with_the_process_of_the_tests(tmp_path):
    code = (
        "import sys; from pathlib import Path; from lab.process import Daemon;"
        "print(Daemon(['sleep', '1000'], Path(sys.argv[1])).start().pid, flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "log")]
    env = clean_environment({"PYTHONPATH": str(Path(__file__).parents[1])})
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as tests:
        pid = tests.stdout.readline().strip()
        command = Path(f"/proc/{pid}/cmdline")
        assert command.read_bytes().startswith(b"sleep")
        tests.kill()
    wait_until(lambda: not command.exists() or not command.read_bytes(), what="the end of the daemon")


def test_daemon_ports_are_its_own(bridge, multicast, tcp):
    assert multicast.ports() == {("udp", 1229)}
    assert tcp.ports() == {("tcp", 1229)}


def test_wait_until_names_what_it_waited_for():
    with pytest.raises(LabError, match="the moon"):
        wait_until(lambda: False, timeout=0.02, what="the moon")
