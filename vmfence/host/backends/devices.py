"""Give guests devices: read their definitions, add a device to them, read them again.

For commands, not for the daemon: as in inventory, each call has a connection of its own and a deadline.
"""

from __future__ import annotations

from vmfence.errors import BackendError
from vmfence.host.backends import binding as libvirt
from vmfence.host.backends.inventory import TIMEOUT_S, ask_libvirt
from vmfence.host.channels import Definitions


def read_definitions(uri: str, timeout_s: float = TIMEOUT_S) -> tuple[Definitions, ...]:
    """Return all guests of *uri*, by name.  Raises Unreachable."""

    def read(connection: libvirt.virConnect) -> tuple[Definitions, ...]:
        found = []
        for domain in connection.listAllDomains():
            try:
                found.append(_definitions(uri, domain))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # one that ended while we look
                    raise
        return tuple(sorted(found, key=lambda guest: guest.name.lower()))

    return ask_libvirt(uri, read, timeout_s)


def add_stored(guest: Definitions, xml: str, timeout_s: float = TIMEOUT_S) -> None:
    """Add the device *xml* to the definition of *guest* for its next start.  Raises BackendError, Unreachable."""
    _add(guest, xml, libvirt.VIR_DOMAIN_AFFECT_CONFIG, timeout_s)


def add_live(guest: Definitions, xml: str, timeout_s: float = TIMEOUT_S) -> None:
    """Add the device *xml* to *guest*, which runs.  Raises BackendError when it cannot be added so, Unreachable."""
    _add(guest, xml, libvirt.VIR_DOMAIN_AFFECT_LIVE, timeout_s)


def read_one(guest: Definitions, timeout_s: float = TIMEOUT_S) -> Definitions:
    """Return the definitions of *guest* as they are now.  Raises BackendError, Unreachable."""

    def read(connection: libvirt.virConnect) -> Definitions:
        try:
            return _definitions(guest.uri, connection.lookupByUUIDString(guest.uuid))
        except libvirt.libvirtError as error:
            raise _refused(guest, error) from error

    return ask_libvirt(guest.uri, read, timeout_s)


def _add(guest: Definitions, xml: str, flags: int, timeout_s: float) -> None:
    def add(connection: libvirt.virConnect) -> None:
        try:
            connection.lookupByUUIDString(guest.uuid).attachDeviceFlags(xml, flags)
        except libvirt.libvirtError as error:
            raise _refused(guest, error) from error

    ask_libvirt(guest.uri, add, timeout_s)


def _refused(guest: Definitions, error: libvirt.libvirtError) -> BackendError:
    why = (error.get_error_message() or str(error)).rstrip(".")
    return BackendError(f"libvirt refused a device for {guest.name}", why)


def _definitions(uri: str, domain: libvirt.virDomain) -> Definitions:
    stored = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else None
    live = domain.XMLDesc(0) if domain.isActive() else None
    return Definitions(uri, domain.name(), domain.UUIDString(), stored, live)
