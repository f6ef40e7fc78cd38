"""A guest of a private libvirtd that runs a real, small Linux, and does there what a test says.

It is emulated in software, needs no disk and no network, boots in about eight seconds, and has every pipe by which a
guest may reach its host: a serial line, a VM channel, a virtio port; and one port more by which tests give orders.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from .guest_image import Image
from .hypervisor import Hypervisor
from .process import Result
from .waiting import LabError, wait_until

BOOTED_WITHIN = 120.0  # seconds; a machine with other work needs many times what an idle one does
MODES = ("serial", "virtio", "vmchannel")
ANSWER_WITHIN = 120.0
CONTROL = "lab.control"
# How programs in the guest reach each pipe.
SERIAL, VIRTIO, CHANNEL = "/dev/ttyS1", "/dev/virtio-ports/org.vmfence.0", "10.0.2.179"
_PIECE = 65536
# rdrand: without it Linux has no random numbers when its first process begins.  The channel's netdev gets a network
# card by hand, for libvirt 9.0 gives it none.
_GUEST = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>640</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{image.kernel}</kernel><initrd>{image.initrd}</initrd>
    <cmdline>console=ttyS0 loglevel=4 panic=-1 mitigations=off</cmdline></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model>qemu64</model><feature policy='require' name='rdrand'/></cpu>
  <on_reboot>restart</on_reboot>
  <devices>
    <controller type='usb' model='none'/><memballoon model='none'/><video><model type='none'/></video>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='{folder}/serial/{name}'/><target port='1'/></serial>
    <channel type='unix'><source mode='bind' path='{folder}/vmchannel/{name}'/>
      <target type='guestfwd' address='10.0.2.179' port='1229'/><alias name='ua-fwd'/></channel>
    <channel type='unix'><source mode='bind' path='{folder}/virtio/{name}'/>
      <target type='virtio' name='org.vmfence.0'/></channel>
    <channel type='unix'><source mode='bind' path='{folder}/{control}'/>
      <target type='virtio' name='lab.control'/></channel>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-device'/><qemu:arg value='virtio-net-pci,netdev=ua-fwd,romfile=,addr=0x1e'/>
  </qemu:commandline>
</domain>"""


class LinuxGuest:
    """A guest called *name*; defined on entry, booted by start(), destroyed at the end of the block.

    Its pipes are sockets in the folders serial, virtio and vmchannel of *folder*.
    """

    def __init__(self, hypervisor: Hypervisor, image: Image, name: str = "linux") -> None:
        self.name, self.uuid = name, str(uuid.uuid4())
        self.folder = hypervisor.run_folder / name  # short: a socket's path has at most 107 bytes
        self._hypervisor, self._image = hypervisor, image
        self._control: socket.socket | None = None
        self._pending = b""

    def __enter__(self) -> LinuxGuest:
        for mode in MODES:
            (self.folder / mode).mkdir(parents=True, exist_ok=True)
        text = _GUEST.format(
            name=self.name, uuid=self.uuid, image=self._image, folder=self.folder, control=CONTROL,
            console=self._console,
        )  # fmt: skip
        with self._hypervisor.connection() as connection:
            connection.defineXML(text)
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        with self._hypervisor.connection() as connection:
            domain = connection.lookupByName(self.name)
            with suppress(libvirt.libvirtError):
                domain.destroy()
            domain.undefine()

    def start(self) -> LinuxGuest:
        """Power the guest on and wait until it has booted."""
        self._hypervisor.power_on(self.name)
        return self.wait_booted()

    def stop(self) -> None:
        """Take the guest's power away."""
        self._hang_up()
        self._hypervisor.power_off(self.name)

    def wait_booted(self) -> LinuxGuest:
        """Wait until a guest that somebody has started takes orders."""
        deadline = time.monotonic() + BOOTED_WITHIN
        self._hang_up()
        self._control = wait_until(self._connect, BOOTED_WITHIN, f"the control socket of {self.name}")
        self._answer(deadline, "ready")
        return self

    def reboot(self) -> LinuxGuest:
        """Let the guest's Linux reboot by itself: its QEMU goes on, with its connections."""
        self._send("reboot")
        self._answer(time.monotonic() + BOOTED_WITHIN, "ready")
        return self

    def run(self, *argv: str, stdin: str = "", timeout: float = 100) -> Result:
        """Run a program in the guest to its end; LabError when it takes longer than *timeout* seconds."""
        begin = time.monotonic()
        told = self._ask("run", argv=argv, stdin=stdin, timeout_s=timeout)
        return Result(told["exit"], told["stdout"], told["stderr"], time.monotonic() - begin)

    def begin(self, *argv: str, log: str = "/dev/console") -> int:
        """Start a program in the guest, whose output goes to the file *log* there; return its pid."""
        return int(self._ask("begin", argv=argv, log=log)["pid"])

    def is_running(self, pid: int) -> bool:
        """Tell whether a program that was begun has not ended yet."""
        return bool(self._ask("is_running", pid=pid)["running"])

    def end(self, pid: int) -> int:
        """End a program that was begun, unless it has ended; return its exit status."""
        return int(self._ask("end", pid=pid)["exit"])

    def write(self, path: str, data: str | bytes, mode: int = 0o600) -> None:
        """Write a file of the guest's, of text or of bytes."""
        raw = data.encode() if isinstance(data, str) else data
        self._ask("write", path=path, data=raw.decode("latin-1"), mode=mode)

    def read(self, path: str) -> str:
        """Return what is in a file of the guest's, nothing while there is none."""
        return str(self._ask("read", path=path)["data"])

    def load(self, driver: str) -> None:
        """Load a driver that the image has, and what it needs."""
        self._ask("load", driver=driver)

    @property
    def _console(self) -> Path:
        return self.folder / f"{self.name}.console"

    def _connect(self) -> socket.socket | None:
        if self._hypervisor.state(self.name)[0] == libvirt.VIR_DOMAIN_SHUTOFF:
            raise LabError(self._story("is off"))
        connecting = socket.socket(socket.AF_UNIX)
        try:
            connecting.connect(str(self.folder / CONTROL))
        except OSError:
            connecting.close()
            return None
        return connecting

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control, self._pending = None, b""

    def _ask(self, order: str, **arguments: object) -> dict[str, Any]:
        self._send(order, **arguments)
        return self._answer(time.monotonic() + ANSWER_WITHIN)

    def _send(self, order: str, **arguments: object) -> None:
        if self._control is None:
            raise LabError(f"{self.name} was not started")
        self._control.settimeout(ANSWER_WITHIN)
        self._control.sendall(json.dumps({"order": order, **arguments}).encode() + b"\n")

    def _answer(self, deadline: float, expected: str = "") -> dict[str, Any]:
        assert self._control is not None
        while b"\n" not in self._pending:
            try:
                self._control.settimeout(max(0.01, deadline - time.monotonic()))
                data = self._control.recv(_PIECE)
            except OSError as error:
                raise LabError(self._story(f"does not answer: {error}")) from None
            if not data:
                raise LabError(self._story("has gone"))
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer or (expected and expected not in answer):
            raise LabError(f"{self.name}: {answer}")
        return answer

    def _story(self, what: str) -> str:
        console = self._console.read_text(errors="replace") if self._console.exists() else ""
        return f"{self.name} {what}; its console:\n{console[-4000:]}"
