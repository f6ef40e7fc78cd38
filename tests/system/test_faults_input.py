"""Bad input against the running daemon, by tcp and by multicast: it lives, says why, and serves others meanwhile.

libvirt's test driver; traffic inside the laboratory's namespaces.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab import wire
from lab.net import Bridge
from lab.ours import CommandLine
from lab.reference import write_key
from lab.rig import ALPHA, BETA, ON, Rig, hung, is_open, multicast_rig, no_trace
from lab.waiting import wait_until

pytestmark = pytest.mark.system
SEED = 20261123


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=2) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory, bridge: Bridge) -> Iterator[Rig]:
    with multicast_rig(vmfence, tmp_path_factory.mktemp("rig"), bridge.host) as rig:
        yield rig


@pytest.fixture(autouse=True)
def unharmed(rig: Rig) -> Iterator[None]:
    """After every test the daemon lives, serves, has not stumbled, and nobody was fenced."""
    yield
    rig.serves()
    assert rig.hosts() == {ALPHA: ON, BETA: ON}


class Datagrams:
    """Sends datagrams from the first guest; an honest request behind them shows that they were all read."""

    def __init__(self, bridge: Bridge, rig: Rig) -> None:
        self._rig, self._guest = rig, bridge.guests[0]

    def send(self, *datagrams: bytes) -> str:
        """Send all; return what the daemon wrote about them."""
        begin = len(self._rig.daemon.log())
        for datagram in datagrams:
            self._guest.call(wire.send_datagram, datagram, wire.GROUP, wire.PORT, self._guest.ipv4)
        self.ask(wire.STATUS, ALPHA)
        return self._rig.daemon.log()[begin:]

    def ask(self, request: int, guest: str, **fields: object) -> None:
        """Hold an honest conversation by call-back."""
        with self._guest.call(wire.listen, self._guest.ipv4, 0) as listener:
            for _ in range(20):  # repeated, as honest clients do
                packet = self.packet(request, guest, port=listener.getsockname()[1], **fields)
                self._guest.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, self._guest.ipv4)
                if peer := wire.accept(listener, 2):
                    break
            with peer:
                assert peer.converse(self._rig.secret) == wire.DONE

    def packet(self, request: int, guest: str | bytes = b"", **fields: object) -> bytes:
        """Return a signed packet that names this guest."""
        return self._rig.packet(request, guest, **{"address": self._guest.ipv4, "port": 9, **fields})


@pytest.fixture
def datagrams(bridge: Bridge, rig: Rig) -> Datagrams:
    return Datagrams(bridge, rig)


def refuses(rig: Rig, data: bytes, cut: bool = False) -> bool:
    """Tell whether the daemon hangs up on *data* without a byte; *cut*: nothing more will come."""
    with rig.send(data) as peer:
        if cut:
            peer.stream.shutdown(socket.SHUT_WR)
        return peer.closed()


def resigned(rig: Rig, packet: bytes, at: int, value: bytes) -> bytes:
    """Return *packet* with *value* at the offset *at*, signed again."""
    return wire.sign(packet[:at] + value + packet[at + len(value) :], rig.secret)


# Rubbish


def test_random_bytes_by_tcp(rig: Rig) -> None:
    source = random.Random(SEED)
    for _ in range(300):
        assert refuses(rig, source.randbytes(176 + source.randrange(200)))


def test_random_bytes_by_multicast(datagrams: Datagrams) -> None:
    source = random.Random(SEED)
    log = datagrams.send(*(source.randbytes(source.choice([176, source.randrange(1, 400)])) for _ in range(500)))
    assert "rejected packet" in log and len(log) < 10_000


def test_mutations_of_a_good_packet(rig: Rig, datagrams: Datagrams) -> None:
    """Every single byte changed, without a new signature."""
    good = datagrams.packet(wire.OFF, ALPHA)
    changed = [good[:at] + bytes([good[at] ^ 0x81]) + good[at + 1 :] for at in range(176)]
    before = rig.rejected("wrong key")
    datagrams.send(*changed)
    assert rig.rejected("wrong key") - before >= 170  # the rest: another hash type, a name without end
    assert all(refuses(rig, packet) for packet in changed)
    rig.wait_told("wrong key")


def test_mutations_with_a_true_signature(rig: Rig, datagrams: Datagrams) -> None:
    """A holder of the key who writes nonsense into every byte outside the name: no crash (monitor is safe)."""
    source = random.Random(SEED)
    good = datagrams.packet(wire.MONITOR)
    packets = [resigned(rig, good, at, source.randbytes(1)) for at in range(2, 112)]
    datagrams.send(*packets)
    for packet in packets:
        with rig.send(resigned(rig, packet, 98, os.urandom(6))) as peer:
            assert peer.converse(rig.secret) in (wire.DONE, None)


# Sizes


def test_every_truncation_by_multicast(rig: Rig, datagrams: Datagrams) -> None:
    good = datagrams.packet(wire.OFF, ALPHA)
    log = datagrams.send(*(good[:size] for size in range(176)), good + b"\0", good + bytes(1000))
    assert "action=off" not in log
    rig.wait_told("packet too short")
    rig.wait_told("packet too long")


def test_every_truncation_by_tcp(rig: Rig) -> None:
    good = rig.packet(wire.OFF, ALPHA)
    assert all(refuses(rig, good[:size], cut=True) for size in range(176))
    rig.wait_told("packet too short")


def test_a_packet_in_pieces_is_whole(rig: Rig) -> None:
    for size in (1, 2, 88, 175):
        packet = rig.packet(wire.STATUS, ALPHA)
        with rig.connect() as peer:
            peer.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, 176, max(size, 8)):
                peer.send(packet[start : start + max(size, 8)])
            assert peer.converse(rig.secret) == wire.DONE


def test_everything_in_one_piece_and_more(rig: Rig) -> None:
    """Request, challenge and a megabyte of rubbish at once: nothing is proven by it, nothing is kept."""
    with rig.send(rig.packet(wire.OFF, ALPHA) + os.urandom(64)) as peer:
        try:
            peer.send(bytes(1 << 20))
        except OSError:
            pass  # hung up on in the middle
        assert len(peer.read(129)) in (0, 128)


# Fields


@pytest.mark.parametrize("code", [7, 8, 9, 127, 128, 200, 255])
def test_unknown_request_codes_are_a_failure(rig: Rig, datagrams: Datagrams, code: int) -> None:
    assert rig.ask(code, ALPHA) == wire.FAILED
    assert rig.ask(code) == wire.FAILED
    datagrams.send(datagrams.packet(code, ALPHA))


def test_null_is_answered_by_a_failure(rig: Rig) -> None:
    assert rig.ask(wire.NULL, ALPHA) == wire.FAILED


@pytest.mark.parametrize(("kind", "reason"), [(0, "weak hash"), (1, "weak hash"), (4, "unknown hash type")])
def test_wrong_hash_types(rig: Rig, datagrams: Datagrams, kind: int, reason: str) -> None:
    for unsigned in (wire.packet(wire.OFF, ALPHA, kind=kind), wire.packet(wire.OFF, ALPHA)):
        packet = bytearray(unsigned)
        packet[1] = kind
        signed = bytes(packet[:112]) + wire.digest(rig.secret, bytes(packet[:112]) + bytes(64), min(kind, 3))
        assert refuses(rig, signed)
        datagrams.send(signed)
    rig.wait_told(reason)


def test_wrong_families(rig: Rig, datagrams: Datagrams) -> None:
    good = datagrams.packet(wire.OFF, ALPHA)
    packets = [resigned(rig, good, 108, struct.pack("<I", family)) for family in (0, 1, 3, 9, 11, 40, 2**32 - 1)]
    datagrams.send(*packets)
    rig.wait_told("no address or port to call back")


def test_wrong_addresses_and_ports(rig: Rig, datagrams: Datagrams) -> None:
    addresses = ("0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "::", "::1", "ff02::1", "::ffff:10.88.0.11")
    packets = [datagrams.packet(wire.OFF, ALPHA, address=address) for address in addresses]
    packets.append(datagrams.packet(wire.OFF, ALPHA, port=0))
    datagrams.send(*packets)
    rig.wait_told("cannot be called back")


def test_a_call_back_that_is_refused(rig: Rig, datagrams: Datagrams, bridge: Bridge) -> None:
    datagrams.send(datagrams.packet(wire.OFF, ALPHA, port=9))
    rig.wait_told(f"cannot call back. {bridge.guests[0].ipv4} port 9: Connection refused".split(":")[0])


NAMES = [
    b"A" * 64,
    b"\xff" * 64,
    b"\xff\xfe\x80",
    b"\xc3",
    bytes(range(1, 64)),
    b"x" * 63,
    b"../../etc/passwd",
    b"%n%s",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_are_none(rig: Rig, datagrams: Datagrams, name: bytes) -> None:
    begin = len(rig.daemon.log())
    whole = len(name) < 64
    for request in (wire.OFF, wire.STATUS, wire.REBOOT, wire.ON):
        assert rig.ask(request, name) == (wire.FAILED if whole else None)
    datagrams.send(datagrams.packet(wire.OFF, name))
    log = rig.daemon.log()[begin:]
    assert all(line.isprintable() for line in log.splitlines())
    if not whole:
        rig.wait_told("guest name without end")


# Conversations that stop


def test_a_client_that_stops_after_every_number_of_bytes(rig: Rig) -> None:
    """It closes within the request, within its challenge, and within its answer; nothing is ever done."""
    sources = [f"127.0.1.{number}" for number in range(1, 65)]
    for size in range(176):
        rig.send(rig.packet(wire.OFF, ALPHA)[:size]).stream.close()
    for size, source in enumerate(sources):
        rig.send(rig.packet(wire.OFF, ALPHA) + bytes(size), source).stream.close()
    for size, source in enumerate(sources):
        with rig.send(rig.packet(wire.OFF, ALPHA), source) as peer:
            assert peer.challenge(rig.secret)
            answer = wire.digest(rig.secret, peer.read(64))
            peer.send(answer[:size])
    rig.wait_told("the client closed the connection")


def test_a_client_that_half_closes_at_every_stage_is_hung_up_on(rig: Rig) -> None:
    for stage in ("request", "challenge", "answer"):
        with rig.send(rig.packet(wire.OFF, ALPHA) if stage != "request" else b"") as peer:
            if stage == "answer":
                assert peer.challenge(rig.secret)
                assert len(peer.read(64)) == 64
            peer.stream.shutdown(socket.SHUT_WR)
            assert peer.closed()


def test_resets_at_every_stage(rig: Rig) -> None:
    for stage in range(4):
        peer = rig.connect()
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if stage > 0:
            peer.send(rig.packet(wire.OFF if stage < 3 else wire.STATUS, ALPHA))
        if stage > 1:
            assert peer.challenge(rig.secret)
        if stage > 2:
            peer.respond(rig.secret)
        peer.stream.close()


def test_a_wrong_answer_of_every_kind(rig: Rig) -> None:
    answers = [
        lambda theirs: bytes(64),
        lambda theirs: theirs,
        lambda theirs: wire.digest(rig.secret, theirs)[:16] + os.urandom(48),
        lambda theirs: wire.digest(rig.secret, theirs)[:32] + b"\0" * 31 + b"\1",
        lambda theirs: wire.digest(rig.secret, theirs, wire.SHA1),
    ]
    for answer in answers:
        with rig.send(rig.packet(wire.OFF, ALPHA)) as peer:
            assert peer.challenge(rig.secret)
            peer.send(answer(peer.read(64)))
            assert peer.closed()
    rig.wait_told("wrong answer to our challenge")


def test_a_call_back_that_says_nothing_hangs_alone(rig: Rig, datagrams: Datagrams, bridge: Bridge) -> None:
    guest = bridge.guests[1]
    with ExitStack() as stack:
        listener = stack.enter_context(guest.call(wire.listen, guest.ipv4, 0))
        for _ in range(20):
            packet = rig.packet(wire.OFF, ALPHA, address=guest.ipv4, port=listener.getsockname()[1])
            guest.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, guest.ipv4)
        for _ in range(20):
            stack.enter_context(hung(wire.accept(listener, 20)))
        datagrams.ask(wire.STATUS, ALPHA)
        rig.serves()


def test_a_client_that_says_nothing_is_hung_up_on(rig: Rig) -> None:
    with rig.connect() as peer:
        rig.serves()
        assert is_open(peer)
        assert peer.closed()
    rig.wait_told("no request")


# Keys


def test_keys_beyond_4096_bytes_interoperate(vmfence: CommandLine, tmp_path: Path) -> None:
    """The first 4096 bytes count: 5000 bytes on both sides, or on one."""
    content = os.urandom(5000)
    theirs = write_key(tmp_path / "theirs", content[:4096] + os.urandom(904))
    short = write_key(tmp_path / "short", content[:4095])
    with Rig(vmfence, tmp_path, key=write_key(tmp_path / "ours", content)) as rig:
        assert rig.fence("status", ALPHA).exit == 0
        assert rig.fence("status", ALPHA, key=theirs).exit == 0
        assert rig.fence("status", ALPHA, key=short).exit == 1
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE


# A long list


def test_a_client_that_never_reads_its_list_is_given_up(vmfence: CommandLine, tmp_path: Path, bridge: Bridge) -> None:
    """3000 guests and small buffers: others are served, and the daemon lets go of it in the end."""
    guests = {f"vm{number:04}": f"11111111-2222-3333-4444-{number:012}" for number in range(3000)}
    for name in ("tcp_wmem", "tcp_rmem"):
        bridge.guests[1].run(["tee", f"/proc/sys/net/ipv4/{name}"], input="4096 16384 16384")
    with Rig(vmfence, tmp_path, guests, netns=bridge.guests[1]) as big, big.send(big.packet(wire.LIST)) as lazy:
        assert lazy.converse(big.secret) == wire.HOSTS
        for _ in range(3):
            assert len(big.hosts()) == 3000
            assert big.ask(wire.OFF, "vm0001") == wire.DONE
        with big.send(big.packet(wire.LIST)) as leaver:
            assert leaver.converse(big.secret) == wire.HOSTS
        wait_until(lambda: big.told("did not read the answer") == 1, 30, "giving up on who does not read")
        wait_until(lambda: big.told("the answer was lost") == 1, 30, "noticing who left")
        assert no_trace(big.daemon.log())
        assert big.ask(wire.STATUS, "vm0002") == wire.DONE
