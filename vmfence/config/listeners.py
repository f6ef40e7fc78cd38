"""The settings of the listeners: what their sections mean, and their defaults.

Defaults and meanings are those of fence_virtd 4.12.1.  Ours are: optional in each; mode virtio and channel in
``listeners/serial``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Union

from vmfence.config import values
from vmfence.config.section import Part, Shape
from vmfence.protocol.auth import Hash

KEY_FILE = "/etc/cluster/fence_xvm.key"
PORT = 1229
MULTICAST_ADDRESSES = {"ipv4": "225.0.0.12", "ipv6": "ff05::3:1"}
TCP_ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1"}
LISTENERS = ("multicast", "tcp", "vsock", "serial")
SERIAL_MODES = ("serial", "vmchannel", "virtio")
CHANNEL = "org.vmfence.0"

_AUTH_KEYS = ("key_file", "hash", "auth", "optional")
LISTENER_SHAPES = {
    "multicast": Shape((*_AUTH_KEYS, "family", "address", "port", "interface")),
    "tcp": Shape((*_AUTH_KEYS, "family", "address", "port")),
    "vsock": Shape((*_AUTH_KEYS, "port")),
    "serial": Shape(("uri", "path", "mode", "channel", "key_file", "optional")),
}


@dataclass(frozen=True)
class MulticastSettings:
    """Listener multicast.  *hash* is the weakest signature accepted, *auth* the hash of the challenges."""

    name: str = "multicast"
    key_file: str = KEY_FILE
    hash: Hash = Hash.SHA256
    auth: Hash = Hash.SHA256
    family: str = "ipv4"
    address: str = MULTICAST_ADDRESSES["ipv4"]
    port: int = PORT
    interface: str | None = None
    line: int = field(default=0, compare=False)
    optional: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class TcpSettings:
    """Listener tcp.  *address* is a literal of *family* or a host name."""

    name: str = "tcp"
    key_file: str = KEY_FILE
    hash: Hash = Hash.SHA256
    auth: Hash = Hash.SHA256
    family: str = "ipv4"
    address: str = TCP_ADDRESSES["ipv4"]
    port: int = PORT
    line: int = field(default=0, compare=False)
    optional: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class VsockSettings:
    """Listener vsock."""

    name: str = "vsock"
    key_file: str = KEY_FILE
    hash: Hash = Hash.SHA256
    auth: Hash = Hash.SHA256
    port: int = PORT
    line: int = field(default=0, compare=False)
    optional: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class SerialSettings:
    """Listener serial: sockets of running guests.

    *uri* None: those of the backend; *path* None: sockets in any directory; *channel*: the name of the virtio ports
    that mode virtio serves.
    """

    name: str = "serial"
    uri: str | None = None
    path: str | None = None
    mode: str = "serial"
    key_file: str | None = None
    line: int = field(default=0, compare=False)
    optional: bool = field(default=False, compare=False)
    channel: str = CHANNEL


ListenerSettings = Union[MulticastSettings, TcpSettings, VsockSettings, SerialSettings]


def _multicast(part: Part) -> MulticastSettings:
    family, address = _endpoint(part, values.multicast_address, MULTICAST_ADDRESSES)
    return MulticastSettings(
        key_file=part.get("key_file", values.absolute_path, KEY_FILE),
        hash=part.get("hash", values.hash_name, Hash.SHA256),
        auth=part.get("auth", values.hash_name, Hash.SHA256),
        family=family,
        address=address,
        port=part.get("port", values.port, PORT),
        interface=part.get("interface", values.interface, None),
        line=part.line,
        optional=_optional(part),
    )


def _tcp(part: Part) -> TcpSettings:
    family, address = _endpoint(part, values.tcp_address, TCP_ADDRESSES)
    return TcpSettings(
        key_file=part.get("key_file", values.absolute_path, KEY_FILE),
        hash=part.get("hash", values.hash_name, Hash.SHA256),
        auth=part.get("auth", values.hash_name, Hash.SHA256),
        family=family,
        address=address,
        port=part.get("port", values.port, PORT),
        line=part.line,
        optional=_optional(part),
    )


def _vsock(part: Part) -> VsockSettings:
    return VsockSettings(
        key_file=part.get("key_file", values.absolute_path, KEY_FILE),
        hash=part.get("hash", values.hash_name, Hash.SHA256),
        auth=part.get("auth", values.hash_name, Hash.SHA256),
        port=part.get("port", values.port, PORT),
        line=part.line,
        optional=_optional(part),
    )


def _serial(part: Part) -> SerialSettings:
    mode = part.get("mode", values.choice(*SERIAL_MODES), "serial")
    if "channel" in part and mode != "virtio":
        part.warn("channel", f"'channel' means nothing in mode {mode}", 'write mode = "virtio"; or remove it')
    return SerialSettings(
        uri=part.get("uri", values.uri, None),
        path=part.get("path", values.absolute_path, None),
        mode=mode,
        key_file=part.get("key_file", values.absolute_path, None),
        line=part.line,
        optional=_optional(part),
        channel=part.get("channel", values.text, CHANNEL),
    )


def _optional(part: Part) -> bool:
    return part.get("optional", values.boolean, False)


LISTENER_READERS: dict[str, Callable[[Part], ListenerSettings]] = {
    "multicast": _multicast,
    "tcp": _tcp,
    "vsock": _vsock,
    "serial": _serial,
}


def _endpoint(
    part: Part, convert: Callable[[str], values.Endpoint | None], defaults: dict[str, str]
) -> tuple[str, str]:
    """Return family and address; the address alone decides the family, the family alone the address."""
    family = part.get("family", values.choice(*defaults), None)
    given = part.get("address", convert, None)
    if given is None:
        return family or "ipv4", defaults[family or "ipv4"]
    if family and given.family and family != given.family:
        what = f"{given.address} in {part.place} is not an address of family {family}"
        part.fault("address", what, f'write family = "{given.family}"; or remove the family line')
    return given.family or family or "ipv4", given.address
