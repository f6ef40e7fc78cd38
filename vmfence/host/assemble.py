"""From settings to the parts of a daemon: the only module that knows all listeners and backends."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vmfence import keyfile
from vmfence.config.settings import ListenerSettings, MulticastSettings, Settings, TcpSettings
from vmfence.errors import ConfigError, VmfenceError
from vmfence.host.backends.base import Backend
from vmfence.host.backends.libvirt import LibvirtBackend
from vmfence.host.listeners.base import Listener
from vmfence.host.listeners.multicast import MulticastListener
from vmfence.host.listeners.tcp import TcpListener
from vmfence.host.reception import Reception
from vmfence.host.security import KeyEntry, Security
from vmfence.policy import Group, Policy
from vmfence.protocol.auth import Hash, Key

log = logging.getLogger(__name__)

NetworkSettings = (MulticastSettings, TcpSettings)


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
class Plan:
    """Settings with their keys read: everything that can be wrong before a socket is opened."""

    settings: Settings
    policy: Policy
    securities: tuple[Security, ...]

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
        if not isinstance(listener, NetworkSettings):
            remedy = "use multicast or tcp"
            raise ConfigError(settings.path, listener.line, f"listener {listener.name} is not available yet", remedy)
    if settings.backend.name != "libvirt":
        raise ConfigError(settings.path, settings.backend.line, "backend cpg is not available yet", "use libvirt")
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
    """Return the backend that *settings* name."""
    return LibvirtBackend(settings.backend.uris)


def make_listener(settings: ListenerSettings, security: Security, policy: Policy, reception: Reception) -> Listener:
    """Return the listener for *settings*, not yet open."""
    if isinstance(settings, MulticastSettings):
        return MulticastListener(settings, security, policy.groups is not None, reception)
    assert isinstance(settings, TcpSettings)
    return TcpListener(settings, security, reception)


def _group_keys(settings: Settings) -> list[Key | None]:
    return [
        None if g.key_file is None else Key(_read_key(g.key_file, settings.path, g.line)) for g in settings.groups or ()
    ]


def _security(listener: ListenerSettings, group_entries: tuple[KeyEntry, ...], settings: Settings) -> Security:
    assert isinstance(listener, NetworkSettings)
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
