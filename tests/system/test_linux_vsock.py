"""VM sockets, inside a real Linux guest: daemon and agent meet over the kernel's loopback.

CID 2, the host, is the guest itself while it has no vsock device; who asks is CID 1 there.

A host whose kernel offers guests no VM sockets has no other way; the guests to be fenced are of libvirt's test driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import guest_image
from lab.guest_image import AGENT, VMFENCE, make_image
from lab.hypervisor import Hypervisor
from lab.linux_guest import LinuxGuest
from lab.process import Result
from lab.reference import FENCE_VIRT, FENCE_VIRTD, MODULES
from lab.rig import no_trace
from lab.waiting import LabError, wait_until

LACKS = guest_image.missing()
pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(LACKS), reason=f"needs {', '.join(LACKS)}")]
KEY, OTHER_KEY = "/etc/cluster/fence_xvm.key", "/etc/other.key"
CONFIG, LOG, WORLD = "/etc/vsock.conf", "/run/daemon.log", "/etc/world.xml"
BETA, GAMMA = "beta", "gamma"
IS_OFF, DENIED = 2, 3
STARTED_WITHIN = 120.0  # seconds
GUEST = """<domain type="test"><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"""
DAEMON = f"""
fence_virtd {{ listener = "vsock"; backend = "libvirt"; module_path = "{MODULES}"; }}
listeners {{ vsock {{ key_file = "{KEY}"; }} }}
backends {{ libvirt {{ uri = "test://{WORLD}"; }} }}
groups {{ group {{ ip = "1"; uuid = "{BETA}"; }} group {{ ip = "5"; uuid = "{GAMMA}"; }} }}
"""
OURS = (VMFENCE, "host", "daemon", "-f", CONFIG)
REFERENCE = (FENCE_VIRTD, "-F", "-d99", "-f", CONFIG, "-p", "/run/fence_virtd.pid")


@pytest.fixture(scope="module")
def guest(hypervisor: Hypervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxGuest]:
    """A Linux guest that has VM sockets, and all that a daemon needs."""
    image = make_image(tmp_path_factory.mktemp("image"))
    with LinuxGuest(hypervisor, image, "linux-vsock") as made:
        made.start()
        made.load("vsock_loopback")
        made.write(KEY, b"k" * 512)
        made.write(OTHER_KEY, b"o" * 512)
        made.write(CONFIG, DAEMON)
        made.write(WORLD, f"<node>{GUEST.format(name=BETA)}{GUEST.format(name=GAMMA)}</node>")
        yield made


@contextmanager
def daemon(guest: LinuxGuest, argv: tuple[str, ...], ready: str) -> Iterator[None]:
    """Have a daemon in the guest until the end of the block."""
    guest.write(LOG, "")
    pid = guest.begin(*argv, log=LOG)

    def is_ready() -> bool:
        if not guest.is_running(pid):
            raise LabError(f"{argv[0]} ended:\n{guest.read(LOG)}")
        return ready in guest.read(LOG)

    try:
        wait_until(is_ready, STARTED_WITHIN, f"{argv[0]} in the guest", interval=0.1)
        yield
        assert no_trace(guest.read(LOG)), guest.read(LOG)
    finally:
        guest.end(pid)


@pytest.fixture(scope="module")
def serving(guest: LinuxGuest) -> Iterator[LinuxGuest]:
    """The guest, with our daemon in it."""
    with daemon(guest, OURS, " ready: "):
        yield guest


def fence(guest: LinuxGuest, action: str, name: str = "", *more: str, program: str = AGENT) -> Result:
    """Run an agent in the guest."""
    return guest.run(program, "-S", "-o", action, *(["-n", name] if name else []), *more)


@pytest.mark.parametrize("program", [AGENT, FENCE_VIRT])
def test_over_vsock(serving: LinuxGuest, program: str) -> None:
    assert fence(serving, "monitor", program=program).exit == 0
    assert fence(serving, "off", BETA, program=program).exit == 0
    assert fence(serving, "status", BETA, program=program).exit == IS_OFF
    assert fence(serving, "on", BETA, program=program).exit == 0
    assert fence(serving, "status", BETA, program=program).exit == 0
    assert fence(serving, "reboot", BETA, program=program).exit == 0
    assert "via=vsock" in serving.read(LOG)


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
    """Its listener says nothing when it is ready."""
    with daemon(guest, REFERENCE, "Actual key length"):
        wait_until(lambda: fence(guest, "monitor").exit == 0, what="fence_virtd's listener")
        listed = fence(guest, "list")
        assert listed.exit == 0 and BETA in listed.stdout and GAMMA not in listed.stdout, listed
        assert fence(guest, "off", BETA).exit == 0
        assert fence(guest, "status", BETA).exit == IS_OFF
        assert fence(guest, "off", GAMMA).exit == DENIED


def test_nobody_listens(guest: LinuxGuest) -> None:
    done = fence(guest, "status", BETA, "-p", "1230")
    assert done.exit == 1 and "CID 2 port 1230" in done.stderr, done
