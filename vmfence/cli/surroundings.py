"""What the questions of the wizard propose and check against: this host's interfaces, bridges, guests and keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from vmfence.cli.asking import Asker
from vmfence.config import values
from vmfence.config.values import Endpoint
from vmfence.host import network
from vmfence.host.backends.inventory import DEFAULT_URI, Inventory, candidate_uris, read_inventory, survey


class Surroundings:
    """Looked at when first needed.  *named*: URIs that are configured or wanted, asked besides the usual ones."""

    def __init__(self, asker: Asker, named: Iterable[str]) -> None:
        self._asker, self._named = asker, tuple(named)

    @cached_property
    def inventories(self) -> list[Inventory]:
        """What every libvirt of this host that answers has."""
        self._asker.progress("asking libvirt for the guests of this host")
        return survey(dict.fromkeys((*self._named, *candidate_uris())))[0]

    @cached_property
    def bridges(self) -> tuple[network.Bridge, ...]:
        """The bridges of this host, with the guests of all inventories."""
        return network.bridges(network.read_interfaces(), self.inventories)

    @property
    def only_bridge(self) -> str | None:
        """The one bridge that has guests."""
        only = network.only_bridge(self.bridges)
        return only.name if only else None

    @property
    def own_address(self) -> str | None:
        """The IPv4 address of the one bridge that has guests."""
        return network.ipv4_address(self.only_bridge) if self.only_bridge else None

    @property
    def uri(self) -> str:
        """Where there are guests, or where they usually are."""
        return next((one.uri for one in self.inventories if one.guests), DEFAULT_URI)

    def inventory(self, uri: str) -> Inventory:
        """Return what *uri* has, read now.  Raises BadValue, Unreachable."""
        self._asker.progress(f"asking libvirt at {uri}")
        found = read_inventory(values.uri(uri))
        self._asker.say(f"  {found}")
        return found

    def interface(self, answer: str) -> str:
        """Check the name of an interface.  Raises BadValue, ListenError."""
        found = network.check_interface(values.interface(answer), network.read_interfaces())
        if not found.is_up:
            self._asker.warn((f"{answer} is down, mend it with: ip link set {answer} up",))
        return answer

    def address(self, answer: str) -> Endpoint:
        """Check an address of this host; a host name is not looked up, since that may take for ever.

        Raises BadValue, ListenError.
        """
        found = values.tcp_address(answer)
        if found.family is not None:
            network.check_address(found.address)
        return found
