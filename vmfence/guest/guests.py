"""Ask the host which guests this machine may see: what ``fence_xvm -o list`` shows, by every way that the agent has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmfence import keyfile
from vmfence.client.ask import Transport, ask
from vmfence.client.stream import Answer
from vmfence.client.transport import KINDS, VIRTIO_PORT, WITHOUT_KEY
from vmfence.errors import KeyFileError, UsageError, VmfenceError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import Action

HASH_NAMES = tuple(str(kind) for kind in Hash)
TRANSPORTS = KINDS
SERIAL_DEVICE, CHANNEL_ADDRESS, CID = "/dev/ttyS1", "10.0.2.179", 2
_DEVICES = {"serial": SERIAL_DEVICE, "virtio": VIRTIO_PORT}


@dataclass(frozen=True)
class Inquiry:
    """Whom to ask and how.  Without *transport* the fields that are there decide, as for the agent: see kind.

    *ipaddr*: by TCP; *address*: the multicast group ("": the usual one); *vsock*: the host's CID.
    *callback_port*: where the host calls back after multicast, 0 for any free port, None for *port*.
    """

    ipaddr: str | None = None
    address: str = ""
    family: str = "auto"
    port: int = 1229
    key_file: str = "/etc/cluster/fence_xvm.key"
    hash_name: str = "sha256"
    auth_name: str = "sha256"
    timeout_s: float = 15.0
    callback_port: int | None = None
    vsock: int | None = None
    serial_device: str | None = None
    serial_params: str = "115200,8N1"
    channel_address: str | None = None
    transport: str | None = None

    @property
    def kind(self) -> str:
        """How the question travels: as named, or by what the field that is there needs (fence_virt 4.12.1)."""
        if self.transport is not None:
            return self.transport
        if self.vsock is not None:
            return "vsock"
        if self.ipaddr is not None:
            return "tcp"
        if self.serial_device is not None:
            return "serial"
        return "multicast" if self.channel_address is None else "vmchannel"

    @property
    def uses_key(self) -> bool:
        """Whether anything is signed or proven with the key, at least by some way that auto may take."""
        return {self.hash_name, self.auth_name} != {"none"} and self.kind not in WITHOUT_KEY

    def __str__(self) -> str:
        """Return whom it asks, in a few words."""
        ways = {
            "multicast": f"multicast {self.address or 'default group'} port {self.port}",
            "tcp": f"TCP {self.ipaddr} port {self.port}",
            "vsock": f"vsock CID {CID if self.vsock is None else self.vsock} port {self.port}",
            "vmchannel": f"VM channel {self.channel_address or CHANNEL_ADDRESS} port {self.port}",
            "serial": f"serial line {self.device}",
            "virtio": f"virtio port {self.device}",
        }
        return ways.get(self.kind, "the first way that leads to a host")

    @property
    def device(self) -> str:
        """The serial device or virtio port to use; for auto the one that was given, if any."""
        return self.serial_device or _DEVICES.get(self.kind, "")


def list_guests(inquiry: Inquiry, tell: Callable[[str], None] | None = None) -> list[Record]:
    """Return the guests that the host shows us, in its order.  *tell* is told which way transport auto takes.

    The key is read only where the way needs it.  Raises KeyFileError, NoAnswer, HostNotProven, NotAccepted,
    Unreachable, UsageError; VmfenceError when the host answers anything but a list.
    """
    answer = put(inquiry, Action.LIST, "", tell)
    if answer.code != Code.LIST:
        raise VmfenceError(
            f"{answer.peer} sent no list", f"it answered {answer.code}", "see the daemon's log on the host"
        )
    return answer.records


def put(inquiry: Inquiry, action: Action, guest: str, tell: Callable[[str], None] | None = None) -> Answer:
    """Return the first answer to a question about *guest* ("": none).  Raises as list_guests()."""
    hash_type, auth = Hash.named(inquiry.hash_name), Hash.named(inquiry.auth_name)
    transport, key = _transport(inquiry), read_key(inquiry)
    return ask(action, guest, transport, key, hash_type=hash_type, auth=auth, timeout_s=inquiry.timeout_s, tell=tell)


def read_key(inquiry: Inquiry) -> Key | None:
    """Return the key, None where nothing needs it; auto has ways without, so a key that is not there is no fault then.

    Raises KeyFileError.
    """
    if not inquiry.uses_key:
        return None
    try:
        return Key(keyfile.read(inquiry.key_file))
    except KeyFileError:
        if inquiry.kind == "auto" and inquiry.key_file == Inquiry.key_file:
            return None
        raise


def _transport(inquiry: Inquiry) -> Transport:
    kind = inquiry.kind
    if kind == "tcp" and inquiry.ipaddr is None:
        raise UsageError("transport tcp needs an address", "", "give the host's with ipaddr")
    addresses = {
        "multicast": inquiry.address,
        "auto": inquiry.address,
        "tcp": inquiry.ipaddr,
        "vmchannel": inquiry.channel_address or CHANNEL_ADDRESS,
    }
    return Transport(
        kind,
        address=addresses.get(kind) or "",
        port=inquiry.port,
        family=inquiry.family,
        cid=CID if inquiry.vsock is None else inquiry.vsock,
        device=inquiry.device,
        line=inquiry.serial_params,
        callback_port=inquiry.callback_port,
    )
