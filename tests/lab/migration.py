"""A real guest that is migrated, live, between two private libvirtds of this machine, for as long as a test wants.

The guest writes to its memory without end, so that the copy can never be finished within the pause that it is allowed
(one millisecond); finish() allows more.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

import libvirt

from .hypervisor import FIRMWARE_SIZE, GUEST, RESET_VECTOR, Hypervisor
from .waiting import LabError, wait_until

# Real mode, in the firmware.  Changing CR0.WP makes QEMU notice writes: 7.2 loses those to pages that it has copied,
# where it emulates the processor.
BUSY = bytes.fromhex(
    "fa"  # cli
    "b80010"  # start: mov ax, 0x1000
    "0f20c2 6681f200000100 0f22c2"  # segment: cr0 ^= WP
    "8ec0 31ff"  # mov es, ax; xor di, di
    "26fe05"  # page: inc byte [es:di]
    "81c70010 75f7"  # add di, 4096; jnz page
    "050010 3d0090 75de"  # add ax, 0x1000; cmp ax, 0x9000; jne segment
    "ebd9"  # jmp start
)
NEVER_MS, SOON_MS = 1, 5000
SLOW_MIB_S = 1  # the least that libvirt allows
UNDER_WAY_WITHIN = ENDS_WITHIN = 60.0  # seconds
POLL = 0.02


def be_another_host(hypervisor: Hypervisor) -> None:
    """Give it a number of its own: libvirt refuses to migrate a guest to the host that it is on."""
    with (hypervisor.folder / "etc" / "libvirtd.conf").open("a") as settings:
        settings.write(f'host_uuid = "{uuid.uuid4()}"\n')
    hypervisor.restart()


def define_busy(hypervisor: Hypervisor, name: str, guest_uuid: str) -> None:
    """Define and start a guest whose memory is never at rest; its processor is not either."""
    firmware = hypervisor.folder / "busy.rom"
    begin = RESET_VECTOR - len(BUSY)
    jump = b"\xe9" + (begin - RESET_VECTOR - 3 & 0xFFFF).to_bytes(2, "little")
    firmware.write_bytes((bytes(begin) + BUSY + jump).ljust(FIRMWARE_SIZE, b"\0"))
    with hypervisor.connection() as connection:
        connection.defineXML(GUEST.format(firmware=firmware, name=name, uuid=guest_uuid, devices="")).create()


class Migration:
    """One migration, peer to peer, over TCP to *address*; a context manager that begins it, and ends it somehow.

    The definition stays at the source unless *flags* has VIR_MIGRATE_UNDEFINE_SOURCE.
    """

    def __init__(self, name: str, source: Hypervisor, target: Hypervisor, address: str, flags: int = 0) -> None:
        self._name, self._source, self._target = name, source, target
        self._flags = flags | libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        self._flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNSAFE
        self._way = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{address}",
            libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: SLOW_MIB_S,
        }
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.trouble = ""  # why it failed

    def __enter__(self) -> Migration:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.abort()
            self.wait()

    def wait_copying(self) -> None:
        """Wait until memory is copied for the second time: the guest runs at the source, the target waits for it."""
        wait_until(self._is_copying, UNDER_WAY_WITHIN, "a migration under way", POLL)

    def wait_handover(self) -> None:
        """Wait until the guest is paused at the source, to come to run at the target."""
        wait_until(self._is_paused, UNDER_WAY_WITHIN, "a guest that is handed over", 0.001)

    def let_finish(self) -> None:
        """Allow a pause that is long enough."""
        self._with_domain(lambda domain: domain.migrateSetMaxDowntime(SOON_MS))

    def finish(self) -> None:
        """Let it finish and wait until the guest runs at the target."""
        self.let_finish()
        self.wait()
        if self.trouble:
            raise LabError(f"the migration failed: {self.trouble}")

    def abort(self) -> None:
        """Have libvirt give it up, if it is still under way."""
        try:
            self._with_domain(lambda domain: domain.abortJob())
        except libvirt.libvirtError as error:
            if self._thread.is_alive() and error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise

    def wait(self) -> None:
        """Wait until it has ended, one way or the other."""
        self._thread.join(ENDS_WITHIN)
        if self._thread.is_alive():
            raise LabError("the migration does not end")

    def _run(self) -> None:
        try:
            self._with_domain(self._migrate)
        except libvirt.libvirtError as error:
            self.trouble = str(error)

    def _migrate(self, domain: Any) -> None:
        domain.migrateSetMaxDowntime(NEVER_MS)
        domain.migrateToURI3(self._target.uri, self._way, self._flags)

    def _is_copying(self) -> bool:
        if not self._thread.is_alive():
            raise LabError(f"the migration ended: {self.trouble or 'the guest has moved'}")
        return int(self._with_domain(lambda domain: domain.jobStats()).get("memory_iteration", 0)) > 1

    def _is_paused(self) -> bool:
        if not self._thread.is_alive():
            raise LabError(f"the migration ended: {self.trouble or 'the guest has moved'}")
        return self._source.state(self._name)[0] == libvirt.VIR_DOMAIN_PAUSED

    def _with_domain(self, use: Any) -> Any:
        with self._source.connection() as connection:
            return use(connection.lookupByName(self._name))
