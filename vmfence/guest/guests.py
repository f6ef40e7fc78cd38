"""Ask the host which guests this machine may see: what ``fence_xvm -o list`` shows."""

from __future__ import annotations

from vmfence import keyfile
from vmfence.client.ask import Transport, ask
from vmfence.errors import VmfenceError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import Action


def list_guests(transport: Transport, key_file: str | None, hash_type: Hash, auth: Hash, timeout_s: float) -> list[Record]:
    """Return the guests that the host shows us, sorted as it sent them.

    *key_file* is not read when *hash_type* and *auth* are both none.  Raises KeyFileError, NoAnswer, HostNotProven,
    NotAccepted, Unreachable; VmfenceError when the host answers anything but a list.
    """
    is_open = hash_type is Hash.NONE and auth is Hash.NONE
    key = None if is_open or key_file is None else Key(keyfile.read(key_file))
    answer = ask(Action.LIST, "", transport, key, hash_type=hash_type, auth=auth, timeout_s=timeout_s)
    if answer.code != Code.LIST:
        raise VmfenceError(f"{answer.peer} sent no list", f"it answered {answer.code}", "see the daemon's log on the host")
    return answer.records
