"""Part D of the reference's defects, data: each test is named by the defect that it would catch.

D13, D14, D30, D31 (as far as a little-endian machine can show it), D36.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import wire
from lab.host import TERMINATOR, FalseHost, guest_list, prove, record
from lab.net import Bridge
from lab.ours import CommandLine, driver_uri
from lab.reference import write_key
from lab.rig import ALPHA, BETA, GUESTS, LOOPBACK, OFF, ON, Rig, free_port, no_trace

LONG = "x" * 70
UMLAUT = "ü" * 40  # 80 bytes
EDGE = "y" * 63
NAMES = {ALPHA: GUESTS[ALPHA], LONG: GUESTS[BETA], UMLAUT: GUESTS[BETA][:-1] + "3", EDGE: GUESTS[BETA][:-1] + "4"}


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(vmfence, tmp_path_factory.mktemp("rig"), NAMES) as rig:
        yield rig


def raw_list(rig: Rig) -> bytes:
    """Return a whole list reply, as it is on the wire."""
    with rig.send(rig.packet(wire.LIST)) as peer:
        assert peer.converse(rig.secret) == wire.HOSTS
        data = b""
        while piece := peer.read(65536):
            data += piece
    return data


def test_d13_records_hold_nothing_but_what_belongs_there(rig: Rig) -> None:
    data = raw_list(rig)
    size = wire.RECORD.size
    assert len(data) == size * (len(NAMES) + 1) + 1
    for start in range(0, size * len(NAMES), size):
        one = data[start : start + size]
        assert (one[63], one[127], one[129]) == (0, 0, 0)
        for field in (one[:64], one[64:128]):
            text, _, rest = field.partition(b"\0")
            assert text and not rest.strip(b"\0")
            text.decode()  # a name is never cut inside a character
    assert data[-size - 1 :] == TERMINATOR + b"\0"


def test_d13_long_names_are_cut_and_reachable_by_uuid(rig: Rig, vmfence: CommandLine) -> None:
    hosts = rig.hosts()
    assert set(hosts) == {ALPHA, LONG[:63], "ü" * 31, EDGE}
    assert rig.ask(wire.STATUS, EDGE) == wire.DONE
    assert rig.ask(wire.STATUS, LONG[:63]) == wire.FAILED  # no guest has this name
    assert rig.fence("status", LONG).exit == 1
    assert rig.fence("status", NAMES[LONG]).exit == 0


def test_d13_the_agent_cuts_what_a_reference_host_sends(vmfence: CommandLine, tmp_path: Path) -> None:
    """Rubbish where the reference has it: bytes 63, 127 and 129, names that fill their field."""
    key = write_key(tmp_path / "key")
    uuid = GUESTS[ALPHA].encode()
    dirty = bytearray(record(b"n" * 64, uuid + bytes(27) + b"\x4c", 1))
    dirty[129] = 0x3A

    def show(peer: wire.Peer) -> None:
        prove(peer, key.read_bytes())
        peer.send(guest_list(bytes(dirty), record(b"b\0\x33\x33", uuid + b"\0rubbish", 5)))

    with FalseHost(show) as host:
        result = vmfence.fence(*host.options(key), "-o", "list")
    assert result.exit == 0
    lines = ["n" * 63 + f" {GUESTS[ALPHA]} on", "b".ljust(32) + f" {GUESTS[ALPHA]} off"]
    assert result.stdout.splitlines() == lines


def test_d14_a_name_without_end_is_refused(rig: Rig) -> None:
    for name in (b"A" * 64, b"\xff" * 64, (ALPHA + "\x01" * 64).encode()[:64]):
        for request in (wire.OFF, wire.STATUS, wire.LIST):
            with rig.send(rig.packet(request, name)) as peer:
                assert peer.closed()
    rig.wait_told("guest name without end")
    rig.serves(ALPHA)


def test_d14_what_follows_the_zero_does_not_count(rig: Rig) -> None:
    assert rig.ask(wire.STATUS, ALPHA.encode() + b"\0" + b"A" * 58) == wire.DONE
    assert rig.ask(wire.STATUS, b"\0" + ALPHA.encode()) == wire.FAILED


@pytest.mark.parametrize("name", [b"\xff\xfe", b"al\xc3", b"\xed\xa0\x80", b"\x1b[31m", b"a\nb", b"%s%n", b" "])
def test_d14_strange_names_are_unknown_and_one_line_in_the_log(rig: Rig, name: bytes) -> None:
    before, asked = len(rig.daemon.log().splitlines()), rig.told(" request ")
    assert rig.ask(wire.STATUS, name) == wire.FAILED
    rig.serves(ALPHA)
    rig.wait_told(" request ", asked + 2)
    lines = rig.daemon.log().splitlines()[before:]
    # The line of the request before may have been written after its answer was read.
    assert len(lines) in (2, 3) and all(line.isprintable() for line in lines), lines


def test_d14_addrlen_and_unknown_flags_are_ignored(rig: Rig) -> None:
    packet = bytearray(wire.packet(wire.STATUS, ALPHA, flags=0xFE))
    packet[2] = 200
    with rig.send(wire.sign(bytes(packet), rig.secret)) as peer:
        assert peer.converse(rig.secret) == wire.DONE


def test_d30_lists_of_several_hypervisors_are_whole_and_sorted(vmfence: CommandLine, tmp_path: Path) -> None:
    uris = []
    for number, names in enumerate((("delta", "Bravo"), ("alpha", "Charlie"), ("echo",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        uris.append(
            driver_uri(folder, {n: f"11111111-2222-3333-4444-5555555{number}{i:04}" for i, n in enumerate(names)})
        )
    with Rig(vmfence, tmp_path, uris=uris) as rig:
        assert list(rig.hosts()) == ["alpha", "Bravo", "Charlie", "delta", "echo"]
        printed = [line.split()[0] for line in rig.fence("list").stdout.splitlines()]
        assert printed == list(rig.hosts())
        for name in ("delta", "Charlie", "echo"):
            assert rig.ask(wire.OFF, name) == wire.DONE
            assert rig.state(name) == OFF
        assert rig.state("alpha") == ON


def test_d30_no_guest_is_an_empty_list_and_a_success(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path, {}) as rig:
        assert rig.hosts() == {}
        result = rig.fence("list")
        assert (result.exit, result.stdout) == (0, "")


@pytest.mark.system
def test_d31_numbers_are_little_endian_on_the_wire(vmfence: CommandLine, tmp_path: Path) -> None:
    """Port, family and number of our agent's datagrams, as any machine must write them."""
    key = write_key(tmp_path / "key")
    with Bridge(guests=2) as bridge:
        sender, hearer = bridge.guests
        with hearer.call(join, hearer.ipv4) as heard:
            words = ("-k", str(key), "-o", "off", "-n", ALPHA, "-t", "1", "-p", "1234", "-a", "225.0.0.12")
            assert vmfence.fence(*words, netns=sender).exit == 1
            packets = [heard.recv(4096)]
            heard.setblocking(False)
            while True:
                try:
                    packets.append(heard.recv(4096))
                except BlockingIOError:
                    break
    assert {len(packet) for packet in packets} == {176}
    fields = [struct.unpack("<HxxxxxxII", packet[96:112]) for packet in packets]
    assert {(port, family) for port, _, family in fields} == {(1234, 2)}
    assert len({number for _, number, _ in fields}) == 1
    assert all(packet == wire.sign(packet, key.read_bytes()) for packet in packets)
    assert len({packet[98:104] for packet in packets}) == len(packets)  # fresh random bytes each


def join(address: str) -> socket.socket:
    """Return a socket that hears the group at port 1234 on the link with *address*."""
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.bind(("", 1234))
    member = socket.inet_aton(wire.GROUP) + socket.inet_aton(address)
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    heard.settimeout(10)
    return heard


# D36: diagnostics


def test_d36_the_reason_of_a_failed_connection_is_the_true_one(vmfence: CommandLine, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    words = ("-k", str(key), "-o", "off", "-n", ALPHA)
    refused = vmfence.fence("-T", LOOPBACK, "-p", str(free_port()), *words)
    assert refused.exit == 1 and "Connection refused" in refused.stderr
    named = vmfence.fence("-T", "localhost", *words)
    assert named.exit == 1 and "IP address" in named.stderr
    for result in (refused, named):
        assert "Bad file descriptor" not in result.stderr and no_trace(result.stderr)


def test_d36_refused_packets_are_told_with_their_source(rig: Rig) -> None:
    with rig.send(wire.sign(wire.packet(wire.OFF, ALPHA), b"wrong"), source="127.0.0.9") as peer:
        assert peer.closed()
    line = rig.daemon.wait_for_line("rejected packet from 127.0.0.9.*").group()
    assert "wrong key" in line


def test_d36_a_request_is_one_line_with_all_that_matters(rig: Rig) -> None:
    assert rig.ask(wire.OFF, "nobody", source="127.0.0.8") == wire.FAILED
    line = rig.daemon.wait_for_line(".*origin=127.0.0.8.*").group()
    for part in ("action=off", "guest=nobody", "via=tcp", "result=failed"):
        assert part in line
