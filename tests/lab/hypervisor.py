"""Real but empty QEMU guests of a private libvirtd: no disk, no kernel, 32 MiB, a firmware that only halts.

The state of a guest is always read from libvirt anew, never remembered.

The firmware: with SeaBIOS a guest burns 3.3 s of processor time after each start where KVM is emulated itself
(kvm_pvm); halted at once, guests cost nothing and need no KVM: starting takes 0.3 s either way.
"""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path
from typing import Any, Callable

import libvirt

from .libvirtd import Libvirtd
from .waiting import LabError

EMULATOR = "qemu-system-x86_64"
RUNNING = libvirt.VIR_DOMAIN_RUNNING
FIRMWARE_SIZE = 0x10000
RESET_VECTOR = FIRMWARE_SIZE - 16
HALT = b"\xfa\xf4\xeb\xfd"  # cli; hlt; back to hlt
GUEST = """<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><loader type='rom'>{firmware}</loader></os>
  <devices>
    <controller type='usb' model='none'/><memballoon model='none'/><video><model type='none'/></video>
    {devices}
  </devices>
</domain>"""
LINK = """<interface type='bridge'><source bridge='{bridge}'/><model type='virtio'/><rom enabled='no'/>
    </interface>"""


class Hypervisor(Libvirtd):
    """A private libvirtd and its guests; a context manager.

    All methods that name a guest raise libvirt.libvirtError for an unknown one.
    """

    def define(
        self, name: str, guest_uuid: str = "", *, start: bool = False, bridge: str = "", devices: str = ""
    ) -> str:
        """Define an empty guest and return its UUID.

        *bridge* adds a link to it, *devices* is further XML for its devices (serial ports, channels).
        """
        guest_uuid = guest_uuid or str(uuid.uuid4())
        with self.connection() as connection:
            domain = connection.defineXML(self._guest_xml(name, guest_uuid, bridge, devices))
            if start:
                domain.create()
        return guest_uuid

    def create_transient(self, name: str, guest_uuid: str = "", *, bridge: str = "", devices: str = "") -> str:
        """Start a guest that libvirt forgets when it ends; return its UUID."""
        guest_uuid = guest_uuid or str(uuid.uuid4())
        with self.connection() as connection:
            connection.createXML(self._guest_xml(name, guest_uuid, bridge, devices))
        return guest_uuid

    def undefine(self, name: str) -> None:
        """Remove a guest's definition."""
        self._with_domain(name, lambda domain: domain.undefine())

    def power_on(self, name: str) -> None:
        """Start a defined guest."""
        self._with_domain(name, lambda domain: domain.create())

    def power_off(self, name: str) -> None:
        """Destroy a running guest."""
        self._with_domain(name, lambda domain: domain.destroy())

    def suspend(self, name: str) -> None:
        """Pause a guest's processor by libvirt (state 3)."""
        self._with_domain(name, lambda domain: domain.suspend())

    def state(self, name: str) -> tuple[int, int]:
        """Return (state, reason) as libvirt numbers them."""
        return self._with_domain(name, lambda domain: tuple(domain.state()))

    def is_on(self, name: str) -> bool:
        """Tell whether the guest runs."""
        return self.state(name)[0] == RUNNING

    def domain_id(self, name: str) -> int:
        """Return the number that changes with every start, or -1 when the guest is off."""
        return self._with_domain(name, lambda domain: domain.ID())

    def names(self) -> list[str]:
        """Return the names of all guests, sorted."""
        with self.connection() as connection:
            return sorted(domain.name() for domain in connection.listAllDomains())

    def pid_of(self, name: str) -> int:
        """Return the pid of the guest's QEMU, without asking libvirtd; LabError when it is off."""
        try:
            pid = int((self.run_folder / "qemu" / f"{name}.pid").read_text())
            if EMULATOR in Path(f"/proc/{pid}/cmdline").read_text():  # empty for a zombie
                return pid
        except (OSError, ValueError):
            pass
        raise LabError(f"{name} has no QEMU")

    def hang(self, name: str) -> None:
        """Stop the guest's QEMU with SIGSTOP: it holds its disks, and obeys nothing but SIGKILL.

        libvirt 9.0 needs 10.2 s to destroy such a guest: SIGTERM first, SIGKILL 10 s later.
        """
        os.kill(self.pid_of(name), signal.SIGSTOP)

    def is_told_to_end(self, name: str) -> bool:
        """Tell whether libvirt has begun to destroy a hung guest: a SIGTERM waits for its QEMU (proc(5), ShdPnd)."""
        status = Path(f"/proc/{self.pid_of(name)}/status").read_text()
        pending = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
        return bool(int(pending.split()[1], 16) & 1 << (signal.SIGTERM - 1))

    def _guest_xml(self, name: str, guest_uuid: str, bridge: str, devices: str) -> str:
        firmware = self.folder / "halt.rom"
        if not firmware.exists():
            firmware.write_bytes((bytes(RESET_VECTOR) + HALT).ljust(FIRMWARE_SIZE, b"\0"))
        link = LINK.format(bridge=bridge) if bridge else ""
        return GUEST.format(firmware=firmware, name=name, uuid=guest_uuid, devices=link + devices)

    def _with_domain(self, name: str, use: Callable[[Any], Any]) -> Any:
        with self.connection() as connection:
            return use(connection.lookupByName(name))
