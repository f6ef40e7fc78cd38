"""From settings to the parts of a daemon: the only module that knows all listeners and backends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Callable

from vmfence import keyfile
from vmfence.config.listeners import NetworkSettings
from vmfence.config.settings import (
    BackendSettings,
    ListenerSettings,
    MulticastSettings,
    SerialSettings,
    Settings,
    TcpSettings,
    VsockSettings,
)
from vmfence.errors import ConfigError, VmfenceError
from vmfence.host.backends.base import Backend
from vmfence.host.backends.libvirt import LibvirtBackend
from vmfence.host.listeners.base import Listener
from vmfence.host.listeners.channel import ChannelListener
from vmfence.host.listeners.multicast import MulticastListener
from vmfence.host.listeners.tcp import tcp_listener
from vmfence.host.listeners.vsock import VsockListener
from vmfence.host.pool.pool import Pool
from vmfence.host.reception import Reception
from vmfence.host.security import KeyEntry, Security
from vmfence.host.service import Service
from vmfence.policy import Group, Policy
from vmfence.protocol.auth import Hash, Key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyUse:
    """One key in use: by whom, from which file, and its fingerprint."""

    owner: str
    path: str
    fingerprint: str

    def as_dict(self) -> dict[str, str]:
        """Return it fit for JSON."""
        return {"owner": self.owner, "path": self.path, "sha256": self.fingerprint}


@dataclass(frozen=True)
class Wanted:
    """What a listener is made from: its settings, and the backend for one that follows its guests."""

    settings: ListenerSettings
    backend: BackendSettings | None = None


@dataclass(frozen=True)
class Plan:
    """Settings with their keys read: everything that can be wrong before a socket is opened."""

    settings: Settings
    policy: Policy
    securities: tuple[Security, ...]

    def wanted(self) -> tuple[Wanted, ...]:
        """Return what the listeners are to be made from, in the order of *securities*."""
        return tuple(
            Wanted(listener, self.settings.backend if isinstance(listener, (SerialSettings, VsockSettings)) else None)
            for listener in self.settings.listeners
        )

    def key_uses(self) -> list[KeyUse]:
        """Return the keys in use, those of the listeners first."""
        found = []
        for listener, security in zip(self.settings.listeners, self.securities):
            entry = security.keys[0]
            if isinstance(listener, NetworkSettings) and entry.group_key is None and entry.key:
                found.append(KeyUse(f"listener {listener.name}", listener.key_file, entry.key.fingerprint()))
        for group, rule in zip(self.settings.groups or (), self.policy.groups or ()):
            if group.key_file is not None:
                found.append(KeyUse(f"group {group.label}", group.key_file, str(rule.key)))
        return found

    def key_ids(self) -> set[str]:
        """Return the fingerprints of all keys in use."""
        return {entry.key.fingerprint() for security in self.securities for entry in security.keys}


def read_plan(settings: Settings) -> Plan:
    """Return the plan of *settings*.  Raises KeyFileError, ConfigError; an unusable key stops everything."""
    for listener in settings.listeners:
        if isinstance(listener, SerialSettings):
            _refuse_open_channels(listener, settings)
    group_keys = _group_keys(settings)
    policy = Policy(None)
    if settings.groups is not None:
        policy = Policy(
            tuple(
                Group(g.label, g.sources, g.targets, None if key is None else key.fingerprint())
                for g, key in zip(settings.groups, group_keys)
            )
        )
    entries = tuple(KeyEntry(key, key.fingerprint()) for key in group_keys if key is not None)
    return Plan(settings, policy, tuple(_security(listener, entries, settings) for listener in settings.listeners))


def make_backend(settings: Settings) -> Backend:
    """Return what asks the hypervisors of this host."""
    return LibvirtBackend(settings.backend.uris)


def make_pool(settings: Settings, service: Service) -> Pool | None:
    """Return what makes this host one of several, if *settings* say so.  Raises VmfenceError."""
    if settings.backend.name != "cpg":
        return None
    return Pool(service, settings.daemon.state_dir, settings.backend.fenced_command)


def make_listener(
    wanted: Wanted,
    security: Security,
    policy: Policy,
    reception: Reception,
    backend: Backend,
    troubled: Callable[[], None],
) -> Listener:
    """Return the listener that is *wanted*, not yet open; it calls *troubled* when it has to be opened again."""
    settings = wanted.settings
    if isinstance(settings, MulticastSettings):
        return MulticastListener(settings, security, policy.groups is not None, reception)
    if isinstance(settings, TcpSettings):
        return tcp_listener(settings, security, reception)
    if isinstance(settings, VsockSettings):
        return VsockListener(settings, security, backend.watch(None), reception, troubled)
    return ChannelListener(settings, backend.watch(settings.uri), reception, troubled)


def _refuse_open_channels(listener: SerialSettings, settings: Settings) -> None:
    """Raise ConfigError where every guest could fence every other: no key is asked for here, so rules must be."""
    if settings.groups is None and not settings.daemon.allow_unauthenticated:
        what = "listener serial asks for no key, and without groups every guest could fence every other"
        remedy = 'add groups of guests that may fence each other, or allow_unauthenticated = "yes"; to fence_virtd'
        raise ConfigError(settings.path, listener.line, what, remedy)


def _group_keys(settings: Settings) -> list[Key | None]:
    return [
        None if g.key_file is None else Key(_read_key(g.key_file, settings.path, g.line)) for g in settings.groups or ()
    ]


def _security(listener: ListenerSettings, group_entries: tuple[KeyEntry, ...], settings: Settings) -> Security:
    if isinstance(listener, SerialSettings):
        return Security(Hash.NONE, Hash.NONE, (KeyEntry(Key(b""), None),))
    if listener.hash is Hash.NONE and listener.auth is Hash.NONE and not group_entries:
        return Security(listener.hash, listener.auth, (KeyEntry(Key(b""), None),))
    key = Key(_read_key(listener.key_file, settings.path, listener.line))
    if any(entry.key == key for entry in group_entries):
        raise ConfigError(
            settings.path,
            listener.line,
            f"listener {listener.name} and a group have the same key",
            "give the group its own",
        )
    return Security(listener.hash, listener.auth, (KeyEntry(key, None), *group_entries))


def _read_key(path: str, config: str, line: int) -> bytes:
    try:
        return keyfile.read(path)
    except VmfenceError as error:
        raise ConfigError(config, line, f"{error.what}{': ' if error.why else ''}{error.why}", error.remedy) from error
