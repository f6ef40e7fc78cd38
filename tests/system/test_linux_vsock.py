"""VM sockets, inside a real Linux guest: daemon and agent meet over the kernel's loopback.

CID 2, the host, is the guest itself while it has no vsock device; who asks is CID 1 there.

A host whose kernel offers guests no VM sockets has no other way; the guests to be fenced are of libvirt's test driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import pytest

from lab import guest_image
from lab.guest_image import AGENT, VMFENCE, made_image
from lab.hypervisor import Hypervisor
from lab.linux_guest import LinuxGuest
from lab.process import Result
from lab.reference import FENCE_VIRT, FENCE_VIRTD, MODULES
from lab.rig import no_trace
from lab.waiting import LabError, wait_until

LACKS = guest_image.missing()
pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(LACKS), reason=f"needs {', '.join(LACKS)}")]
KEY, OTHER_KEY = "/etc/cluster/fence_xvm.key", "/etc/other.key"
WORLD = "/etc/world.xml"
PORT, REFERENCE_PORT, NOBODYS_PORT = 1229, 1230, 1231
BETA, GAMMA = "beta", "gamma"
IS_OFF, DENIED = 2, 3
STARTED_WITHIN = 120.0  # seconds
GUEST = """<domain type="test"><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"""
SETTINGS = f"""
fence_virtd {{ listener = "vsock"; backend = "libvirt"; module_path = "{MODULES}"; }}
listeners {{ vsock {{ key_file = "{KEY}"; port = "%d"; }} }}
backends {{ libvirt {{ uri = "test://{WORLD}"; }} }}
groups {{ group {{ ip = "1"; uuid = "{BETA}"; }} group {{ ip = "5"; uuid = "{GAMMA}"; }} }}
"""
OURS = (VMFENCE, "host", "daemon", "-f")
REFERENCE = (FENCE_VIRTD, "-F", "-d99", "-p", "/run/fence_virtd.pid", "-f")


@pytest.fixture(scope="module")
def guest(hypervisor: Hypervisor) -> Iterator[LinuxGuest]:
    """A Linux guest that has VM sockets, and all that a daemon needs."""
    with made_image() as image, LinuxGuest(hypervisor, image, "linux-vsock") as made:
        made.start()
        made.load("vsock_loopback")
        made.write(KEY, b"k" * 512)
        made.write(OTHER_KEY, b"o" * 512)
        made.write(WORLD, f"<node>{GUEST.format(name=BETA)}{GUEST.format(name=GAMMA)}</node>")
        yield made


@contextmanager
def daemon(guest: LinuxGuest, argv: tuple[str, ...], port: int, ready: str) -> Iterator[Callable[[], str]]:
    """Have a daemon at *port* in the guest until the end of the block; lend what returns its log."""
    config, log_file = f"/etc/{port}.conf", f"/run/{port}.log"
    guest.write(config, SETTINGS % port)
    pid = guest.begin(*argv, config, log=log_file)

    def log() -> str:
        return guest.read(log_file)

    def is_ready() -> bool:
        if not guest.is_running(pid):
            raise LabError(f"{argv[0]} ended:\n{log()}")
        return ready in log()

    try:
        wait_until(is_ready, STARTED_WITHIN, f"{argv[0]} in the guest", interval=0.1)
        yield log
        assert no_trace(log()), log()
    finally:
        guest.end(pid)


@pytest.fixture(scope="module")
def log(guest: LinuxGuest) -> Iterator[Callable[[], str]]:
    """Our daemon, which serves in the guest: what returns its log."""
    with daemon(guest, OURS, PORT, " ready: ") as made:
        yield made


@pytest.fixture
def serving(guest: LinuxGuest, log: Callable[[], str]) -> LinuxGuest:
    """The guest, with our daemon in it."""
    return guest


def fence(guest: LinuxGuest, action: str, name: str = "", *more: str, program: str = AGENT) -> Result:
    """Run an agent in the guest."""
    return guest.run(program, "-S", "-o", action, *(["-n", name] if name else []), *more)


@pytest.mark.parametrize("program", [AGENT, FENCE_VIRT])
def test_over_vsock(serving: LinuxGuest, log: Callable[[], str], program: str) -> None:
    assert fence(serving, "monitor", program=program).exit == 0
    assert fence(serving, "off", BETA, program=program).exit == 0
    assert fence(serving, "status", BETA, program=program).exit == IS_OFF
    assert fence(serving, "on", BETA, program=program).exit == 0
    assert fence(serving, "status", BETA, program=program).exit == 0
    assert fence(serving, "reboot", BETA, program=program).exit == 0
    assert f"action=reboot guest={BETA} origin=1 via=vsock result=ok" in log()


@pytest.mark.parametrize("program", [AGENT, FENCE_VIRT])
def test_the_number_of_the_guest_decides_what_it_may(serving: LinuxGuest, program: str) -> None:
    listed = fence(serving, "list", program=program)
    assert listed.exit == 0 and BETA in listed.stdout and GAMMA not in listed.stdout, listed
    assert fence(serving, "off", GAMMA, program=program).exit == DENIED


def test_another_key_is_refused(serving: LinuxGuest) -> None:
    done = fence(serving, "off", BETA, "-k", OTHER_KEY)
    assert done.exit == 1, done
    assert fence(serving, "status", BETA).exit == 0


def test_auto_takes_vsock_first(serving: LinuxGuest) -> None:
    done = serving.run(AGENT, "--transport", "auto", "-o", "status", "-n", BETA)
    assert done.exit == 0 and "transport: vsock (CID 2 port 1229)" in done.stderr, done


def test_the_reference_daemon(guest: LinuxGuest) -> None:
    """It says nothing while it runs, as its output goes to a file."""
    port = ("-p", str(REFERENCE_PORT))
    with daemon(guest, REFERENCE, REFERENCE_PORT, ready=""):
        wait_until(lambda: fence(guest, "monitor", "", *port).exit == 0, STARTED_WITHIN, "fence_virtd's listener")
        listed = fence(guest, "list", "", *port)
        assert listed.exit == 0 and BETA in listed.stdout and GAMMA not in listed.stdout, listed
        assert fence(guest, "off", BETA, *port).exit == 0
        assert fence(guest, "status", BETA, *port).exit == IS_OFF
        assert fence(guest, "off", GAMMA, *port).exit == DENIED


def test_nobody_listens(guest: LinuxGuest) -> None:
    done = fence(guest, "status", BETA, "-p", str(NOBODYS_PORT))
    assert done.exit == 1 and f"CID 2 port {NOBODYS_PORT}" in done.stderr, done
