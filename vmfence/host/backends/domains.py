"""What is done to guests over one libvirt connection: look up, list, destroy, start, reset.

Blocking calls for the threads of a hypervisor.  libvirt's errors pass through, but for "no such domain".
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from vmfence.errors import GuestNotFound, Unconfirmed
from vmfence.host.backends import binding as libvirt
from vmfence.host.backends.base import Guest, Wanted
from vmfence.policy import is_uuid
from vmfence.protocol.reply import State

# Flags that an older driver does not know come back as one of these.
_FLAG_UNKNOWN = ("VIR_ERR_INVALID_ARG", "VIR_ERR_NO_SUPPORT", "VIR_ERR_ARGUMENT_UNSUPPORTED")


def look_up(connection: libvirt.virConnect, target: str) -> Guest | None:
    """Return the guest with this UUID or exact name, or None."""
    try:
        if is_uuid(target):
            return _read(connection.lookupByUUIDString(target))
        return _read(connection.lookupByName(target))
    except UnicodeEncodeError:
        return None  # bytes that are no UTF-8: no guest is called that
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _read(domain: libvirt.virDomain) -> Guest:
    state, reason = domain.state()
    is_off = state == libvirt.VIR_DOMAIN_SHUTOFF
    return Guest(
        domain.name(),
        domain.UUIDString(),
        _state(state),
        moved=is_off and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED,
        is_unexplained=is_off and reason == libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN,
    )


def _state(number: int) -> State:
    """Return the state with this number; one that libvirt invents later is "none", which is neither on nor off."""
    return State(number) if number in State._value2member_map_ else State.NONE


def list_guests(connection: libvirt.virConnect) -> list[Guest]:
    """Return all guests of *connection*; one that vanishes meanwhile is left out."""
    found = []
    for domain in connection.listAllDomains():
        try:
            found.append(_read(domain))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return found


def destroy(connection: libvirt.virConnect, guest: Guest, still_wanted: Wanted, keep: Callable[[str], None]) -> State:
    """End *guest* at once and return the state it had directly before.

    *keep* is given the XML of a transient one first, as libvirt forgets it with the guest.
    """
    with _not_found(guest.name):
        domain = connection.lookupByUUIDString(guest.uuid)
    if not domain.isPersistent():
        keep(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))
    still_wanted()
    before = _state(domain.state()[0])
    domain.destroy()
    return before


def start(connection: libvirt.virConnect, guest: Guest, xml: str | None, still_wanted: Wanted) -> None:
    """Boot *guest* afresh, never from a saved memory image; a transient one that is gone from its last *xml*."""
    try:
        domain = connection.lookupByUUIDString(guest.uuid)
    except libvirt.libvirtError as error:
        if xml is None or error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        still_wanted()
        connection.createXML(xml)
        return
    still_wanted()
    try:
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_FORCE_BOOT)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in [getattr(libvirt, name) for name in _FLAG_UNKNOWN]:
            raise
        if domain.hasManagedSaveImage():
            domain.managedSaveRemove()
        domain.create()


def reset(connection: libvirt.virConnect, guest: Guest, still_wanted: Wanted, deadline: float) -> None:
    """Reset *guest* and wait for the hypervisor's event.  Raises Unconfirmed when it does not come."""
    with _not_found(guest.name):
        domain = connection.lookupByUUIDString(guest.uuid)
    happened = threading.Event()

    def note(*_: Any) -> None:
        happened.set()

    handle = connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, note, None)
    try:
        still_wanted()
        domain.reset()
        if not happened.wait(max(0.0, deadline - time.monotonic())):
            raise Unconfirmed(f"the reset of {guest.name} was not confirmed", "the hypervisor reported none")
    finally:
        connection.domainEventDeregisterAny(handle)


@contextlib.contextmanager
def _not_found(name: str) -> Iterator[None]:
    """Turn libvirt's "no such domain" into GuestNotFound."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise GuestNotFound(f"{name} has vanished", "libvirt does not know it any more") from error
        raise
