"""Part B of the reference's defects, authentication and access: each test is named by the defect that it would catch.

D1, D2, D6, D10b, D12, D15, D16, D17, D18, D35.  Not applicable yet: D22 (serial listener).
"""

from __future__ import annotations

import base64
import itertools
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import wire
from lab.net import Bridge
from lab.ours import CommandLine, driver_uri
from lab.rig import (
    ALPHA,
    BAD_KEYS,
    BETA,
    GUESTS,
    LOOPBACK,
    OFF,
    ON,
    Rig,
    multicast_rig,
    no_trace,
    powerless,
    refused,
)

SIGNED = (wire.SHA1, wire.SHA256, wire.SHA512)
NAMES = ("none", "sha1", "sha256", "sha512")


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(vmfence, tmp_path_factory.mktemp("rig"), tcp={"hash": "sha1"}) as rig:
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


def call_back(bridge: Bridge, rig: Rig, request: int, guest: str, number: int = 0, **fields: object) -> wire.Peer:
    """Send an honest datagram from a guest and return the daemon's call-back to it."""
    sender = bridge.guests[number]
    with sender.call(wire.listen, sender.ipv4, 0) as listener:
        port = listener.getsockname()[1]
        packet = rig.packet(request, guest, address=sender.ipv4, port=port, **fields)
        sender.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, sender.ipv4)
        peer = wire.accept(listener, 20)
        assert peer, rig.daemon.log()
        return peer


def challenge_of(peer: wire.Peer, secret: bytes) -> bytes:
    """Return the daemon's challenge, having given it one of ours."""
    assert peer.challenge(secret)
    return peer.read(64)


def expect_nobody(listener: socket.socket) -> None:
    """Check that nobody has connected to *listener*."""
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()[0].close()


def is_refused(rig: Rig, packet: bytes) -> bool:
    """Tell whether the daemon hangs up on *packet* without a byte, even when a challenge follows it."""
    with rig.send(packet + os.urandom(64)) as peer:
        return peer.closed()


# D1: a recording, played back


@pytest.mark.parametrize("kind", SIGNED, ids=NAMES[1:])
@pytest.mark.parametrize("request_code", [wire.OFF, wire.REBOOT, wire.ON, wire.STATUS, wire.MONITOR, wire.LIST])
def test_d01_a_recording_is_refused_for_good(rig: Rig, request_code: int, kind: int) -> None:
    packet = rig.packet(request_code, ALPHA, kind=kind)
    with rig.send(packet) as peer:
        assert peer.converse(rig.secret) is not None
    rig.power_on(ALPHA)
    for _ in range(3):
        assert is_refused(rig, packet)
    assert rig.state(ALPHA) == ON
    assert "repeated packet" in rig.daemon.log()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_d01_a_recording_is_refused_after_a_restart(vmfence: CommandLine, tmp_path: Path, ending: int) -> None:
    with Rig(vmfence, tmp_path) as rig:
        packets = [rig.packet(request, ALPHA) for request in (wire.OFF, wire.REBOOT, wire.ON)]
        for packet in packets:
            with rig.send(packet) as peer:
                assert peer.converse(rig.secret) == wire.DONE
        for _ in range(2):
            rig.restart(ending)
            assert [is_refused(rig, packet) for packet in packets] == [True] * 3
        assert rig.state(ALPHA) == ON


def test_d01_a_packet_whose_sender_never_proved_himself_is_used_up_too(rig: Rig) -> None:
    packet = rig.packet(wire.OFF, ALPHA)
    rig.send(packet).stream.close()
    rig.daemon.wait_for_line("the client closed the connection")
    assert is_refused(rig, packet)
    assert rig.state(ALPHA) == ON


def test_d01_one_packet_in_two_sessions_at_once(rig: Rig) -> None:
    packet = rig.packet(wire.OFF, ALPHA)
    with rig.send(packet) as first:
        assert first.challenge(rig.secret)
        assert is_refused(rig, packet)
    assert rig.state(ALPHA) == ON


@pytest.mark.parametrize("oracle_first", [False, True])
def test_d01_d02_two_packets_and_a_reflected_challenge_on_one_daemon(rig: Rig, oracle_first: bool) -> None:
    """The attacker holds two packets that never arrived: the daemon must not be the oracle for its own challenge."""
    packets = [rig.packet(wire.OFF, ALPHA), rig.packet(wire.OFF, BETA)]
    oracle = rig.send(packets[1]) if oracle_first else None
    with rig.send(packets[0]) as target:
        question = challenge_of(target, rig.secret)  # what he sends himself does not matter
        with oracle or rig.send(packets[1]) as oracle:
            oracle.send(question)
            assert oracle.closed()
        target.send(os.urandom(64))
        assert target.closed()
    assert rig.hosts() == {ALPHA: ON, BETA: ON}
    assert "reflection" in rig.daemon.log()


def test_d01_d02_no_challenge_of_its_own_is_ever_answered(rig: Rig) -> None:
    """Neither one of a session that is over, nor after a reload, nor cut into pieces."""
    with rig.send(rig.packet(wire.STATUS, ALPHA)) as over:
        question = challenge_of(over, rig.secret)
    rig.reload()
    for pieces in ([question], [question[:1], question[1:]], [question[:63], question[63:]]):
        with rig.send(rig.packet(wire.STATUS, BETA)) as peer:
            for piece in pieces:
                peer.send(piece)
            assert peer.closed()
    with rig.send(rig.packet(wire.STATUS, BETA)) as peer:  # another one is answered
        assert peer.challenge(rig.secret, question=question[:63] + bytes([question[63] ^ 1]))


@pytest.mark.parametrize("restarted", [False, True])
def test_d01_replay_and_reflection_between_two_daemons(vmfence: CommandLine, tmp_path: Path, restarted: bool) -> None:
    """The experiment of D1: one recording, two daemons with one key, either of them as the victim."""
    with Rig(vmfence, tmp_path / "a") as heard, Rig(vmfence, tmp_path / "b", key=heard.key) as other:
        recording = heard.packet(wire.OFF, ALPHA)
        with heard.send(recording) as honest:
            assert honest.converse(heard.secret) == wire.DONE
        heard.power_on(ALPHA)
        if restarted:
            heard.restart(signal.SIGKILL)
        assert is_refused(heard, recording)  # the one that carried it out is no victim
        with other.send(recording) as victim:  # the other one never heard it, and challenges
            question = challenge_of(victim, other.secret)
            for oracle in (heard, other):
                with oracle.send(recording + question) as peer:
                    assert peer.closed()
            victim.send(os.urandom(64))
            assert victim.closed()
        assert (heard.state(ALPHA), other.state(ALPHA)) == (ON, ON)


@pytest.mark.system
def test_d01_a_recorded_datagram_brings_no_call_back(both: Rig, bridge: Bridge) -> None:
    sender = bridge.guests[0]
    with sender.call(wire.listen, sender.ipv4, 0) as listener:
        packet = both.packet(wire.OFF, ALPHA, address=sender.ipv4, port=listener.getsockname()[1])
        sender.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, sender.ipv4)
        with wire.accept(listener, 20) as peer:
            assert peer.converse(both.secret) == wire.DONE
        both.power_on(ALPHA)
        both.restart(signal.SIGKILL)
        for replayer in bridge.guests:
            replayer.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, replayer.ipv4)
            both.daemon.wait_for_line(rf"rejected packet from {replayer.ipv4}\b.*repeated packet")  # D18: the true one
        expect_nobody(listener)
    assert both.state(ALPHA) == ON


@pytest.mark.system
@pytest.mark.parametrize("victim", ["multicast", "tcp"])
def test_d02_no_listener_is_the_oracle_for_another(both: Rig, bridge: Bridge, victim: str) -> None:
    peers = {
        "multicast": call_back(bridge, both, wire.OFF, ALPHA),
        "tcp": both.send(both.packet(wire.OFF, ALPHA)),
    }
    with peers.pop(victim) as target, peers.popitem()[1] as oracle:
        oracle.send(challenge_of(target, both.secret))
        assert oracle.closed()
    assert both.state(ALPHA) == ON


# D6, D10b, D18: datagrams


def send_from(bridge: Bridge, packet: bytes, number: int = 0) -> None:
    sender = bridge.guests[number]
    sender.call(wire.send_datagram, packet, wire.GROUP, wire.PORT, sender.ipv4)


@pytest.mark.system
@pytest.mark.parametrize("minimum", ["none", "sha256"])
def test_d06_short_datagrams_are_not_filled_up(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge, minimum: str
) -> None:
    settings = {"interface": "br0", "hash": minimum, "port": 1230}
    extra = 'allow_unauthenticated = "yes";' if minimum == "none" else ""
    listeners = {"multicast": settings}
    sender = bridge.guests[0]
    with Rig(vmfence, tmp_path, netns=bridge.host, listeners=listeners, daemon=extra) as rig:
        with sender.call(wire.listen, sender.ipv4, 0) as listener:
            port = listener.getsockname()[1]
            kind = NAMES.index(minimum)
            packet = rig.packet(wire.STATUS, ALPHA, address=sender.ipv4, port=port, kind=kind)
            sender.call(wire.send_datagram, packet, wire.GROUP, 1230, sender.ipv4)
            with wire.accept(listener, 20) as peer:
                assert peer.converse(rig.secret) == wire.DONE
            for data in (b"\1", b"", packet[:1], packet[:50], packet[:175], packet + b"\0"):
                sender.call(wire.send_datagram, data, wire.GROUP, 1230, sender.ipv4)
            final = rig.packet(wire.STATUS, BETA, address=sender.ipv4, port=port, kind=kind)
            sender.call(wire.send_datagram, final, wire.GROUP, 1230, sender.ipv4)
            with wire.accept(listener, 20) as peer:  # in order: the others did not bring a call-back
                assert peer.converse(rig.secret) == wire.DONE
        rig.daemon.wait_for_line(f"guest={BETA}")
        assert rig.daemon.log().count(" request ") == 2, rig.daemon.log()
        assert "packet too short" in rig.daemon.log() and "packet too long" in rig.daemon.log()
        assert rig.state(ALPHA) == ON


STRANGE = ["0.0.0.0", "255.255.255.255", "225.0.0.12", "127.0.0.1", "::", "ff05::3:1", "::1"]
STRANGE += ["::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:10.88.0.11"]  # the first reached our own loopback once


@pytest.mark.system
def test_d10b_call_backs_go_to_plain_addresses_only(both: Rig, bridge: Bridge) -> None:
    """All from a holder of the key: even he cannot make the daemon connect to itself or to a group."""
    begin = len(both.daemon.log())
    with both.netns.call(wire.listen, LOOPBACK, 1229) as bait, both.netns.call(wire.listen, "::1", 1229) as bait6:
        for address in STRANGE:
            send_from(bridge, both.packet(wire.OFF, ALPHA, address=address, port=1229))
        send_from(bridge, both.packet(wire.OFF, ALPHA, address=bridge.guests[0].ipv4, port=0))
        with call_back(bridge, both, wire.STATUS, BETA, 1) as honest:
            assert honest.converse(both.secret) == wire.DONE
        for trap in (bait, bait6):
            expect_nobody(trap)
    log = both.daemon.log()[begin:]
    assert "cannot be called back" in log and "port 0" in log
    assert "action=off" not in log and no_trace(log)
    assert both.state(ALPHA) == ON


@pytest.mark.system
def test_d18_rules_do_not_trust_the_address_in_the_packet(vmfence: CommandLine, tmp_path: Path, bridge: Bridge) -> None:
    """Rule for the second guest only; the first one writes that address, and the second would even play along."""
    allowed = bridge.guests[1]
    groups = f'group {{ ip = "{allowed.ipv4}"; ip = "{LOOPBACK}"; uuid = "{ALPHA}"; }}'
    listeners = {"multicast": {"interface": "br0", "port": 1231}}
    with Rig(vmfence, tmp_path, netns=bridge.host, listeners=listeners, groups=groups) as rig:
        with allowed.call(wire.listen, allowed.ipv4, 0) as listener:
            port = listener.getsockname()[1]
            for sender, expected in ((bridge.guests[0], "forged"), (allowed, "honest")):
                packet = rig.packet(wire.OFF, ALPHA, address=allowed.ipv4, port=port)
                sender.call(wire.send_datagram, packet, wire.GROUP, 1231, sender.ipv4)
                if expected == "forged":
                    line = rig.daemon.wait_for_line("another address than the sender's.*").group()
                    assert allowed.ipv4 in line
                    assert rig.state(ALPHA) == ON
            with wire.accept(listener, 20) as peer:
                assert peer.converse(rig.secret) == wire.DONE
        assert f"rejected packet from {bridge.guests[0].ipv4}" in rig.daemon.log()
        assert rig.state(ALPHA) == OFF


# D12, D16: the two hash settings


def test_d12_auth_none_does_not_execute_for_a_client_that_authenticates(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path, tcp={"auth": "none"}, daemon='allow_unauthenticated = "yes";') as rig:
        result = rig.fence("off", ALPHA)
        assert result.exit == 1
        with rig.send(rig.packet(wire.OFF, ALPHA) + os.urandom(64)) as peer:
            assert peer.closed()
        assert "it has auth set, this listener has none" in rig.daemon.log()
        assert rig.fence("status", ALPHA, "-C", "none").exit == 0
        assert rig.fence("off", ALPHA, "-C", "none").exit == 0
        assert rig.fence("status", ALPHA, "-C", "none").exit == 2


@pytest.mark.system
def test_d12_auth_none_by_multicast(vmfence: CommandLine, tmp_path: Path, bridge: Bridge) -> None:
    listeners = {"multicast": {"interface": "br0", "port": 1232, "auth": "none"}}
    with Rig(vmfence, tmp_path, netns=bridge.host, listeners=listeners, daemon='allow_unauthenticated = "yes";') as rig:
        words = ("-k", str(rig.key), "-p", "1232", "-t", "3", "-r", "5", "-n", ALPHA)
        assert vmfence.fence(*words, "-o", "off", netns=bridge.guests[0]).exit == 1
        assert rig.state(ALPHA) == ON
        assert vmfence.fence(*words, "-o", "off", "-C", "none", netns=bridge.guests[0]).exit == 0
        assert rig.state(ALPHA) == OFF


def test_d12_a_client_without_auth_gets_nothing_from_a_daemon_with(rig: Rig) -> None:
    with rig.send(rig.packet(wire.OFF, ALPHA)) as peer:
        peer.stream.shutdown(1)  # it will not say more
        assert peer.closed()
    assert rig.state(ALPHA) == ON


@pytest.mark.parametrize(("minimum", "auth"), [(1, 2), (2, 3), (3, 1)], ids=str)
def test_d16_hash_and_auth_of_tcp_mean_what_is_written(
    vmfence: CommandLine, tmp_path: Path, minimum: int, auth: int
) -> None:
    """All 16 combinations: served exactly when the signature is strong enough and the challenge's hash the same."""
    with Rig(vmfence, tmp_path, tcp={"hash": NAMES[minimum], "auth": NAMES[auth]}) as rig:
        for signed, challenged in itertools.product(range(4), range(4)):
            with rig.send(rig.packet(wire.STATUS, ALPHA, kind=signed)) as peer:
                if not challenged:
                    peer.stream.shutdown(1)
                served = peer.converse(rig.secret, challenged)
            wanted = wire.DONE if signed >= minimum and challenged == auth else None
            assert served == wanted, f"hash {NAMES[signed]}, auth {NAMES[challenged]}"


def test_d16_auth_none_leaves_the_minimum_signature_alone(vmfence: CommandLine, tmp_path: Path) -> None:
    settings = {"hash": "sha256", "auth": "none"}
    with Rig(vmfence, tmp_path, tcp=settings, daemon='allow_unauthenticated = "yes";') as rig:
        for kind, wanted in ((wire.NONE, None), (wire.SHA1, None), (wire.SHA256, wire.DONE), (wire.SHA512, wire.DONE)):
            with rig.send(rig.packet(wire.STATUS, ALPHA, kind=kind)) as peer:
                assert peer.converse(rig.secret, wire.NONE) == wanted


@pytest.mark.parametrize("key", ["hash", "auth"])
def test_d16_none_must_be_asked_for_twice(vmfence: CommandLine, tmp_path: Path, key: str) -> None:
    told = refused(vmfence, Rig(vmfence, tmp_path, tcp={key: "none"}).config)
    assert f'{key} = "none"' in told and "allow_unauthenticated" in told


# D15: the daemon's key


@pytest.mark.parametrize("bad", BAD_KEYS)
@pytest.mark.parametrize("whose", ["listener", "group"])
def test_d15_no_daemon_without_its_key(vmfence: CommandLine, tmp_path: Path, bad: str, whose: str) -> None:
    path = tmp_path / "bad.key"
    BAD_KEYS[bad](path)
    before = path.lstat().st_mode if bad != "missing" else None
    if whose == "listener":
        rig = Rig(vmfence, tmp_path, tcp={"key_file": path})
    else:
        rig = Rig(vmfence, tmp_path, groups=f'group {{ key_file = "{path}"; uuid = "{ALPHA}"; }}')
    told = refused(vmfence, rig.config, prefix=powerless())
    assert str(path) in told
    assert (path.lstat().st_mode if bad != "missing" else None) == before  # D32: nobody's modes are changed


def test_d15_one_bad_key_of_several_listeners_stops_all(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = Rig(vmfence, tmp_path, listeners={"multicast": {"key_file": tmp_path / "missing"}})
    assert "missing" in refused(vmfence, rig.config)


# D17: access rules


def group(*targets: str, ip: str = LOOPBACK, label: str = "") -> str:
    """Return one group of a groups section."""
    inside = f'name = "{label}"; ' if label else ""
    inside += f'ip = "{ip}"; ' if ip else ""
    return f"group {{ {inside}" + "".join(f'uuid = "{target}"; ' for target in targets) + "}\n"


@pytest.mark.parametrize("by", ["uuid", "name", "UUID"])
def test_d17a_name_and_uuid_are_one_guest(vmfence: CommandLine, tmp_path: Path, by: str) -> None:
    listed = {"uuid": GUESTS[ALPHA], "name": ALPHA, "UUID": GUESTS[ALPHA].upper()}[by]
    with Rig(vmfence, tmp_path, groups=group(listed)) as rig:
        for text in (ALPHA, GUESTS[ALPHA], GUESTS[ALPHA].upper()):
            assert rig.ask(wire.STATUS, text) == wire.DONE
            assert rig.ask(wire.OFF, text) == wire.DONE
            assert rig.ask(wire.ON, text) == wire.DONE
        for request, text in itertools.product((wire.STATUS, wire.OFF, wire.REBOOT, wire.ON), (BETA, GUESTS[BETA])):
            assert rig.ask(request, text) == wire.DENIED
        assert rig.hosts() == {ALPHA: ON}
        assert rig.fence("off", BETA).exit == 3


def test_d17b_rules_tell_guests_apart_by_case_as_libvirt_does(vmfence: CommandLine, tmp_path: Path) -> None:
    guests = {"alpha": GUESTS[ALPHA], "ALPHA": GUESTS[BETA]}
    with Rig(vmfence, tmp_path, guests, groups=group("alpha")) as rig:
        for request in (wire.OFF, wire.ON, wire.REBOOT, wire.STATUS):
            assert rig.ask(request, "ALPHA") == wire.DENIED
        assert rig.ask(wire.STATUS, "alpha") == wire.DONE
        assert rig.ask(wire.STATUS, "Alpha") == wire.DENIED  # nobody: not even that is told
        assert rig.hosts() == {"alpha": ON}


HOLLOW = {
    "c-no-group": "\n",
    "c-name-only": 'group { name = "mine"; }',
    "c-ip-only": 'group { ip = "127.0.0.1"; }',
    "c-empty": "group { }",
    "d-middle": group("alpha") + 'group { name = "hollow"; }\n' + group("beta"),
}


@pytest.mark.parametrize("case", HOLLOW)
def test_d17cd_hollow_groups_are_refused(vmfence: CommandLine, tmp_path: Path, case: str) -> None:
    assert "group" in refused(vmfence, Rig(vmfence, tmp_path, groups=HOLLOW[case]).config)


def test_d17d_all_of_three_groups_count(vmfence: CommandLine, tmp_path: Path) -> None:
    guests = {f"vm{number}": f"11111111-2222-3333-4444-55555555550{number}" for number in range(4)}
    with Rig(vmfence, tmp_path, guests, groups="".join(map(group, ("vm0", "vm1", "vm2")))) as rig:
        assert [rig.ask(wire.STATUS, name) for name in guests] == [wire.DONE] * 3 + [wire.DENIED]


def test_d17e_a_second_groups_section_is_refused(vmfence: CommandLine, tmp_path: Path) -> None:
    config = Rig(vmfence, tmp_path, groups=group(ALPHA)).config
    config.write_text(config.read_text() + f"groups {{ {group(BETA)} }}\n")
    assert "groups is given twice" in refused(vmfence, config)


@pytest.mark.parametrize(
    ("ip", "source", "wanted"),
    [
        ("127.0.0.0/8", "127.9.9.9", wire.DONE),
        ("127.0.0.0/24", "127.0.1.1", wire.DENIED),
        ("127.0.0.2", "127.0.0.2", wire.DONE),
        ("127.0.0.2", "127.0.0.1", wire.DENIED),
        ("::ffff:127.0.0.0/104", "127.0.0.1", wire.DONE),
    ],
)
def test_d17f_networks_match(vmfence: CommandLine, tmp_path: Path, ip: str, source: str, wanted: int) -> None:
    with Rig(vmfence, tmp_path, groups=group(ALPHA, ip=ip)) as rig:
        assert rig.ask(wire.STATUS, ALPHA, source=source) == wanted


def test_d17g_one_name_on_two_hypervisors(vmfence: CommandLine, tmp_path: Path) -> None:
    """The rules allow one of the twins: the name means both and does nothing, the UUID reaches the allowed one."""
    uris = []
    for number, uuid in enumerate(GUESTS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        uris.append(driver_uri(folder, {"twin": uuid}))
    mine, other = GUESTS.values()
    with Rig(vmfence, tmp_path, uris=uris, groups=group(mine)) as rig:
        assert rig.ask(wire.OFF, "twin") == wire.FAILED
        assert rig.ask(wire.OFF, other) == wire.DENIED
        assert rig.hosts() == {"twin": ON}
        assert rig.ask(wire.OFF, mine) == wire.DONE
        assert rig.hosts() == {"twin": OFF}
        assert "several guests" in rig.daemon.log()


# D35: nothing secret is shown


def forms(secret: bytes) -> list[str]:
    """Return how *secret* may look in a text; its head is enough."""
    head = secret[:16]
    return [head.hex(), head.hex(" "), base64.b64encode(head)[:20].decode(), repr(head)[2:-1], str(list(head))[1:-1]]


def check_hidden(text: str, secrets: list[bytes]) -> None:
    """Check that none of *secrets* is in *text*, in whatever form."""
    lowered = text.lower()
    for secret in secrets:
        for form in forms(secret):
            assert form.lower() not in lowered


def test_d35_no_secret_in_log_or_output(vmfence: CommandLine, tmp_path: Path) -> None:
    secrets: list[bytes] = []
    with Rig(vmfence, tmp_path, options=("-d", "99")) as rig:
        secrets.append(rig.secret)
        for spoil in (None, "response", "signature", "replay"):
            packet = rig.packet(wire.STATUS, ALPHA)
            if spoil == "signature":
                packet = packet[:-64] + wire.digest(b"wrong", packet[:-64])
            question = os.urandom(64)
            secrets += [question, wire.digest(rig.secret, question), packet[-64:]]
            with rig.send(packet) as peer:
                peer.send(question)
                if spoil == "signature":
                    continue
                secrets.append(peer.read(64))
                theirs = peer.read(64)
                answer = wire.digest(b"wrong" if spoil == "response" else rig.secret, theirs)
                secrets += [theirs, answer, wire.digest(rig.secret, theirs)]
                peer.send(answer)
                peer.read(1)
            if spoil == "replay":
                assert is_refused(rig, packet)
        rig.daemon.wait_for_line("wrong answer to our challenge")
        rig.daemon.wait_for_line("wrong key")
        assert rig.fence("status", ALPHA, "-d", "-d").exit == 0
        wrong = tmp_path / "wrong.key"
        wrong.write_bytes(os.urandom(4096))
        wrong.chmod(0o600)
        result = rig.fence("status", ALPHA, "-d", key=wrong)
        assert result.exit == 1
        check_hidden(rig.daemon.log() + result.stdout + result.stderr, [*secrets, wrong.read_bytes()])


def test_d35_the_agent_shows_nothing_of_a_failed_challenge(vmfence: CommandLine, tmp_path: Path) -> None:
    """Host and agent have different keys: the real fence_xvm prints challenge and both digests here."""
    with Rig(vmfence, tmp_path, tcp={"hash": "none"}, daemon='allow_unauthenticated = "yes";') as rig:
        other = tmp_path / "other.key"
        other.write_bytes(os.urandom(64))
        other.chmod(0o600)
        result = rig.fence("off", ALPHA, "-c", "none", "-d", key=other)
        assert result.exit == 1
        assert "could not prove the key" in result.stderr
        check_hidden(result.stdout + result.stderr + rig.daemon.log(), [other.read_bytes(), rig.secret])
        assert rig.state(ALPHA) == ON


def test_group_keys_keep_clusters_apart(vmfence: CommandLine, tmp_path: Path) -> None:
    """Better than different daemons (D1 d): the key that signed decides whose guests may be fenced."""
    keys = {name: tmp_path / f"{name}.key" for name in (ALPHA, BETA)}
    for path in keys.values():
        path.write_bytes(os.urandom(4096))
        path.chmod(0o600)
    groups = "".join(f'group {{ key_file = "{keys[name]}"; uuid = "{name}"; }}\n' for name in keys)
    with Rig(vmfence, tmp_path, groups=groups) as rig:
        for mine, other in ((ALPHA, BETA), (BETA, ALPHA)):
            assert rig.fence("off", other, key=keys[mine]).exit == 3
            assert rig.fence("status", mine, key=keys[mine]).exit == 0
            listed = rig.fence("list", key=keys[mine]).stdout.split()
            assert mine in listed and other not in listed
            assert rig.fence("off", mine).exit == 3  # the listener's own key: no group has it
        secret = keys[ALPHA].read_bytes()
        with rig.send(wire.sign(wire.packet(wire.OFF, ALPHA), secret)) as peer:
            assert peer.converse(keys[BETA].read_bytes()) is None  # signed by one, challenged by the other
        assert rig.fence("off", ALPHA, key=keys[ALPHA]).exit == 0
        assert rig.fence("status", BETA, key=keys[BETA]).exit == 0


def test_hidden_checks_would_notice() -> None:
    with pytest.raises(AssertionError):
        check_hidden(f"answer {bytes(range(64)).hex()}", [bytes(range(64))])
