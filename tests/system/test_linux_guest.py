"""A real Linux guest fences others through the pipes of its hypervisor: no network, no key.

One boot serves all tests; guests are judged by libvirt alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab import guest_image
from lab.guest_image import AGENT, PYTHON, made_image
from lab.hypervisor import Hypervisor
from lab.linux_guest import CHANNEL, MODES, SERIAL, VIRTIO, LinuxGuest
from lab.ours import READY, CommandLine, our_config
from lab.process import Daemon, Result
from lab.reference import FENCE_VIRT, config_text, fence_virtd, write_key
from lab.rig import no_trace
from lab.waiting import wait_until

LACKS = guest_image.missing()
pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(bool(LACKS), reason=f"needs {', '.join(LACKS)}"),
]
LINUX, BETA, GAMMA = "linux", "beta", "gamma"
WAYS = {"serial": ("-D", SERIAL), "virtio": ("-D", VIRTIO), "vmchannel": ("-A", CHANNEL)}
IS_OFF, DENIED = 2, 3
SETTINGS = f"import termios; print(termios.tcgetattr(open({SERIAL!r})))"
ANOTHER_SPEED = f"""
import termios
line = open({SERIAL!r})
settings = termios.tcgetattr(line)
settings[3:6] = [termios.ICANON | termios.ECHO, termios.B9600, termios.B9600]
termios.tcsetattr(line, termios.TCSANOW, settings)
"""
# Six agents at once ask in turn for a guest that runs and for one that does not.
SIX_AGENTS = f"""
import subprocess
agents = [
    subprocess.Popen([{AGENT!r}, "-D", {SERIAL!r}, "-o", "status", "-t", "100", "-n", guest])
    for guest in ({LINUX!r}, {BETA!r}) * 3
]
print([agent.wait() for agent in agents])
"""


class World:
    """The Linux guest, two that are empty, and for each mode a daemon of ours that serves it.

    Its group has itself and beta: gamma is none of its business.
    """

    def __init__(self, guest: LinuxGuest, hypervisor: Hypervisor, vmfence: CommandLine, folder: Path) -> None:
        self.guest, self.hypervisor = guest, hypervisor
        self._vmfence, self._folder = vmfence, folder
        self.daemons = {mode: self._daemon(mode) for mode in MODES}

    def __enter__(self) -> World:
        for mode in MODES:
            self.start(mode)
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons.values():
            daemon.stop()

    def fence(self, mode: str, action: str, guest: str = "", program: str = AGENT) -> Result:
        """Run an agent in the Linux guest."""
        return self.guest.run(program, *WAYS[mode], "-o", action, *(["-n", guest] if guest else []))

    def start(self, mode: str) -> None:
        """Start the daemon of a mode; ready when it holds the Linux guest's pipe."""
        self.daemons[mode].start().wait_for_line(READY, 30)
        self.wait_connected(mode)

    def wait_connected(self, *modes: str) -> None:
        """Wait until the daemons hold the Linux guest's pipes."""
        for mode in modes or MODES:
            wait_until(lambda mode=mode: self._is_connected(mode), 60, f"the daemon of {mode} at the guest")  # type: ignore[misc]

    @contextmanager
    def without(self, *modes: str) -> Iterator[None]:
        """Have no daemons for *modes* until the end of the block."""
        for mode in modes:
            self.daemons[mode].stop()
        try:
            yield
        finally:
            for mode in modes:
                self.start(mode)

    def check(self) -> None:
        """Check that the Linux guest is heard by all ways."""
        self.wait_connected()
        for mode in MODES:
            done = self.fence(mode, "status", BETA)
            assert done.exit == 0, (mode, done, self.daemons[mode].log())

    def rules(self) -> str:
        """The access rules."""
        return f'group {{ uuid = "{self.guest.uuid}"; uuid = "{BETA}"; }} group {{ uuid = "{GAMMA}"; }}'

    def _daemon(self, mode: str) -> Daemon:
        folder = self._folder / mode
        folder.mkdir()
        config = our_config(
            folder, self.hypervisor.uri, write_key(folder / "key"), groups=self.rules(),
            listeners={"serial": {"mode": mode, "path": self.guest.folder / mode}},
        )  # fmt: skip
        return Daemon([self._vmfence.vmfence, "host", "daemon", "-f", str(config)], folder / "log")

    def _is_connected(self, mode: str) -> bool:
        done = self._vmfence.run("host", "status", "--json", "-s", str(self._folder / mode / "control"))
        return "(1 of 1 connected)" in str(json.loads(done.stdout)["listeners"])


@contextmanager
def empty_guest(hypervisor: Hypervisor, name: str) -> Iterator[None]:
    """Have an empty guest until the end of the block."""
    hypervisor.define(name)
    try:
        yield
    finally:
        if hypervisor.is_on(name):
            hypervisor.power_off(name)
        hypervisor.undefine(name)


@pytest.fixture(scope="module")
def made(hypervisor: Hypervisor, vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("linux")
    with ExitStack() as stack:
        for name in (BETA, GAMMA):
            stack.enter_context(empty_guest(hypervisor, name))
        image = stack.enter_context(made_image())
        guest = stack.enter_context(LinuxGuest(hypervisor, image, LINUX))
        guest.start()
        yield stack.enter_context(World(guest, hypervisor, vmfence, folder))


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """The world, with all guests running."""
    for name in (BETA, GAMMA):
        if not made.hypervisor.is_on(name):
            made.hypervisor.power_on(name)
    yield made
    for daemon in made.daemons.values():
        assert no_trace(daemon.log()), daemon.log()


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_fences_another(world: World, mode: str) -> None:
    assert world.fence(mode, "status", BETA).exit == 0
    assert world.fence(mode, "off", BETA).exit == 0
    assert not world.hypervisor.is_on(BETA)
    assert world.fence(mode, "status", BETA).exit == IS_OFF
    assert world.fence(mode, "on", BETA).exit == 0
    assert world.hypervisor.is_on(BETA)
    before = world.hypervisor.domain_id(BETA)
    assert world.fence(mode, "reboot", BETA).exit == 0
    assert world.hypervisor.domain_id(BETA) not in (before, -1)


@pytest.mark.parametrize("mode", MODES)
def test_its_group_is_all_that_it_sees_and_fences(world: World, mode: str) -> None:
    before = world.hypervisor.domain_id(GAMMA)
    listed = world.fence(mode, "list")
    assert (listed.exit, sorted(row.split()[0] for row in listed.stdout.splitlines())) == (0, [BETA, LINUX])
    assert world.fence(mode, "reboot", GAMMA).exit == DENIED
    assert world.hypervisor.domain_id(GAMMA) == before
    assert f"origin={world.guest.uuid} via={mode} result=denied" in world.daemons[mode].log()


def test_auto_takes_virtio_and_says_so(world: World) -> None:
    done = world.guest.run(AGENT, "--transport", "auto", "-o", "off", "-n", BETA)
    assert done.exit == 0 and f"transport: virtio ({VIRTIO})" in done.stderr, done
    assert not world.hypervisor.is_on(BETA)


def test_auto_passes_over_a_port_that_nobody_holds(world: World) -> None:
    with world.without("virtio"):
        done = world.guest.run(AGENT, "--transport", "auto", "-D", SERIAL, "-o", "monitor")
    assert done.exit == 0 and f"transport: serial ({SERIAL})" in done.stderr, done
    assert f"virtio: {VIRTIO} takes no bytes" in done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_without_a_daemon_nothing_is_reported_as_done(world: World, mode: str) -> None:
    with world.without(mode):
        done = world.guest.run(AGENT, *WAYS[mode], "-o", "off", "-n", BETA, "-t", "2")
        assert done.exit == 1 and done.stderr, done
    assert world.hypervisor.is_on(BETA)
    assert world.fence(mode, "status", BETA).exit == 0
    assert world.hypervisor.is_on(BETA), "a request that was given up is not carried out later"


@pytest.mark.parametrize("mode", ["serial", "vmchannel"])
def test_the_reference_client(world: World, mode: str) -> None:
    """fence_virt knows no virtio ports."""
    listed = world.fence(mode, "list", program=FENCE_VIRT)
    assert listed.exit == 0 and BETA in listed.stdout and GAMMA not in listed.stdout, listed
    assert world.fence(mode, "off", BETA, program=FENCE_VIRT).exit == 0
    assert not world.hypervisor.is_on(BETA)
    assert world.fence(mode, "status", BETA, program=FENCE_VIRT).exit == IS_OFF
    assert world.fence(mode, "on", BETA, program=FENCE_VIRT).exit == 0
    assert world.hypervisor.is_on(BETA)
    assert world.fence(mode, "off", GAMMA, program=FENCE_VIRT).exit == DENIED
    assert world.hypervisor.is_on(GAMMA)


@pytest.mark.parametrize("mode", ["serial", "vmchannel"])
def test_the_reference_daemon(world: World, mode: str, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    settings = {"mode": mode, "path": world.guest.folder / mode, "uri": world.hypervisor.uri}
    config = config_text("serial", world.hypervisor.uri, key, world.rules(), **settings)
    with world.without(mode), fence_virtd(config, tmp_path) as daemon:
        daemon.wait_for_line(world.guest.name)
        listed = world.fence(mode, "list")
        assert listed.exit == 0 and BETA in listed.stdout and GAMMA not in listed.stdout, (listed, daemon.log())
        assert world.fence(mode, "off", BETA).exit == 0
        assert not world.hypervisor.is_on(BETA)
        assert world.fence(mode, "status", BETA).exit == IS_OFF
        assert world.fence(mode, "on", BETA).exit == 0
        assert world.hypervisor.is_on(BETA)


def test_agents_take_turns_on_a_line(world: World) -> None:
    world.hypervisor.power_off(BETA)
    done = world.guest.run(PYTHON, "-c", SIX_AGENTS)
    assert done.stdout.splitlines()[-1] == str([0, IS_OFF] * 3), done


def test_the_terminal_is_left_as_it_was(world: World) -> None:
    assert world.guest.run(PYTHON, "-c", ANOTHER_SPEED).exit == 0
    before = world.guest.run(PYTHON, "-c", SETTINGS)
    assert world.fence("serial", "monitor").exit == 0
    assert before.exit == 0 and world.guest.run(PYTHON, "-c", SETTINGS).stdout == before.stdout


def test_console_output_before_a_request(world: World) -> None:
    world.guest.write(SERIAL, "[   12.345678] abb: error\r\nlinux login: ab")
    assert world.fence("serial", "off", BETA).exit == 0
    assert not world.hypervisor.is_on(BETA)


def test_a_guest_that_reboots_by_itself(world: World) -> None:
    """The pipes stay connected all the while."""
    world.guest.reboot()
    world.check()


def test_a_guest_whose_power_is_cut(world: World) -> None:
    world.guest.stop()
    world.guest.start()
    world.check()


def test_a_guest_that_fences_itself(world: World) -> None:
    before = world.hypervisor.domain_id(LINUX)
    world.guest.begin(AGENT, *WAYS["virtio"], "-o", "reboot", "-n", LINUX)
    wait_until(lambda: world.hypervisor.domain_id(LINUX) not in (before, -1), 60, "a guest that was started anew")
    world.guest.wait_booted()
    world.check()


def test_a_daemon_that_is_started_again(world: World) -> None:
    with world.without(*MODES):
        pass
    world.check()
