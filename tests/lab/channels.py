"""Guests with channels in a world of libvirt's test driver, whose sockets the test holds, and a daemon for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .ours import CommandLine
from .pipe import FarEnd, Socket, request
from .rig import Rig

DEVICES = {
    "serial": '<serial type="unix"><source mode="bind" path="{path}"/><target port="1"/></serial>',
    "vmchannel": '<channel type="unix"><source mode="bind" path="{path}"/>'
    '<target type="guestfwd" address="10.0.2.179" port="1229"/></channel>',
    "virtio": '<channel type="unix"><source mode="bind" path="{path}"/>'
    '<target type="virtio" name="org.vmfence.0"/></channel>',
}
_GUEST = """<domain type="test"><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory>
<os><type>hvm</type></os><devices>{devices}</devices></domain>"""


def device(mode: str, path: Path) -> str:
    """Return the XML of a channel at *path*."""
    return DEVICES[mode].format(path=path)


def uuid_of(number: int) -> str:
    """Return the UUID of a guest, counted from 1."""
    return f"11111111-2222-3333-4444-{number:012}"


def group(*guests: str) -> str:
    """Return a group in which *guests* may fence each other."""
    return "group { " + " ".join(f'uuid = "{guest}";' for guest in guests) + " }"


def write_world(path: Path, mode: str, uuids: Mapping[str, str], sockets: Mapping[str, Socket]) -> None:
    """Write a world of running guests, each with a channel at its socket."""
    world = "".join(
        _GUEST.format(name=name, uuid=uuid, devices=device(mode, sockets[name].path)) for name, uuid in uuids.items()
    )
    path.write_text(f"<node>{world}</node>")


class ChannelRig(Rig):
    """A daemon with a serial listener beside tcp, and a socket for each guest; a context manager.

    *groups* None: one with all guests.
    """

    def __init__(
        self,
        vmfence: CommandLine,
        folder: Path,
        names: Sequence[str] = ("alpha", "beta"),
        *,
        mode: str = "serial",
        groups: str | None = None,
        serial: Mapping[str, object] | None = None,
        daemon: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        short = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vmf-", dir="/tmp"))
        self.sockets = {name: Socket(Path(short) / name) for name in names}
        self.uuids = {name: uuid_of(number) for number, name in enumerate(names, 1)}
        write_world(folder / "world.xml", mode, self.uuids, self.sockets)
        rules = group(*self.uuids.values()) if groups is None else groups
        # The raw client on loopback, which tells the truth about states, may see everything.
        everything = group(*names).replace("group {", 'group { ip = "127.0.0.1";')
        super().__init__(
            vmfence, folder, uris=[f"test://{folder}/world.xml"], groups=(rules + everything) if rules else "",
            listeners={"serial": {"mode": mode, **(serial or {})}}, daemon=daemon,
        )  # fmt: skip

    def __enter__(self) -> ChannelRig:
        for socket in self.sockets.values():
            self._stack.enter_context(socket)
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._stack.close()

    @contextmanager
    def sockets_only(self) -> Iterator[None]:
        """Hold the sockets without a daemon."""
        with self._stack:
            for socket in self.sockets.values():
                self._stack.enter_context(socket)
            yield

    def connected(self, name: str) -> FarEnd:
        """Wait for the daemon at a guest's socket; return the guest's end."""
        return self.sockets[name].accept()


def ask(end: FarEnd, action: int, guest: str = "", seqno: int | None = None) -> int:
    """Send a request from a guest; return the code of the answer."""
    end.send(request(action, guest, seqno))
    answer = end.read(5)
    assert answer[:4] == b"abba", answer
    return answer[4]
