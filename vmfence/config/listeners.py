"""The settings of the listeners: what their sections mean, and their defaults.

Defaults and meanings are those of fence_virtd 4.12.1.  Ours are: optional in each; mode virtio and channel in
``listeners/serial``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Union

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

_SHARED_KEYS = ("key_file", "hash", "auth", "port", "optional")
LISTENER_SHAPES = {
    "multicast": Shape((*_SHARED_KEYS, "family", "address", "interface")),
    "tcp": Shape((*_SHARED_KEYS, "family", "address")),
    "vsock": Shape(_SHARED_KEYS),
    "serial": Shape(("uri", "path", "mode", "channel", "key_file", "optional")),
}


@dataclass(frozen=True)
class NetworkSettings:
    """What the listeners with a key share.  *hash* is the weakest signature accepted, *auth* the challenges' hash."""

    key_file: str = KEY_FILE
    hash: Hash = Hash.SHA256
    auth: Hash = Hash.SHA256
    port: int = PORT
    line: int = field(default=0, compare=False)
    optional: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class MulticastSettings(NetworkSettings):
    """Listener multicast."""

    name: ClassVar[str] = "multicast"
    family: str = "ipv4"
    address: str = MULTICAST_ADDRESSES["ipv4"]
    interface: str | None = None


@dataclass(frozen=True)
class TcpSettings(NetworkSettings):
    """Listener tcp.  *address* is a literal of *family* or a host name."""

    name: ClassVar[str] = "tcp"
    family: str = "ipv4"
    address: str = TCP_ADDRESSES["ipv4"]


@dataclass(frozen=True)
class VsockSettings(NetworkSettings):
    """Listener vsock."""

    name: ClassVar[str] = "vsock"


@dataclass(frozen=True)
class SerialSettings:
    """Listener serial: sockets of running guests.

    *uri* None: those of the backend; *path* None: sockets in any directory; *channel*: the name of the virtio ports
    that mode virtio serves.
    """

    name: ClassVar[str] = "serial"
    uri: str | None = None
    path: str | None = None
    mode: str = "serial"
    channel: str = CHANNEL
    line: int = field(default=0, compare=False)
    optional: bool = field(default=False, compare=False)


ListenerSettings = Union[MulticastSettings, TcpSettings, VsockSettings, SerialSettings]


def _multicast(part: Part) -> MulticastSettings:
    family, address = _endpoint(part, values.multicast_address, MULTICAST_ADDRESSES)
    interface = part.get("interface", values.interface, None)
    return MulticastSettings(**_shared(part), family=family, address=address, interface=interface)


def _tcp(part: Part) -> TcpSettings:
    family, address = _endpoint(part, values.tcp_address, TCP_ADDRESSES)
    return TcpSettings(**_shared(part), family=family, address=address)


def _vsock(part: Part) -> VsockSettings:
    return VsockSettings(**_shared(part))


def _serial(part: Part) -> SerialSettings:
    mode = part.get("mode", values.choice(*SERIAL_MODES), "serial")
    if "channel" in part and mode != "virtio":
        part.warn("channel", f"'channel' means nothing in mode {mode}", 'write mode = "virtio"; or remove it')
    if "key_file" in part:
        part.get("key_file", values.absolute_path, "")  # fence_virtd wants the file to exist, and never reads it
        remedy = "remove it: access rules say which guests may fence each other"
        part.warn("key_file", "'key_file' means nothing in listeners/serial, where no key is asked for", remedy)
    return SerialSettings(
        uri=part.get("uri", values.uri, None),
        path=part.get("path", values.absolute_path, None),
        mode=mode,
        channel=part.get("channel", values.text, CHANNEL),
        line=part.line,
        optional=part.get("optional", values.boolean, False),
    )


def _shared(part: Part) -> dict[str, Any]:
    """Return what NetworkSettings has."""
    return {
        "key_file": part.get("key_file", values.absolute_path, KEY_FILE),
        "hash": part.get("hash", values.hash_name, Hash.SHA256),
        "auth": part.get("auth", values.hash_name, Hash.SHA256),
        "port": part.get("port", values.port, PORT),
        "line": part.line,
        "optional": part.get("optional", values.boolean, False),
    }


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
