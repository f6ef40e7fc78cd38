"""What the listeners of a configuration need of the host's firewall."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from typing import Callable

from vmfence.config.settings import MulticastSettings, Settings, TcpSettings
from vmfence.packetfilter.rules import Opening

SERVICE_FILE = os.path.join(os.path.dirname(__file__), "data", "vmfence.xml")


def openings(
    settings: Settings, interface_of: Callable[[str], str | None], bridges: Iterable[str] = ()
) -> tuple[Opening, ...]:
    """Return what the listeners of *settings* need.

    *interface_of* finds the interface that has an address.  A listener without an interface of its own needs an opening
    for each of *bridges*, those that guests are attached to.
    """
    found: list[Opening] = []
    everywhere = tuple(bridges) or (None,)
    for one in settings.listeners:
        if isinstance(one, MulticastSettings):
            where = everywhere if one.interface is None else (one.interface,)
            is_ipv4 = one.family == "ipv4"
            found += [Opening("udp", one.port, each, one.family, is_ipv4, one.address) for each in where]
        elif isinstance(one, TcpSettings) and not one.address.startswith("127.") and one.address != "::1":
            interface = interface_of(one.address)
            where = everywhere if interface is None else (interface,)
            found += [Opening("tcp", one.port, each, one.family, address=_literal(one.address)) for each in where]
    return tuple(found)


def _literal(address: str) -> str:
    """Return *address* if requests go to just that one, else nothing: it is a name, or any address."""
    try:
        return "" if ipaddress.ip_address(address).is_unspecified else address
    except ValueError:
        return ""
