"""Part A of the reference's defects, "success" or "off" without proof: each test is named by the defect it would catch.

D3, D4, D8, D9, D11, D19, D33, D34, D38.  With a real hypervisor: tests/system/test_faults_libvirt.py (D8, D33).
Not applicable yet: D5 and D7 (cpg backend).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import wire
from lab.host import FalseHost, guest_list, prove, record
from lab.net import Bridge
from lab.ours import CommandLine, driver_uri
from lab.process import run_client
from lab.reference import write_key
from lab.rig import ALPHA, BAD_KEYS, BETA, CRASHED, GUESTS, OFF, ON, PAUSED, Rig, no_trace, powerless, refused

ACTIONS = (wire.OFF, wire.REBOOT, wire.ON, wire.STATUS)
NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(vmfence, tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=2) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_key(tmp_path_factory.mktemp("key") / "key")


def say_success(peer: wire.Peer) -> None:
    """Be any program without the key: one zero byte, at once."""
    peer.send(b"\0")
    peer.stream.shutdown(1)
    peer.read(4096)


# D3: the agent's key


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_d03_no_request_leaves_without_a_key(vmfence: CommandLine, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "bad.key"
    BAD_KEYS[bad](path)
    before = path.lstat().st_mode if bad != "missing" else None
    with FalseHost(say_success) as host:
        words = [*host.options(path), "-o", "off", "-n", ALPHA, "-t", "5"]
        result = run_client([*powerless(), vmfence.agent], words)
    assert result.exit == 1
    assert str(path) in result.stderr and no_trace(result.stderr)
    assert host.results == []  # it did not even connect
    assert (path.lstat().st_mode if bad != "missing" else None) == before


@pytest.mark.system
def test_d03_a_missing_default_key_stops_multicast_too(vmfence: CommandLine, bridge: Bridge) -> None:
    """The experiment of D3: default key absent, and somebody without any key answers the call-back port."""
    hide = "mount -t tmpfs none /etc && exec"
    agent = ["unshare", "--mount", "sh", "-c", f'{hide} "$@"', "sh", vmfence.agent, "-o", "off", "-n", ALPHA, "-t", "3"]
    result = run_client(agent, netns=bridge.guests[0])
    assert result.exit == 1
    assert "cannot read the key /etc/cluster/fence_xvm.key" in result.stderr


def test_d03_a_host_without_the_key_proves_nothing(vmfence: CommandLine, key: Path) -> None:
    with FalseHost(say_success) as host:
        result = vmfence.fence(*host.options(key), "-o", "off", "-n", ALPHA, "-t", "5")
    assert result.exit == 1 and len(host.results) == 1


def test_d03_one_zero_byte_for_a_challenge(vmfence: CommandLine, key: Path) -> None:
    """A host that answers the challenge with zeros, with an echo, with rubbish, and claims success."""
    answers = [lambda question: bytes(64), lambda question: question, lambda question: os.urandom(64)]
    for answer in answers:

        def pretend(peer: wire.Peer, answer=answer) -> bytes:
            question = peer.read(176 + 64)[176:]
            peer.send(answer(question) + os.urandom(64) + b"\0")
            return peer.read(64)

        with FalseHost(pretend) as host:
            result = vmfence.fence(*host.options(key), "-o", "off", "-n", ALPHA, "-t", "5")
        assert result.exit == 1
        assert "could not prove the key" in result.stderr
        assert host.results == [b""]  # D2 at the agent: a host that proved nothing gets no answer


def test_d02_the_agent_does_not_answer_its_own_challenge(vmfence: CommandLine, key: Path) -> None:
    secret = key.read_bytes()

    def reflect(peer: wire.Peer) -> bytes:
        question = peer.read(176 + 64)[176:]
        peer.send(wire.digest(secret, question) + question)
        return peer.read(64)

    with FalseHost(reflect) as host:
        assert vmfence.fence(*host.options(key), "-o", "off", "-n", ALPHA, "-t", "5").exit == 1
    assert host.results == [b""]


# D4: unknown is never off


@pytest.mark.parametrize("name", ["nobody", "ALPHA", "Alpha", "", "alpha ", "00000000-0000-0000-0000-000000000000"])
@pytest.mark.parametrize("request_code", ACTIONS)
def test_d04_an_unknown_guest_is_a_failure(rig: Rig, request_code: int, name: str) -> None:
    assert rig.ask(request_code, name) == wire.FAILED
    assert rig.hosts() == {ALPHA: ON, BETA: ON}


def test_d04_the_agent_fails_for_an_unknown_guest(rig: Rig) -> None:
    for action in ("status", "off", "reboot", "on"):
        result = rig.fence(action, "nobody")
        assert result.exit == 1 and "Status" not in result.stdout


def world_of(folder: Path, name: str, state: int = ON) -> str:
    """Return the URI of a world with one guest in *state*."""
    folder.mkdir()
    uri = driver_uri(folder, {name: GUESTS[name]})
    text = (folder / "guests.xml").read_text()
    runstate = f'<test:runstate xmlns:test="http://libvirt.org/schemas/domain/test/1.0">{state}</test:runstate>'
    (folder / "guests.xml").write_text(text.replace("<memory>", f"{runstate}<memory>"))
    return uri


def test_d04_a_guest_behind_a_hypervisor_that_cannot_be_asked(vmfence: CommandLine, tmp_path: Path) -> None:
    uris = [world_of(tmp_path / "one", ALPHA), NOWHERE]
    with Rig(vmfence, tmp_path, uris=uris) as rig:
        assert "nonexistent" in rig.daemon.log()  # said at the start
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE  # it is seen running: that is known
        assert rig.ask(wire.STATUS, BETA) == wire.FAILED
        assert rig.ask(wire.MONITOR) == wire.FAILED  # D33
        assert rig.fence("status", BETA).exit == 1


def test_d04_off_here_may_be_running_there(vmfence: CommandLine, tmp_path: Path) -> None:
    uris = [world_of(tmp_path / "one", ALPHA, OFF), NOWHERE]
    with Rig(vmfence, tmp_path, uris=uris) as rig:
        assert rig.ask(wire.STATUS, ALPHA) == wire.FAILED


def test_d04_running_on_one_hypervisor_is_running(vmfence: CommandLine, tmp_path: Path) -> None:
    """Defined on both, as after a migration: off is off only when it runs nowhere."""
    uris = [world_of(tmp_path / "one", ALPHA, OFF), world_of(tmp_path / "two", ALPHA, ON)]
    with Rig(vmfence, tmp_path, uris=uris) as rig:
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE
        assert rig.hosts() == {ALPHA: ON}
        assert rig.ask(wire.OFF, ALPHA) == wire.DONE
        assert rig.ask(wire.STATUS, ALPHA) == wire.IS_OFF


def test_d04_no_hypervisor_at_all_is_told_at_the_start(vmfence: CommandLine, tmp_path: Path) -> None:
    assert "nonexistent" in refused(vmfence, Rig(vmfence, tmp_path, uris=[NOWHERE]).config)


# D8, D19: what a state means


def test_d08_reboot_starts_a_guest_that_is_off(rig: Rig) -> None:
    assert rig.ask(wire.OFF, ALPHA) == wire.DONE
    assert rig.state(ALPHA) == OFF
    assert rig.ask(wire.REBOOT, ALPHA) == wire.DONE
    assert rig.state(ALPHA) == ON


@pytest.mark.parametrize("state", [PAUSED, CRASHED])
def test_d19_list_and_status_agree_about_a_guest_that_is_neither(
    vmfence: CommandLine, tmp_path: Path, state: int
) -> None:
    """Its process is there, so it is on for status; the record carries the true state; off and reboot really end it."""
    with Rig(vmfence, tmp_path / "rig", uris=[world_of(tmp_path / "world", ALPHA, state)]) as rig:
        assert rig.hosts() == {ALPHA: state}
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE
        assert rig.ask(wire.ON, ALPHA) == wire.FAILED  # it is not running, and "on" does not wake it
        assert rig.hosts() == {ALPHA: state}
        assert rig.ask(wire.OFF, ALPHA) == wire.DONE
        assert rig.ask(wire.STATUS, ALPHA) == wire.IS_OFF
        assert rig.hosts() == {ALPHA: OFF}


def test_d19_the_printed_list_stays_for_old_callers(vmfence: CommandLine, key: Path) -> None:
    def show(peer: wire.Peer) -> None:
        prove(peer, key.read_bytes())
        peer.send(guest_list(*(record(b"vm%d" % state, state=state) for state in range(8))))

    with FalseHost(show) as host:
        result = vmfence.fence(*host.options(key), "-o", "list")
    assert result.exit == 0
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["off", "on", *["off"] * 6]


# D9, D11: what was asked for


@pytest.mark.parametrize(
    "words",
    [("-Z",), ("-o",), ("--frobnicate",), ("-H",), ("-n", ALPHA, "extra"), ("-t", "x"), ("-o", "of")],
    ids=" ".join,
)
def test_d09_a_mistake_is_no_success(vmfence: CommandLine, key: Path, words: tuple[str, ...]) -> None:
    with FalseHost(say_success) as host:
        target = () if "-n" in words else ("-n", ALPHA)
        result = vmfence.fence(*host.options(key), "-o", "off", *target, *words)
    assert result.exit == 1 and result.stderr.startswith("error: ")
    assert host.results == []


def test_d09_help_may_stay_a_success(vmfence: CommandLine) -> None:
    assert vmfence.fence("-h").exit == 0


@pytest.mark.parametrize("line", ["action = status", "  action=status  ", "action\t=\tstatus\r", "ACTION =status"])
def test_d11_blanks_around_the_equals_sign(rig: Rig, vmfence: CommandLine, line: str) -> None:
    rig.power_on(ALPHA)
    lines = f"{line}\nport = {ALPHA}\nipaddr={rig.address}\nipport={rig.port}\nkey_file={rig.key}\n"
    before = rig.told("action=")
    result = vmfence.fence(stdin=lines)
    assert (result.exit, result.stdout) == (0, "Status: ON\n")
    rig.wait_told("action=", before + 1)
    assert "action=status" in rig.daemon.log().splitlines()[-1]


@pytest.mark.parametrize("line", ["action=", "action", "action = ", "action=stat us", "action=status off"])
def test_d11_an_action_that_is_none_is_an_error(vmfence: CommandLine, key: Path, line: str) -> None:
    with FalseHost(say_success) as host:
        lines = f"{line}\nport={ALPHA}\nipaddr=127.0.0.1\nipport={host.port}\nkey_file={key}\n"
        result = vmfence.fence(stdin=lines)
    assert result.exit == 1 and result.stderr.startswith("error: ")
    assert host.results == []


# D34: only the answer that was asked for is a success

CODES = {"off": {0}, "on": {0}, "reboot": {0}, "monitor": {0}, "status": {0, 2}, "list": set()}


@pytest.mark.parametrize("action", CODES)
def test_d34_answers_that_do_not_belong_to_the_action(vmfence: CommandLine, key: Path, action: str) -> None:
    for code in (0, 1, 2, 3, 4, 7, 127, 128, 200, 252, 254, 255):

        def answer(peer: wire.Peer, code: int = code) -> None:
            prove(peer, key.read_bytes())
            peer.send(bytes([code]))

        with FalseHost(answer) as host:
            result = vmfence.fence(*host.options(key), "-o", action, "-n", ALPHA, "-t", "9")
        assert host.results == [None]
        wanted = {0: 0, 2: 2}[code] if code in CODES[action] else 3 if code == 3 else 1
        assert result.exit == wanted, f"{action} answered with {code}"
        assert no_trace(result.stderr) and "-56" not in result.stdout + result.stderr


@pytest.mark.parametrize("action", ["off", "on", "reboot", "monitor", "status"])
def test_d34_a_list_is_no_answer_to_anything_else(vmfence: CommandLine, key: Path, action: str) -> None:
    def answer(peer: wire.Peer) -> None:
        prove(peer, key.read_bytes())
        peer.send(guest_list(record(ALPHA.encode())))

    with FalseHost(answer) as host:
        result = vmfence.fence(*host.options(key), "-o", action, "-n", ALPHA, "-t", "9")
    assert (result.exit, result.stdout) == (1, "")


@pytest.mark.parametrize("stage", ["request", "response", "challenge", "code"])
def test_d34_silence_is_a_failure_at_every_stage(vmfence: CommandLine, key: Path, stage: str) -> None:
    secret = key.read_bytes()

    def fall_silent(peer: wire.Peer) -> None:
        if stage != "request":
            question = peer.read(176 + 64)[176:]
            peer.send({"response": b"", "challenge": wire.digest(secret, question)}.get(stage, b""))
            if stage == "code":
                peer.send(wire.digest(secret, question) + os.urandom(64))
        while peer.read(4096):
            pass

    with FalseHost(fall_silent) as host:
        result = vmfence.fence(*host.options(key), "-o", "off", "-n", ALPHA, "-t", "1")
    assert (result.exit, host.results) == (1, [None])
    assert "Timed out" in result.stderr


# D38: several hosts behind one address


@pytest.mark.system
@pytest.mark.parametrize("unknown", ["ignore", "fail"])
def test_d38_a_host_without_the_guest_may_stay_silent(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge, unknown: str
) -> None:
    """Hosts: the bridge's own with alpha, the second guest's namespace with beta; the first guest asks."""
    extra = f'unknown_guest = "{unknown}";'
    options = {"key": write_key(tmp_path / "key"), "daemon": extra}
    here = Rig(vmfence, tmp_path / "here", {ALPHA: GUESTS[ALPHA]}, netns=bridge.host,
               listeners={"multicast": {"interface": "br0"}}, **options)  # fmt: skip
    there = Rig(vmfence, tmp_path / "there", {BETA: GUESTS[BETA]}, netns=bridge.guests[1],
                listeners={"multicast": {"interface": "eth0"}}, **options)  # fmt: skip
    words = ("-k", str(options["key"]), "-t", "2", "-r", "3")
    with here, there:

        def fence(action: str, guest: str) -> int:
            return vmfence.fence(*words, "-o", action, "-n", guest, netns=bridge.guests[0]).exit

        if unknown == "fail":
            assert fence("status", "nobody") == 1
            return
        for guest, home in ((ALPHA, here), (BETA, there)):
            assert fence("status", guest) == 0
            assert fence("off", guest) == 0
            assert fence("status", guest) == 2
            assert home.state(guest) == OFF
        assert fence("off", "nobody") == 1
        assert "unknown here" in here.daemon.log() and "unknown here" in there.daemon.log()
        assert here.ask(wire.STATUS, BETA) is None  # by tcp: hung up on, never "off"
