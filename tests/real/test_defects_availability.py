"""Part C of the reference's defects, availability: each test is named by the defect that it would catch.

D10, D20, D23, D24, D25, D26, D28, D37, D39, D40, D41.  With a real hypervisor: tests/system/test_faults_libvirt.py
(D20: hung guest, several actions at once; D21).  Not applicable yet: D27 (cpg backend), D29 (serial listener).
No time is measured: what must not wait is answered while the disturbance still lasts.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lab import wire
from lab.host import TERMINATOR, FalseHost, prove, record
from lab.net import Bridge, Guest, Namespace
from lab.ours import CommandLine, driver_uri
from lab.process import run_client
from lab.reference import write_key
from lab.rig import ALPHA, BETA, GUESTS, LOOPBACK, OFF, ON, Rig, hung, is_open, multicast_rig, no_trace
from lab.waiting import wait_until


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(vmfence, tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=2) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def both(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory, bridge: Bridge) -> Iterator[Rig]:
    """Multicast on the bridge, tcp on the host's loopback, one process."""
    with multicast_rig(vmfence, tmp_path_factory.mktemp("both"), bridge.host) as rig:
        yield rig


def agent_in(guest: Guest, rig: Rig, vmfence: CommandLine, *words: str) -> subprocess.Popen[str]:
    """Start our agent in a guest, over multicast."""
    options = ["-k", str(rig.key), "-d", *words]
    return guest.popen([vmfence.agent, *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


# D10: a limit of its own, whatever the retransmission interval


@pytest.mark.system
@pytest.mark.parametrize(("timeout", "retrans"), [("1", "20"), ("1", "600"), ("2", "1")])
def test_d10_the_agent_ends_without_a_daemon(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge, timeout: str, retrans: str
) -> None:
    key = write_key(tmp_path / "key")
    words = ["-k", str(key), "-p", "1999", "-o", "off", "-n", ALPHA, "-t", timeout, "-r", retrans]
    result = run_client(vmfence.agent, words, netns=bridge.guests[0], timeout=40)  # far below 1 x 600
    assert result.exit == 1
    assert "no host answered" in result.stderr


# D20: whoever hangs, hangs alone


def silent(rig: Rig, source: str) -> wire.Peer:
    """Connect and say nothing."""
    return rig.connect(source)


def after_request(rig: Rig, source: str) -> wire.Peer:
    """A valid request, then silence."""
    return rig.send(rig.packet(wire.OFF, ALPHA), source)


def after_challenge(rig: Rig, source: str) -> wire.Peer:
    """Silence after the daemon's challenge."""
    peer = after_request(rig, source)
    assert peer.challenge(rig.secret)
    assert len(peer.read(64)) == 64
    return peer


def within_challenge(rig: Rig, source: str) -> wire.Peer:
    """A challenge that never becomes complete."""
    peer = after_request(rig, source)
    peer.send(os.urandom(63))
    return peer


_sources = itertools.count(10)


def new_source() -> str:
    """Return an address of loopback that nobody has used: a daemon holds only so many conversations with each."""
    return f"127.0.1.{next(_sources)}"


@pytest.mark.parametrize("times", [1, 8, 60])
@pytest.mark.parametrize("disturb", [after_request, after_challenge, within_challenge])
def test_d20_hung_conversations_delay_nobody(rig: Rig, disturb: Any, times: int) -> None:
    source = new_source()
    with ExitStack() as stack:
        for _ in range(times):
            stack.enter_context(hung(disturb(rig, source)))
        assert rig.ask(wire.STATUS, BETA) == wire.DONE
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE  # the same guest, too
    assert rig.state(ALPHA) == ON


def test_d20_one_address_cannot_hold_all_conversations(rig: Rig) -> None:
    """Its own are limited, others are served; and so is it, when it lets go."""
    source = new_source()
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(after_request(rig, source))
        rig.wait_told("too many requests at once")
        assert rig.ask(wire.STATUS, BETA) == wire.DONE
    wait_until(lambda: rig.ask(wire.STATUS, BETA, source=source) == wire.DONE, 30, "room again")


def test_d20_a_slow_challenge_delays_nobody(rig: Rig) -> None:
    """Byte by byte, an honest request in between each time."""
    with hung(after_request(rig, new_source())) as slow:
        for byte in os.urandom(20):
            slow.send(bytes([byte]))
            assert rig.ask(wire.STATUS, BETA) == wire.DONE


@pytest.mark.parametrize("times", [1, 8, 200])
def test_d20_silent_connections_delay_nobody(rig: Rig, times: int) -> None:
    """They are hung up on after a second, so on a busy machine it may take a second try to see both at once."""

    def answered_meanwhile() -> bool:
        with ExitStack() as stack:
            held = [stack.enter_context(silent(rig, "")) for _ in range(times)]
            assert rig.ask(wire.STATUS, BETA) == wire.DONE
            return is_open(held[-1])

    assert any(answered_meanwhile() for _ in range(10))


def test_d20_more_silent_connections_than_are_kept_delay_nobody(rig: Rig) -> None:
    """The longest waiting make room: they are cut off (0 bytes) before their second is over (no request)."""

    def some_made_room() -> bool:
        before = rig.rejected("packet too short")
        with ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(silent(rig, ""))
            assert rig.ask(wire.STATUS, BETA) == wire.DONE
            return rig.rejected("packet too short") > before

    assert any(some_made_room() for _ in range(10))
    rig.serves()


@contextmanager
def descriptors(rig: Rig, more: int) -> Iterator[int]:
    """Allow the daemon *more* descriptors than it has now; give how many that are together."""
    before = resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE)
    limit = len(os.listdir(f"/proc/{rig.daemon.pid}/fd")) + more
    resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.system
def test_d20_an_address_that_does_not_exist_delays_nobody(
    vmfence: CommandLine, both: Rig, bridge: Bridge, tmp_path: Path
) -> None:
    sender = bridge.guests[1]
    # Nobody has this hardware address: what is sent there is lost, and the limit of the call-back decides.
    both.netns.ip(*(f"neigh add 10.88.0.{number} lladdr 02:00:00:00:00:99 dev br0" for number in range(200, 220)))
    for number in range(200, 220):
        packet = both.packet(wire.OFF, ALPHA, address=f"10.88.0.{number}", port=1229)
        sender.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, sender.ipv4)
    words = ("-k", str(both.key), "-o", "status", "-n", BETA)
    assert vmfence.fence(*words, netns=bridge.guests[0]).exit == 0
    assert both.told("cannot call back. 10.88.0.2") == 0, "the disturbance was over before: that shows nothing"
    both.wait_told("cannot call back. 10.88.0.219")
    assert both.state(ALPHA) == ON


def test_d20_many_honest_requests_at_once(rig: Rig) -> None:
    """Sixty conversations interleaved, the last begun is the first to be finished."""
    source = new_source()
    with ExitStack() as stack:
        peers = [stack.enter_context(rig.send(rig.packet(wire.STATUS, BETA), source)) for _ in range(60)]
        for peer in reversed(peers):
            assert peer.converse(rig.secret) == wire.DONE


# D23: a flood


class Flood(threading.Thread):
    """Sends datagrams from a guest until it is told to stop, and at least *least*."""

    def __init__(self, sender: Guest, datagrams: list[bytes], least: int) -> None:
        super().__init__(daemon=True)
        self._sender, self._datagrams, self._least = sender, datagrams, least
        self._over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        self._sender.call(self._send)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _send(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._sender.ipv4))
            while self.sent < self._least or not self._over.is_set():
                sender.sendto(self._datagrams[self.sent % len(self._datagrams)], (wire.GROUP, wire.PORT))
                self.sent += 1


def junk(rig: Rig) -> list[bytes]:
    """Return datagrams of every cheap kind of wrong, and well-formed ones signed with another key."""
    forged = [wire.sign(wire.packet(wire.OFF, ALPHA, address="10.88.0.12", port=9), b"wrong") for _ in range(50)]
    shaped = [
        bytes([code, kind]) + bytes(66) + os.urandom(108) for code in (0, 1, 7, 255) for kind in (0, 1, 2, 3, 4, 255)
    ]
    sized = [os.urandom(size) for size in (0, 1, 100, 175, 177, 1176)]
    return forged + shaped + sized


@pytest.mark.system
def test_d23_honest_clients_are_served_during_a_flood(vmfence: CommandLine, both: Rig, bridge: Bridge) -> None:
    begin = len(both.daemon.log())
    flood = Flood(bridge.guests[1], junk(both), 20000)
    flood.start()
    try:
        wait_until(lambda: flood.sent > 500, what="flood under way")
        for action, wanted in (("status", 0), ("off", 0), ("status", 2), ("on", 0)):
            words = ("-k", str(both.key), "-o", action, "-n", BETA, "-t", "20", "-r", "5")
            assert vmfence.fence(*words, netns=bridge.guests[0]).exit == wanted
        assert flood.is_alive()
    finally:
        flood.stop()
    log = both.daemon.log()[begin:]
    assert flood.sent >= 20000
    assert len(log) < 40_000, f"{len(log)} bytes of log for {flood.sent} datagrams"
    for reason in ("wrong key", "packet too short", "packet too long", "unknown hash type", "weak hash"):
        assert reason in log
    both.serves()


def test_d23_a_thousand_forged_tcp_requests(rig: Rig) -> None:
    begin = len(rig.daemon.log())
    for _ in range(1000):
        with rig.send(wire.sign(wire.packet(wire.OFF, ALPHA), b"wrong")) as peer:
            assert peer.closed()
    assert rig.ask(wire.STATUS, BETA) == wire.DONE
    assert len(rig.daemon.log()) - begin < 4000
    assert rig.state(ALPHA) == ON


# D24, D25: the agent's call-back port


def paused(rig: Rig) -> ExitStack:
    """Hold the daemon still until the block ends."""
    stack = ExitStack()
    rig.daemon.signal(signal.SIGSTOP)
    stack.callback(rig.daemon.signal, signal.SIGCONT)
    return stack


def callable_at(guest: Guest, port: int) -> bool:
    """Tell whether somebody listens at *port* of a guest."""
    try:
        guest.call(wire.connect, guest.ipv4, port, 1.0).stream.close()
    except OSError:
        return False
    return True


STRANGERS = {"nothing": b"", "zero": b"\0", "half": bytes(63), "rubbish": bytes(range(128)), "long": bytes(100_000)}


@pytest.mark.system
@pytest.mark.parametrize("says", STRANGERS)
def test_d24_strangers_at_the_call_back_port(vmfence: CommandLine, both: Rig, bridge: Bridge, says: str) -> None:
    """They come before the daemon, a hundred of them, some stay; the guest is fenced all the same."""
    guest, stranger = bridge.guests
    both.power_on(ALPHA)
    with ExitStack() as stack:
        with paused(both):
            agent = agent_in(guest, both, vmfence, "-o", "off", "-n", ALPHA, "-t", "30", "-r", "5")
            stack.enter_context(agent)
            wait_until(lambda: callable_at(guest, wire.PORT), what="the agent's port")
            for number in range(100):
                peer = stranger.call(wire.connect, guest.ipv4, wire.PORT)
                with ExitStack() as broken:
                    broken.callback(peer.stream.close)
                    try:
                        peer.send(STRANGERS[says])
                    except ConnectionError:
                        pass  # it had enough
                    if number % 10 == 0:
                        stack.callback(peer.stream.close)
                        broken.pop_all()
        _, told = agent.communicate(timeout=60)
    assert agent.returncode == 0, told
    assert both.state(ALPHA) == OFF


@pytest.mark.system
def test_d25_two_agents_on_one_guest(vmfence: CommandLine, both: Rig, bridge: Bridge) -> None:
    """The second one finds port 1229 taken and uses another; both are served."""
    guest = bridge.guests[0]
    both.power_on(ALPHA, BETA)
    with paused(both):
        agents = []
        for name in (ALPHA, BETA, "nobody"):
            agents.append(agent_in(guest, both, vmfence, "-o", "off", "-n", name, "-t", "30", "-r", "5"))
            wait_until(lambda: len(ports_of(agents[-1].pid)) == 1, what="its call-back port")
        taken = [ports_of(agent.pid).pop() for agent in agents]
    told = [agent.communicate(timeout=60)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0, 1], told
    assert taken[0] == wire.PORT and len(set(taken)) == 3
    assert both.hosts() == {ALPHA: OFF, BETA: OFF}
    both.power_on(ALPHA, BETA)


def ports_of(pid: int) -> set[int]:
    """Return the TCP ports at which the process *pid* listens, read in its own network namespace."""
    inodes = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return set()
    rows = [line.split() for line in lines]
    return {int(row[1][-4:], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


# D26: a list that is not whole

WHOLE = bytes([wire.HOSTS]) + record(b"alpha") + record(b"beta") + TERMINATOR
CUTS = {
    "before-any": 1,
    "in-the-first": 60,
    "after-one": 1 + 130,
    "in-the-second": 1 + 130 + 40,
    "before-the-end": 1 + 260,
    "in-the-end": len(WHOLE) - 1,
}


@pytest.mark.parametrize("then", ["closes", "stalls"])
@pytest.mark.parametrize("cut", CUTS)
def test_d26_a_list_cut_short_is_a_failure(vmfence: CommandLine, tmp_path: Path, cut: str, then: str) -> None:
    key = write_key(tmp_path / "key")

    def cut_off(peer: wire.Peer) -> None:
        prove(peer, key.read_bytes())
        peer.send(WHOLE[: CUTS[cut]])
        if then == "stalls":
            peer.read(1)

    with FalseHost(cut_off) as host:
        result = vmfence.fence(*host.options(key), "-o", "list", "-t", "1" if then == "stalls" else "20")
    assert (result.exit, result.stdout, host.results) == (1, "", [None])
    assert len(result.stderr) < 1000 and no_trace(result.stderr)


def test_d26_an_endless_list_is_a_failure(vmfence: CommandLine, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")

    def go_on(peer: wire.Peer) -> str:
        prove(peer, key.read_bytes())
        peer.send(bytes([wire.HOSTS]))
        try:
            while True:
                peer.send(record(b"again") * 1000)
        except OSError:
            return "the agent left"

    with FalseHost(go_on) as host:
        result = vmfence.fence(*host.options(key), "-o", "list", "-t", "30")
    assert (result.exit, result.stdout, host.results) == (1, "", ["the agent left"])


# D28: many addresses


@pytest.mark.system
@pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
def test_d28_a_guest_with_180_addresses(vmfence: CommandLine, tmp_path: Path, first: bool) -> None:
    """More than fit one netlink reply, before or behind the one that reaches the host; rebooted once, not 180 times."""
    others = [f"addr add 10.99.0.{number}/32 dev lo" for number in range(1, 181)]
    with Bridge(guests=1) as bridge, multicast_rig(vmfence, tmp_path, bridge.host) as rig:
        guest = bridge.guests[0]
        if first:
            guest.ip(f"addr del {guest.ipv4}/24 dev eth0", *others, f"addr add {guest.ipv4}/24 dev eth0")
        else:
            guest.ip(*others)
        words = ("-k", str(rig.key), "-n", ALPHA, "-t", "30")
        assert vmfence.fence(*words, "-o", "reboot", netns=guest).exit == 0
        assert vmfence.fence(*words, "-o", "off", netns=guest).exit == 0
        assert rig.state(ALPHA) == OFF
        assert (rig.told("action=reboot"), rig.told("action=off")) == (1, 1), rig.daemon.log()


@pytest.mark.system
def test_d28_addresses_that_all_answer(vmfence: CommandLine, tmp_path: Path) -> None:
    """Sixty addresses on the bridge itself: sixty call-backs, one of them is carried out."""
    with Bridge(guests=1) as bridge, multicast_rig(vmfence, tmp_path, bridge.host) as rig:
        guest = bridge.guests[0]
        guest.ip(*(f"addr add 10.88.0.{number}/24 dev eth0" for number in range(100, 160)))
        words = ("-k", str(rig.key), "-n", ALPHA, "-t", "30")
        assert vmfence.fence(*words, "-o", "reboot", netns=guest).exit == 0
        rig.serves()
        assert rig.told("action=reboot") == 1, rig.daemon.log()


@pytest.mark.system
def test_d28_a_point_to_point_link_names_the_local_address(vmfence: CommandLine, tmp_path: Path) -> None:
    with Bridge(guests=1) as bridge, multicast_rig(vmfence, tmp_path, bridge.host) as rig:
        guest = bridge.guests[0]
        guest.ip(f"addr del {guest.ipv4}/24 dev eth0", f"addr add {guest.ipv4} peer 10.88.0.1 dev eth0")
        assert vmfence.fence("-k", str(rig.key), "-n", ALPHA, "-o", "off", "-t", "20", netns=guest).exit == 0
        assert rig.state(ALPHA) == OFF


# D37: no descriptor left


def test_d37_descriptor_exhaustion_ends_with_its_cause(rig: Rig) -> None:
    begin = len(rig.daemon.log())
    with descriptors(rig, 20) as limit:
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(rig.connect())
            wait_until(lambda: len(os.listdir(f"/proc/{rig.daemon.pid}/fd")) >= limit, what="no descriptor left")
            rig.wait_told("Too many open files")
        assert rig.ask(wire.STATUS, BETA) == wire.DONE
        assert rig.ask(wire.OFF, BETA) == wire.DONE
        rig.power_on(BETA)
    log = rig.daemon.log()[begin:]
    assert no_trace(log), log
    assert len(log) < 20_000
    rig.serves()


# D39: duplicates


def test_d39_a_wish_in_progress_is_not_begun_twice(rig: Rig) -> None:
    """A second copy, other random bytes, while the first is in its conversation; when that fails, a third is heard."""
    with hung(rig.send(rig.packet(wire.OFF, ALPHA, seqno=77))):
        assert rig.ask(wire.OFF, ALPHA, seqno=77) is None
        assert rig.state(ALPHA) == ON
    wait_until(lambda: rig.ask(wire.OFF, ALPHA, seqno=77) == wire.DONE, 20, "the failed one to be forgotten")
    rig.power_on(ALPHA)
    assert rig.ask(wire.OFF, ALPHA, seqno=77) is None  # answered: a late copy does nothing
    assert rig.ask(wire.OFF, "ALPHA", seqno=77) is None  # as fence_virtd: without regard to case
    assert rig.state(ALPHA) == ON


def test_d39_clients_that_draw_the_same_number_do_not_collide(rig: Rig) -> None:
    assert rig.ask(wire.OFF, ALPHA, seqno=78, source="127.0.0.1") == wire.DONE
    rig.power_on(ALPHA)
    assert rig.ask(wire.OFF, ALPHA, seqno=78, source="127.0.0.2") == wire.DONE
    assert rig.ask(wire.ON, ALPHA, seqno=78) == wire.DONE  # another action
    assert rig.ask(wire.OFF, BETA, seqno=78) == wire.DONE  # another guest
    rig.power_on(ALPHA, BETA)


# D40: nothing sleeps


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that went off: each is a wait to its end."""

    fired = 0

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        def fire() -> None:
            self.fired += 1
            callback(*args)

        return super().call_at(when, fire, context=context)


def test_d40_no_action_waits_for_more_than_the_hypervisor(tmp_path: Path) -> None:
    from vmfence.host.backends.libvirt import LibvirtBackend
    from vmfence.host.service import Caller, Rules, Service
    from vmfence.policy import Origin, Policy
    from vmfence.protocol.request import Action, Request

    async def act(service: Service, action: Action) -> int:
        request = Request(action, ALPHA.encode(), seqno=1)
        caller = Caller(Origin("tcp", LOOPBACK), None, lambda: False)
        return (await service.handle(request, caller, time.monotonic() + 20)).code

    loop = CountingLoop()
    backend = LibvirtBackend((driver_uri(tmp_path, dict(GUESTS)),))
    try:
        service = Service(backend, Rules(Policy(None)))
        for action in (Action.REBOOT, Action.OFF, Action.ON, Action.REBOOT, Action.STATUS):
            assert loop.run_until_complete(act(service, action)) == wire.DONE
        assert loop.fired == 0
    finally:
        backend.close()
        loop.close()


# D41: a client that does not read


@pytest.mark.system
def test_d41_a_client_that_does_not_read_its_list_delays_nobody(vmfence: CommandLine, tmp_path: Path) -> None:
    """3000 guests are 390 KB: more than the kernel takes once its buffers are small."""
    guests = {f"vm{number:04}": f"11111111-2222-3333-4444-{number:012}" for number in range(3000)}
    with Namespace("small") as host:
        for name in ("tcp_wmem", "tcp_rmem"):
            host.run(["tee", f"/proc/sys/net/ipv4/{name}"], input="4096 16384 16384")
        with Rig(vmfence, tmp_path, guests, netns=host) as rig, rig.send(rig.packet(wire.LIST)) as lazy:
            check_lazy(rig, lazy)


def check_lazy(rig: Rig, lazy: wire.Peer) -> None:
    assert lazy.converse(rig.secret) == wire.HOSTS
    assert len(rig.hosts()) == 3000
    assert rig.ask(wire.OFF, "vm0001") == wire.DONE
    assert rig.ask(wire.STATUS, "vm0001") == wire.IS_OFF
    assert rig.told("action=list") == 1, "the list was written whole: that shows nothing"
    assert len(lazy.hosts()) == 3000  # and it is still complete for who is slow
