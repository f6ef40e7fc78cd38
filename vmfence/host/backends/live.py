"""What the definition of a running guest says of its ways to the host: sockets of its channels, its vsock CID.  Pure.

Facts: libvirt, formatdomain.html (consoles and serial lines, channel, vsock).  The definition must be the live one: it
has the paths and numbers that libvirt chose by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmfence import xmldoc


@dataclass(frozen=True)
class GuestSocket:
    """A unix socket at *path* at which a guest's hypervisor listens.

    *kind* is the element's name, serial or channel; *target* the type of its target (virtio, guestfwd; empty for
    serial lines), *name* the name of a virtio port.
    """

    kind: str
    path: str
    target: str = ""
    name: str = ""


@dataclass(frozen=True)
class LiveGuest:
    """A running guest; *cid* None: it has no vsock.  *run* is another for every start (libvirt's domain id)."""

    name: str
    uuid: str
    sockets: tuple[GuestSocket, ...] = ()
    cid: int | None = None
    run: str = ""


def read_guest(xml: str) -> LiveGuest:
    """Return what the definition *xml* says.  Raises VmfenceError when it cannot be read."""
    root = xmldoc.parse(xml, "the definition of a running guest")
    name, uuid = root.findtext("name") or "", root.findtext("uuid") or ""
    sockets = [
        found
        for kind in ("serial", "channel")
        for element in root.iterfind(f"devices/{kind}")
        if (found := _socket(kind, element)) is not None
    ]
    return LiveGuest(name, uuid, tuple(sockets), _cid(root), root.get("id") or "")


def _socket(kind: str, element: xmldoc.Element) -> GuestSocket | None:
    source, target = element.find("source"), element.find("target")
    if element.get("type") != "unix" or source is None or source.get("mode") != "bind":
        return None
    path = source.get("path")
    if not path or not path.startswith("/"):
        return None
    if target is None or kind == "serial":
        return GuestSocket(kind, path)
    return GuestSocket(kind, path, target.get("type") or "", target.get("name") or "")


def _cid(root: xmldoc.Element) -> int | None:
    element = root.find("devices/vsock/cid")
    text = None if element is None else element.get("address")
    return int(text) if text and text.isascii() and text.isdigit() else None
