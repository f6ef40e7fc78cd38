"""The serial listener on libvirt's test driver: every mode, every way in which a channel can be bad."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import wire
from lab.channels import ChannelRig, ask, group, uuid_of
from lab.ours import CommandLine
from lab.pipe import Bridge, FarEnd, Line, request
from lab.process import Daemon, run_client
from lab.rig import ALPHA, BETA, OFF, ON, no_trace, refused
from lab.waiting import wait_until
from vmfence.host import history, refusals

MODES = ("serial", "vmchannel", "virtio")


@pytest.fixture
def rig(vmfence: CommandLine, tmp_path: Path) -> Iterator[ChannelRig]:
    with ChannelRig(vmfence, tmp_path) as made:
        yield made
        assert no_trace(made.daemon.log()), made.daemon.log()


@pytest.mark.parametrize("mode", MODES)
def test_guests_fence_each_other(vmfence: CommandLine, tmp_path: Path, mode: str) -> None:
    with ChannelRig(vmfence, tmp_path, mode=mode) as rig:
        alpha = rig.connected(ALPHA)
        assert ask(alpha, wire.MONITOR) == wire.DONE
        assert ask(alpha, wire.STATUS, BETA) == wire.DONE
        assert ask(alpha, wire.OFF, BETA) == wire.DONE
        assert rig.state(BETA) == OFF
        assert ask(alpha, wire.STATUS, BETA) == wire.IS_OFF
        assert ask(alpha, wire.ON, rig.uuids[BETA].upper()) == wire.DONE
        assert rig.state(BETA) == ON
        assert ask(alpha, wire.STATUS, "nobody") == wire.DENIED
        assert ask(alpha, wire.NULL, BETA) == wire.FAILED
        rig.wait_told(f"request action=off guest={BETA} origin={rig.uuids[ALPHA]} via={mode} result=ok")
        rig.serves()


def test_the_list_shows_the_group_alone(vmfence: CommandLine, tmp_path: Path) -> None:
    names = ("alpha", "beta", "gamma")
    with ChannelRig(vmfence, tmp_path, names, groups=group("alpha", uuid_of(2)) + group("gamma")) as rig:
        alpha = rig.connected("alpha")
        alpha.send(request(wire.LIST))
        assert alpha.read(5) == b"abba\xfd"
        records = [alpha.read(130) for _ in range(3)]
        assert [each[:64].rstrip(b"\0") for each in records] == [b"alpha", b"beta", b""]
        assert alpha.read(5) == b"abba\0"
        assert alpha.is_silent()
        assert ask(alpha, wire.OFF, "gamma") == wire.DENIED
        assert ask(rig.connected("gamma"), wire.OFF, "alpha") == wire.DENIED
        assert set(rig.hosts().values()) == {ON}


@pytest.mark.parametrize("by", [ALPHA, uuid_of(1)])
def test_a_guest_fences_itself_and_comes_back(rig: ChannelRig, by: str) -> None:
    alpha = rig.connected(ALPHA)
    alpha.send(request(wire.REBOOT, by))
    assert alpha.read(6) in (b"", b"abba\0"), "the line ends with the guest"
    assert ask(rig.connected(ALPHA), wire.STATUS, BETA) == wire.DONE
    rig.wait_told(f"request action=reboot guest={by} origin={rig.uuids[ALPHA]} via=serial result=ok")


def test_without_groups_the_daemon_does_not_start(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = ChannelRig(vmfence, tmp_path, groups="")
    with rig.sockets_only():
        assert "without groups every guest could fence every other" in refused(vmfence, rig.config)


def test_without_groups_when_that_is_wanted(vmfence: CommandLine, tmp_path: Path) -> None:
    with ChannelRig(vmfence, tmp_path, groups="", daemon='allow_unauthenticated = "yes";') as rig:
        assert ask(rig.connected(ALPHA), wire.OFF, BETA) == wire.DONE
        assert rig.state(BETA) == OFF


@pytest.mark.parametrize("path", ["{}", "{}/", "//{}//"])
def test_sockets_in_the_folder_are_served(vmfence: CommandLine, tmp_path: Path, path: str) -> None:
    rig = ChannelRig(vmfence, tmp_path)
    folder = str(rig.sockets[ALPHA].path.parent)
    rig._listeners = {**rig._listeners, "serial": {"mode": "serial", "path": path.format(folder)}}
    rig.write_config()
    with rig:
        assert ask(rig.connected(ALPHA), wire.MONITOR) == wire.DONE


def test_sockets_elsewhere_are_not(vmfence: CommandLine, tmp_path: Path) -> None:
    with ChannelRig(vmfence, tmp_path, serial={"path": "/tmp"}) as rig:
        assert "(0 of 0 connected)" in rig.daemon.log()
        assert not any(each.is_wanted() for each in rig.sockets.values())


def test_guests_that_stop_and_start_are_followed(rig: ChannelRig) -> None:
    alpha, beta = rig.connected(ALPHA), rig.connected(BETA)
    rig.sockets[BETA].vanish()
    assert ask(alpha, wire.OFF, BETA) == wire.DONE
    rig.wait_told(f"guest {BETA} (serial) is gone")
    rig.sockets[BETA].appear()
    assert ask(alpha, wire.ON, BETA) == wire.DONE
    beta = rig.connected(BETA)
    assert ask(beta, wire.STATUS, ALPHA) == wire.DONE


def test_a_socket_that_vanished_is_connected_anew(rig: ChannelRig) -> None:
    rig.connected(ALPHA)
    rig.sockets[ALPHA].vanish()
    assert ask(rig.connected(BETA), wire.STATUS, ALPHA) == wire.DONE
    rig.wait_told("cannot connect to guest alpha (serial)")
    rig.sockets[ALPHA].appear()
    assert ask(rig.connected(ALPHA), wire.STATUS, BETA) == wire.DONE
    rig.wait_told("connected to guest alpha (serial) again")


def test_a_socket_that_comes_late(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = ChannelRig(vmfence, tmp_path)
    late = rig.sockets.pop(ALPHA)
    with rig:
        rig.wait_told("cannot connect to guest alpha (serial)")
        with late:
            assert ask(late.accept(), wire.STATUS, BETA) == wire.DONE


def test_half_a_frame_is_dropped(rig: ChannelRig) -> None:
    alpha, beta = rig.connected(ALPHA), rig.connected(BETA)
    alpha.send(request(wire.OFF, BETA)[:40])
    assert ask(beta, wire.STATUS, ALPHA) == wire.DONE
    rig.wait_told("half a request")
    assert ask(alpha, wire.STATUS, BETA) == wire.DONE
    assert rig.state(BETA) == ON


@pytest.mark.parametrize(
    "noise",
    [
        b"[  12.3] console output\r\nlogin: ",
        b"a" * 3000,
        b"ab" * 700 + b"abb",
        b"\0" * 73,
        b"abba",
        b"abba\2 abba said the console\r\n",
    ],
)
def test_noise_before_a_frame_is_skipped(rig: ChannelRig, noise: bytes) -> None:
    alpha = rig.connected(ALPHA)
    alpha.send(noise)
    alpha.send(b" ")
    assert ask(alpha, wire.STATUS, BETA) == wire.DONE
    assert alpha.is_silent()


def test_a_frame_without_magic_does_nothing(rig: ChannelRig) -> None:
    """The reference executed it (D22)."""
    alpha = rig.connected(ALPHA)
    alpha.send(b"\x78\x56\x34\x12" + request(wire.OFF, BETA)[4:])
    assert ask(alpha, wire.STATUS, BETA) == wire.DONE


def test_a_name_without_end(rig: ChannelRig) -> None:
    alpha = rig.connected(ALPHA)
    alpha.send(request(wire.OFF, b"A" * 64))
    assert ask(alpha, wire.STATUS, BETA) == wire.DONE
    assert rig.rejected("guest name without end") == 1


def test_two_requests_together_are_answered_in_order(rig: ChannelRig) -> None:
    alpha = rig.connected(ALPHA)
    alpha.send(b"".join(request(action, BETA) for action in (wire.OFF, wire.STATUS, wire.ON, wire.STATUS)))
    answers = alpha.read(20)
    assert [answers[start + 4] for start in range(0, 20, 5)] == [wire.DONE, wire.IS_OFF, wire.DONE, wire.DONE]


def test_a_repeat_is_answered_once(rig: ChannelRig) -> None:
    alpha, beta = rig.connected(ALPHA), rig.connected(BETA)
    again = request(wire.STATUS, ALPHA, seqno=7)
    alpha.send(again)
    assert alpha.read(5) == b"abba\0"
    alpha.send(again)
    assert ask(alpha, wire.STATUS, BETA, seqno=8) == wire.DONE
    assert alpha.is_silent()
    assert ask(beta, wire.STATUS, ALPHA, seqno=7) == wire.DONE, "another guest's number is its own"


def test_a_reader_that_never_reads_is_cut_off(vmfence: CommandLine, tmp_path: Path) -> None:
    """Long lists fill the pipe; the daemon hangs up after its limit and connects anew, others are served meanwhile."""
    names = [f"guest-{number:03}" for number in range(1, 101)]
    with ChannelRig(vmfence, tmp_path, names) as rig:
        deaf, other = rig.connected(names[0]), rig.connected(names[1])
        for number in range(16):
            deaf.send(request(wire.LIST, seqno=number))
        assert ask(other, wire.STATUS, names[0]) == wire.DONE
        rig.wait_told("the client did not read the answer")
        assert ask(other, wire.STATUS, names[0]) == wire.DONE
        assert ask(rig.connected(names[0]), wire.STATUS, names[1]) == wire.DONE


def test_a_path_of_two_guests_is_nobodys(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = ChannelRig(vmfence, tmp_path, ("alpha", "beta", "gamma"))
    world = tmp_path / "world.xml"
    world.write_text(world.read_text().replace(str(rig.sockets["beta"].path), str(rig.sockets["alpha"].path)))
    with rig:
        rig.wait_told("several running guests have that socket")
        assert ask(rig.connected("gamma"), wire.STATUS, "alpha") == wire.DONE
        assert not rig.sockets["alpha"].is_wanted()


def test_reload_changes_the_channels(rig: ChannelRig) -> None:
    alpha = rig.connected(ALPHA)
    rig._listeners = {**rig._listeners, "serial": {"mode": "vmchannel"}}
    rig.write_config()
    rig.reload()
    assert alpha.read(1) == b""
    assert "VM channels of guests (0 of 0 connected)" in rig.daemon.log()
    rig._listeners = {**rig._listeners, "serial": {"mode": "serial"}}
    rig.write_config()
    rig.reload()
    assert ask(rig.connected(ALPHA), wire.STATUS, BETA) == wire.DONE


def test_reload_of_the_rules_holds_for_channels(rig: ChannelRig) -> None:
    alpha = rig.connected(ALPHA)
    rig._groups = group(uuid_of(1)) + group(uuid_of(2))
    rig.write_config()
    rig.reload()
    assert ask(alpha, wire.OFF, BETA) == wire.DENIED
    assert ask(alpha, wire.STATUS, ALPHA) == wire.DONE


def listeners(rig: ChannelRig, vmfence: CommandLine) -> list[dict[str, object]]:
    shown = json.loads(vmfence.run("host", "status", "-s", str(rig.folder / "control"), "--json").stdout)
    found: list[dict[str, object]] = shown["listeners"]
    return found


def test_status_shows_how_many_are_connected(rig: ChannelRig, vmfence: CommandLine) -> None:
    rig.connected(ALPHA)
    rig.connected(BETA)
    wait_until(
        lambda: "serial lines of guests (2 of 2 connected)" in str(listeners(rig, vmfence)), what="both connected"
    )


def test_a_channel_that_another_program_holds_is_not_called_connected(rig: ChannelRig, vmfence: CommandLine) -> None:
    alpha = rig.sockets[ALPHA]
    rig.connected(ALPHA)
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(alpha.path))
        held = alpha.accept()  # the daemon is hung up on, and comes back behind the console
        held.send(b"hello")
        assert console.recv(5) == b"hello"
        rig.connected(BETA)
        rig.wait_told(f"cannot connect to guest alpha (serial) at {alpha.path}: nobody has accepted the connection")
        (shown,) = (one for one in listeners(rig, vmfence) if "serial" in str(one["where"]))
        assert "(1 of 2 connected)" in str(shown["where"])
        (who,) = shown["unheard"]  # type: ignore[misc]
        assert who == f"alpha (serial) at {alpha.path}"
        text = vmfence.run("host", "status", "-s", str(rig.folder / "control")).stdout
        assert f"not heard: alpha (serial) at {alpha.path}: nobody has accepted the connection" in text
    assert ask(alpha.accept(), wire.STATUS, BETA) == wire.DONE
    (shown,) = (one for one in listeners(rig, vmfence) if "serial" in str(one["where"]))
    assert ("(2 of 2 connected)" in str(shown["where"]), shown["unheard"]) == (True, {})


def test_a_guest_that_floods_waits_and_the_others_do_not(rig: ChannelRig) -> None:
    alpha, beta = rig.connected(ALPHA), rig.connected(BETA)
    flood = b"".join(request(wire.NULL, BETA, seqno) for seqno in range(30_000))
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(alpha.send, flood)
        wait_until(lambda: rig.rejected("too many requests"), what="the pause")
        assert ask(beta, wire.STATUS, ALPHA) == wire.DONE
        sent.result(60)
    alpha.send(request(wire.STATUS, BETA))
    answers = 0
    while alpha.read(5) != b"abba\0":
        answers += 1
    assert answers < 3000
    assert ask(beta, wire.STATUS, ALPHA) == wire.DONE


@pytest.mark.parametrize("_", range(5))
def test_stop_finishes(rig: ChannelRig, _: int) -> None:
    """Libvirt must have let go of our callbacks before Python ends: else it crashed, once in ten times."""
    rig.connected(ALPHA).send(request(wire.LIST)[:10])
    rig.daemon.signal(signal.SIGTERM)
    assert rig.daemon.wait() == 0


def wakeups(daemon: Daemon) -> int:
    """Return how often the main thread has waited by itself (proc(5)): each turn of its event loop is one."""
    status = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    assert found
    return int(found[1])


def test_200_idle_guests_wake_nobody(vmfence: CommandLine, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = [f"guest-{number:03}" for number in range(1, 201)]
    try:
        with ChannelRig(vmfence, tmp_path, names) as rig:
            held = [socket.fromfd(rig.connected(name).descriptor, socket.AF_UNIX, socket.SOCK_STREAM) for name in names]
            end = FarEnd(held[0].fileno())
            assert ask(end, wire.STATUS, names[1]) == wire.DONE
            before = wakeups(rig.daemon)
            for _ in range(20):
                assert ask(end, wire.MONITOR) == wire.DONE
            # A handful for each request that is served, and none for the 199 that say nothing.
            assert wakeups(rig.daemon) - before < 20 * 15
            for each in held:
                each.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Our agent on a line of its own


@pytest.mark.parametrize("transport", [(), ("--transport", "serial"), ("--transport", "auto")])
def test_the_agent_through_a_serial_line(rig: ChannelRig, vmfence: CommandLine, transport: tuple[str, ...]) -> None:
    with Line() as line, Bridge(line.descriptor, rig.connected(ALPHA).descriptor):
        before = line.settings()
        words = ("-D", line.device, *transport)
        done = vmfence.fence(*words, "-o", "off", "-n", BETA)
        assert done.exit == 0, done
        assert rig.state(BETA) == OFF
        done = vmfence.fence(*words, "-o", "list")
        assert (done.exit, [row.split()[0] for row in done.stdout.splitlines()]) == (0, [ALPHA, BETA])
        assert vmfence.fence(*words, "-o", "status", "-n", BETA).exit == 2
        assert vmfence.fence(*words, "-o", "status", "-n", "gamma").exit == 3
        assert line.settings() == before
        if "auto" in transport:
            assert f"transport: serial ({line.device}), not vsock: " in done.stderr


def test_two_agents_share_a_line(rig: ChannelRig, vmfence: CommandLine) -> None:
    """Each waits for its turn: no answer goes to the wrong one."""
    with Line() as line, Bridge(line.descriptor, rig.connected(ALPHA).descriptor):
        argv = [vmfence.agent, "-D", line.device, "-o", "status", "-t", "30", "-n"]
        assert ask_off(rig, BETA)
        running = [subprocess.Popen([*argv, guest]) for guest in (ALPHA, BETA) * 3]
        assert [each.wait(60) for each in running] == [0, 2] * 3


def ask_off(rig: ChannelRig, guest: str) -> bool:
    return rig.ask(wire.OFF, guest) == wire.DONE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_agent_that_is_ended_leaves_the_terminal_well(vmfence: CommandLine, tmp_path: Path, number: int) -> None:
    with Line() as line:
        before = line.settings()
        argv = [vmfence.agent, "-D", line.device, "-o", "off", "-n", "alpha"]
        with Daemon(argv, tmp_path / "log") as agent:
            assert line.take()[1] == b"alpha"
            assert line.settings() != before
            agent.signal(number)
            assert agent.wait() == 1
        assert line.settings() == before
        assert "interrupted; whether anything was done is not known" in (tmp_path / "log").read_text()


def test_the_agent_without_a_daemon(vmfence: CommandLine) -> None:
    with Line() as line:
        done = run_client(vmfence.agent, ["-D", line.device, "-o", "status", "-n", "alpha", "-t", "1"])
    assert done.exit == 1
    assert "Timed out waiting for response" in done.stderr


def test_a_foreign_agents_socket_is_left_alone(vmfence: CommandLine, tmp_path: Path) -> None:
    """The QEMU guest agent's channel is a VM channel too; whoever connects takes it away from libvirt."""
    rig = ChannelRig(vmfence, tmp_path, mode="virtio", serial={"mode": "vmchannel"})
    world = tmp_path / "world.xml"
    world.write_text(world.read_text().replace("org.vmfence.0", "org.qemu.guest_agent.0", 1))
    with rig:
        assert ask(rig.connected(BETA), wire.STATUS, ALPHA) == wire.DONE
        assert not rig.sockets[ALPHA].is_wanted()


def test_another_name_of_the_ports(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = ChannelRig(vmfence, tmp_path, mode="virtio", serial={"channel": "org.example.fence"})
    world = tmp_path / "world.xml"
    world.write_text(world.read_text().replace("org.vmfence.0", "org.example.fence", 1))
    with rig:
        assert ask(rig.connected(ALPHA), wire.STATUS, BETA) == wire.DONE
        assert not rig.sockets[BETA].is_wanted()


def test_a_guest_without_rights_cannot_fill_the_history(rig: ChannelRig) -> None:
    alpha = rig.connected(ALPHA)
    for _ in range(100):
        assert ask(alpha, wire.OFF, "nobody") == wire.DENIED
    assert ask(alpha, wire.OFF, BETA) == wire.DONE
    state = str(rig.folder / "state")
    wait_until(lambda: list(history.read(state))[-1].guest == BETA, what="the record of the power action")
    assert len(list(history.read(state))) == refusals.KEPT_MAX + 1
    assert rig.daemon.log().count("guest=nobody") == refusals.KEPT_MAX
