"""Ask the host which guests this machine may see: what ``fence_xvm -o list`` shows."""

from __future__ import annotations

from dataclasses import dataclass

from vmfence import keyfile
from vmfence.client.ask import Transport, ask
from vmfence.errors import VmfenceError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import Action

HASH_NAMES = tuple(str(kind) for kind in Hash)


@dataclass(frozen=True)
class Inquiry:
    """Whom to ask and how: *ipaddr* by TCP, else the multicast group *address* ("": the usual one).

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


def list_guests(inquiry: Inquiry) -> list[Record]:
    """Return the guests that the host shows us, in its order.

    The key is not read when hash and auth are both none.  Raises KeyFileError, NoAnswer, HostNotProven, NotAccepted,
    Unreachable; VmfenceError when the host answers anything but a list.
    """
    hash_type, auth = Hash.named(inquiry.hash_name), Hash.named(inquiry.auth_name)
    is_open = hash_type is Hash.NONE and auth is Hash.NONE
    key = None if is_open else Key(keyfile.read(inquiry.key_file))
    transport = Transport(
        "multicast",
        address=inquiry.address,
        port=inquiry.port,
        family=inquiry.family,
        callback_port=inquiry.callback_port,
    )
    if inquiry.ipaddr is not None:
        transport = Transport("tcp", address=inquiry.ipaddr, port=inquiry.port)
    answer = ask(Action.LIST, "", transport, key, hash_type=hash_type, auth=auth, timeout_s=inquiry.timeout_s)
    if answer.code != Code.LIST:
        raise VmfenceError(
            f"{answer.peer} sent no list", f"it answered {answer.code}", "see the daemon's log on the host"
        )
    return answer.records
