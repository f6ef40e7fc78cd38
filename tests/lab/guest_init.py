#!/usr/bin/python3 -SE
"""The first process of the small Linux guest: sets it up, then does what the test at the other end of a port says.

Orders and answers are a line of JSON each; linux_guest.py writes them.  There is nothing here but Python and the kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

PORT = "lab.control"
ADDRESS, MASK = "10.0.2.15", "255.255.255.0"
MODULES = Path("/lib/modules")
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C", "HOME": "/root", "PYTHONPATH": "/usr/lib/vmfence",
}  # fmt: skip
LIBC = ctypes.CDLL(None, use_errno=True)
SYS_INIT_MODULE = 175  # x86_64
SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8916, 0x891C, 0x8913, 0x8914
IFF_UP = 1
RB_AUTOBOOT = 0x01234567


def mount(kind: str, target: str) -> None:
    """Mount a file system of the kernel's."""
    os.makedirs(target, exist_ok=True)
    if LIBC.mount(kind.encode(), target.encode(), kind.encode(), 0, None):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def load(driver: str) -> None:
    """Load a driver and what it needs."""
    for name in (MODULES / f"{driver}.order").read_text().split():
        if Path(f"/sys/module/{name}").exists():
            continue
        data = (MODULES / f"{name}.ko").read_bytes()
        if LIBC.syscall(SYS_INIT_MODULE, data, len(data), b""):
            raise OSError(ctypes.get_errno(), f"load {name}")


def name_ports() -> None:
    """Link virtio ports by their names, as udev does."""
    os.makedirs("/dev/virtio-ports", exist_ok=True)
    for port in Path("/sys/class/virtio-ports").iterdir():
        name = (port / "name").read_text().strip()
        link = Path("/dev/virtio-ports", name)
        if name and not link.exists():
            link.symlink_to(f"../{port.name}")


def bring_up(interface: str, address: str, mask: str) -> None:
    """Give an interface its address (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, mask)):
            wanted = struct.pack("16sH2x4s8x", interface.encode(), socket.AF_INET, socket.inet_aton(value))
            fcntl.ioctl(control, request, wanted)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s16x", interface.encode())))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags[1] | IFF_UP))


def set_up() -> None:
    """Make the machine ready for programs."""
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
        mount(kind, target)
    for driver in ("virtio_pci", "virtio_console", "virtio_net"):
        load(driver)
    bring_up("lo", "127.0.0.1", "255.0.0.0")
    if Path("/sys/class/net/eth0").exists():
        bring_up("eth0", ADDRESS, MASK)
    wait_for_port()


def wait_for_port() -> None:
    """Return once the control port has its name: the kernel learns names from the host after the driver is there."""
    deadline = time.monotonic() + 10
    while not Path("/dev/virtio-ports", PORT).exists():
        name_ports()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no port {PORT}")
        time.sleep(0.01)


class Programs:
    """What the test has started here."""

    def __init__(self) -> None:
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def do(self, order: dict[str, object]) -> dict[str, object]:
        """Carry out one order and return the answer."""
        if "run" in order:
            return self._run(order["run"], str(order.get("input", "")), float(order["timeout"]))
        if "start" in order:
            return {"pid": self._start(order["start"], str(order["log"]))}
        if "stop" in order:
            self._stop(int(order["stop"]))
        elif "load" in order:
            load(str(order["load"]))
        elif "write" in order:
            write(str(order["write"]), str(order["data"]).encode(ENCODING), int(order["mode"]))
        elif "read" in order:
            path = Path(str(order["read"]))
            return {"data": path.read_text(errors="replace") if path.exists() else ""}
        elif "reboot" in order:
            LIBC.reboot(RB_AUTOBOOT)
        else:
            raise ValueError(f"unknown order: {order}")
        return {}

    def _run(self, argv: list[str], text: str, timeout_s: float) -> dict[str, object]:
        done = subprocess.run(
            argv, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s,
            env=ENVIRONMENT,
        )  # fmt: skip
        return {"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def _start(self, argv: list[str], log: str) -> int:
        with open(log, "ab") as output:
            started = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT
            )
        self._started[started.pid] = started
        return started.pid

    def _stop(self, pid: int) -> None:
        started = self._started.pop(pid)
        started.send_signal(signal.SIGTERM)
        started.wait(20)


def serve() -> None:
    """Obey for ever."""
    programs = Programs()
    with open(f"/dev/virtio-ports/{PORT}", "r+b", buffering=0) as port:
        tell(port, {"ready": os.uname().release})
        pending = b""
        while True:
            data = port.read(4096)
            if not data:  # nobody holds the other end
                time.sleep(0.05)
                continue
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                try:
                    answer = programs.do(json.loads(line))
                except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                tell(port, answer)


def tell(port: object, answer: dict[str, object]) -> None:
    """Write a line, however many pieces it takes."""
    data = memoryview(json.dumps(answer).encode() + b"\n")
    while data:
        data = data[port.write(data) :]  # type: ignore[attr-defined]


if __name__ == "__main__":
    try:
        set_up()
        serve()
    except BaseException as error:  # its end would be a kernel panic without a reason
        print(f"init: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise
