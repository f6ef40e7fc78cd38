"""What ``vmfence host setup`` starts from: the wishes of the command line, and what the host has.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vmfence.config.settings import Settings
from vmfence.errors import VmfenceError
from vmfence.host.backends.inventory import Inventory
from vmfence.host.network import Interface
from vmfence.policy import Group


@dataclass(frozen=True)
class Wishes:
    """The command line.  None and () mean: choose, or for *guests* (names, UUIDs) all.  *define*: change guests too."""

    config: str | None = None
    uris: tuple[str, ...] = ()
    interface: str | None = None
    listeners: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    define: bool = False
    key_file: str | None = None
    firewall: bool = True
    service: bool = True
    check: bool = True


@dataclass(frozen=True)
class Ground:
    """What this host has.  *settings* None: no configuration at *config_path* yet; *addresses*: interface -> IPv4.

    *silent*: the URIs that did not answer, each with its error; *users*: the user ids of whoever runs this.
    """

    config_path: str
    settings: Settings | None
    inventories: tuple[Inventory, ...]
    silent: tuple[tuple[str, VmfenceError], ...] = ()
    interfaces: tuple[Interface, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    users: tuple[int, ...] = (0,)


def names(wanted: Iterable[str], name: str, uuid: str) -> bool:
    """Whether *wanted*, names and UUIDs, has this guest."""
    return any(Group("", (), (one,)).lists(name, uuid) for one in wanted)
