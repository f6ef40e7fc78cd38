"""Ways to this host that are devices of a guest: virtio port, serial line, vsock.  What they take, and what is there.

Pure: definitions of guests in, devices as XML out.  Facts: libvirt, formatdomain.html; in the definition for the next
start libvirt 9.0 leaves out the source of a channel whose socket it chooses itself.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from vmfence import xmldoc
from vmfence.config.listeners import CHANNEL
from vmfence.config.settings import SerialSettings, Settings, VsockSettings
from vmfence.policy import Group, Origin

# Where QEMU may make sockets, whatever confines it; only the system's libvirt has it.
SERIAL_FOLDER = "/var/lib/libvirt/qemu"
VHOST_VSOCK = "/dev/vhost-vsock"


@dataclass(frozen=True)
class Way:
    """One way: *kind* is virtio, serial or vsock, *channel* the name of the virtio port.

    *folder*: the only one whose sockets the daemon serves, None: any; *uris*: where its guests are.
    """

    kind: str
    uris: tuple[str, ...] = ()
    channel: str = CHANNEL
    folder: str | None = None

    def __str__(self) -> str:
        return {"virtio": f"virtio port {self.channel}", "serial": "serial line"}.get(self.kind, "vsock device")


@dataclass(frozen=True)
class Definitions:
    """One guest: *stored* is the definition for its next start (None: it is transient), *live* that of its run."""

    uri: str
    name: str
    uuid: str
    stored: str | None = None
    live: str | None = None


@dataclass(frozen=True)
class Stand:
    """How a guest stands to a way: whether its definitions have the device (None: there is no such definition).

    *xml* is the device that it takes; *conflict* tells what is in its place.
    """

    way: Way
    guest: Definitions
    is_stored: bool | None = None
    is_live: bool | None = None
    xml: str = ""
    conflict: str = ""

    @property
    def lacks_stored(self) -> bool:
        """Whether the definition for the next start is there and lacks the device."""
        return self.is_stored is False

    @property
    def lacks_live(self) -> bool:
        """Whether the guest runs without it, and could be given it; QEMU adds no serial line to a running guest."""
        return self.is_live is False and self.way.kind != "serial"

    def commands(self) -> tuple[str, ...]:
        """Return what an administrator would type to add what is missing."""
        virsh = f"virsh -c {shlex.quote(self.guest.uri)} attach-device --domain {shlex.quote(self.guest.name)}"
        wanted = {"--config": self.lacks_stored, "--live": self.lacks_live}
        start = f"echo {shlex.quote(self.xml)} | {virsh} --file /dev/stdin"
        return tuple(f"{start} {flag}" for flag, is_missing in wanted.items() if is_missing)

    def restart_commands(self) -> tuple[str, ...]:
        """Return what makes a guest take what its definition has."""
        virsh = f"virsh -c {shlex.quote(self.guest.uri)}"
        return tuple(f"{virsh} {verb} --domain {shlex.quote(self.guest.name)}" for verb in ("shutdown", "start"))


def ways(settings: Settings) -> tuple[Way, ...]:
    """Return the ways that the listeners of *settings* serve, without VM channels: those need a network device too."""
    found = []
    for one in settings.listeners:
        if isinstance(one, VsockSettings):
            found.append(Way("vsock", settings.backend.uris))
        elif isinstance(one, SerialSettings) and one.mode != "vmchannel":
            uris = settings.backend.uris if one.uri is None else (one.uri,)
            found.append(Way(one.mode, uris, one.channel, one.path))
    return tuple(found)


def is_admitted(settings: Settings, way: Way, name: str, uuid: str) -> bool:
    """Whether the access rules let this guest ask for anything by *way*; by vsock it has the key to prove itself."""
    if way.kind == "vsock" or settings.groups is None:
        return True
    origin = Origin(way.kind, guest_uuid=uuid, guest_name=name)
    groups = [Group(one.label, one.sources, one.targets, one.key_file) for one in settings.groups]
    return any(group.admits(origin, None) for group in groups)


def stand(way: Way, guest: Definitions) -> Stand:
    """Return how *guest* stands to *way*.  Raises VmfenceError for a definition that cannot be read."""
    roots = [
        None if text is None else xmldoc.parse(text, f"the definition of {guest.name}")
        for text in (guest.stored, guest.live)
    ]
    there = [root for root in roots if root is not None]
    found = [None if root is None else _has(way, root) for root in roots]
    conflict = next((text for root in there if (text := _conflict(way, root))), "")
    return Stand(way, guest, found[0], found[1], _device(way, guest, there), conflict)


def agent_device(way: Way, number: int = 1) -> str:
    """Return the device of *way* inside a Linux guest; *number* is that of its serial line."""
    return f"/dev/virtio-ports/{way.channel}" if way.kind == "virtio" else f"/dev/ttyS{number}"


def _has(way: Way, root: xmldoc.Element) -> bool:
    if way.kind == "vsock":
        return root.find("devices/vsock") is not None
    if way.kind == "virtio":
        return any(_is_served(way, port) for port in _ports(way, root))
    return any(_is_served(way, line) for line in root.iterfind("devices/serial"))


def _is_served(way: Way, device: xmldoc.Element) -> bool:
    """Whether the daemon finds the socket of *device*: one at which the hypervisor listens, in the right folder."""
    source = device.find("source")
    if device.get("type") != "unix" or (source is not None and source.get("mode") != "bind"):
        return False
    path = None if source is None else source.get("path")
    if path is None:
        return way.kind == "virtio" and way.folder is None
    return way.folder is None or _parts(path)[:-1] == _parts(way.folder)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _ports(way: Way, root: xmldoc.Element) -> list[xmldoc.Element]:
    found = []
    for channel in root.iterfind("devices/channel"):
        target = channel.find("target")
        if target is not None and (target.get("type"), target.get("name")) == ("virtio", way.channel):
            found.append(channel)
    return found


def _conflict(way: Way, root: xmldoc.Element) -> str:
    """Return why the device cannot be added beside what is there, or nothing."""
    if way.kind == "virtio" and _ports(way, root) and not _has(way, root):
        return f"its {way} is no socket that the daemon finds: remove it first"
    return ""


def _device(way: Way, guest: Definitions, roots: list[xmldoc.Element]) -> str:
    """Return the XML of the device."""
    if way.kind == "vsock":
        return xmldoc.write(xmldoc.element("vsock", {"model": "virtio"}, xmldoc.element("cid", {"auto": "yes"})))
    path = f"{way.folder or SERIAL_FOLDER}/vmfence-{guest.uuid}.sock"
    place = {"mode": "bind"} if way.kind == "virtio" and way.folder is None else {"mode": "bind", "path": path}
    source = xmldoc.element("source", place)
    if way.kind == "virtio":
        target = xmldoc.element("target", {"type": "virtio", "name": way.channel})
        return xmldoc.write(xmldoc.element("channel", {"type": "unix"}, source, target))
    target = xmldoc.element("target", {"port": str(_free_port(roots))})
    return xmldoc.write(xmldoc.element("serial", {"type": "unix"}, source, target))


def _free_port(roots: list[xmldoc.Element]) -> int:
    """Return the number of the first serial line after the console's, 0, that no definition has."""
    taken = {target.get("port") for root in roots for target in root.iterfind("devices/serial/target")}
    return next(number for number in range(1, len(taken) + 2) if str(number) not in taken)
