#!/usr/bin/python3 -SE
"""The first process of the small Linux guest: makes it ready, then does what the test at the other end of a port says.

Orders and answers are a line of JSON each (linux_guest.py).  There is nothing in the guest but the kernel, Python and
what is tested: no shell, no udev, no modprobe.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable

PORT = Path("/dev/virtio-ports/lab.control")
ADDRESSES = {"lo": ("127.0.0.1", "255.0.0.0"), "eth0": ("10.0.2.15", "255.255.255.0")}
DRIVERS = ("virtio_pci", "virtio_console", "virtio_net")
MODULES = Path("/lib/modules")
FILE_SYSTEMS = {"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs", "/tmp": "tmpfs"}
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C", "HOME": "/root", "PYTHONPATH": "/usr/lib/vmfence"}
LIBC = ctypes.CDLL(None, use_errno=True)
SYS_INIT_MODULE = 175  # x86_64
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1
RB_AUTOBOOT = 0x01234567
PATIENT = 20.0  # seconds


def set_up() -> None:
    """Make the machine ready for programs."""
    for target, kind in FILE_SYSTEMS.items():
        os.makedirs(target, exist_ok=True)
        check(LIBC.mount(kind.encode(), target.encode(), kind.encode(), 0, None), f"mount {target}")
    for driver in DRIVERS:
        load(driver)
    for interface, (address, mask) in ADDRESSES.items():
        bring_up(interface, address, mask)
    deadline = time.monotonic() + PATIENT
    while not PORT.exists():  # the kernel asks the host for the ports' names after the driver is there
        name_ports()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {PORT}")
        time.sleep(0.01)
    name_ports()


def check(result: int, what: str) -> None:
    """Raise OSError when a call of the C library has failed."""
    if result:
        raise OSError(ctypes.get_errno(), what)


def load(driver: str) -> None:
    """Load a driver, after what it needs."""
    for name in (MODULES / f"{driver}.order").read_text().split():
        if not Path(f"/sys/module/{name}").exists():
            data = (MODULES / f"{name}.ko").read_bytes()
            check(LIBC.syscall(SYS_INIT_MODULE, data, len(data), b""), f"load {name}")


def bring_up(interface: str, address: str, mask: str) -> None:
    """Give an interface its address (netdevice(7))."""
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, mask)):
            wanted = struct.pack("16sH2x4s8x", name, socket.AF_INET, socket.inet_aton(value))
            fcntl.ioctl(control, request, wanted)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s16x", name)))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name, flags | IFF_UP))


def name_ports() -> None:
    """Link virtio ports by their names, as udev does."""
    PORT.parent.mkdir(exist_ok=True)
    for port in Path("/sys/class/virtio-ports").iterdir():
        name = (port / "name").read_text().strip() if (port / "name").exists() else ""
        if name and not (PORT.parent / name).exists():
            (PORT.parent / name).symlink_to(f"../{port.name}")


class Orders:
    """What the test may order, one method each; returns the answer."""

    def __init__(self) -> None:
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def run(self, argv: list[str], stdin: str, timeout_s: float) -> dict[str, Any]:
        """Run a program to its end."""
        done = subprocess.run(
            argv, input=stdin, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s,
            env=ENVIRONMENT,
        )  # fmt: skip
        return {"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def begin(self, argv: list[str], log: str) -> dict[str, Any]:
        """Start a program."""
        with open(log, "ab") as output:
            started = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT
            )
        self._started[started.pid] = started
        return {"pid": started.pid}

    def is_running(self, pid: int) -> dict[str, Any]:
        """Tell whether a program has not ended yet."""
        return {"running": self._started[pid].poll() is None}

    def end(self, pid: int) -> dict[str, Any]:
        """End a program that was started."""
        started = self._started.pop(pid)
        started.terminate()
        return {"exit": started.wait(PATIENT)}

    def write(self, path: str, data: str, mode: int) -> dict[str, Any]:
        """Write a file; each character of *data* is a byte."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            os.chmod(path, mode)
            file.write(data.encode("latin-1"))
        return {}

    def read(self, path: str) -> dict[str, Any]:
        """Return what a file has, nothing while there is none."""
        return {"data": Path(path).read_text(errors="replace") if os.path.exists(path) else ""}

    def load(self, driver: str) -> dict[str, Any]:
        """Load a driver."""
        load(driver)
        return {}

    def reboot(self) -> dict[str, Any]:
        """Begin anew; the next that is heard of us is that we are ready."""
        check(LIBC.reboot(RB_AUTOBOOT), "reboot")
        return {}


def serve() -> None:
    """Obey for ever."""
    orders = Orders()
    with PORT.open("r+b", buffering=0) as port:
        tell(port, {"ready": os.uname().release})
        pending = b""
        while True:
            data = port.read(4096)
            if not data:  # nobody holds the other end
                time.sleep(0.05)
            *lines, pending = (pending + (data or b"")).split(b"\n")
            for line in lines:
                tell(port, obey(orders, json.loads(line)))


def obey(orders: Orders, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order: the name of a method, and its arguments."""
    method: Callable[..., dict[str, Any]] = getattr(orders, order.pop("order"))
    try:
        return method(**order)
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def tell(port: BinaryIO, answer: dict[str, Any]) -> None:
    """Write a line, in however many pieces it takes."""
    data = memoryview(json.dumps(answer).encode() + b"\n")
    while data:
        data = data[port.write(data) :]


if __name__ == "__main__":
    try:
        set_up()
        serve()
    except BaseException as error:  # our end is a kernel panic, which does not say why
        print(f"init: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise
