"""The UUID that this machine's firmware shows: for a libvirt guest it is the guest's UUID."""

from __future__ import annotations

import re

from vmfence.errors import NotPermitted, VmfenceError

UUID_FILE = "/sys/class/dmi/id/product_uuid"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def machine_uuid(path: str = UUID_FILE) -> str:
    """Return the UUID in small letters.  Raises NotPermitted; VmfenceError where there is none (a container)."""
    what = "cannot read this machine's UUID"
    try:
        with open(path, "rb") as file:
            text = file.read(100).decode("ascii", "replace").strip().lower()
    except PermissionError as error:
        raise NotPermitted(what, f"{path}: {error.strerror}", "run this as root") from error
    except OSError as error:
        raise VmfenceError(what, f"{path}: {error.strerror or error}") from error
    if not _UUID.fullmatch(text):
        raise VmfenceError(what, f"{path} holds no UUID")
    return text


def swapped(uuid: str) -> str:
    """Return *uuid* with its first three fields in the other byte order: some firmware and kernels show it so."""
    fields = uuid.split("-")
    turned = ["".join(reversed(re.findall("..", field))) for field in fields[:3]]
    return "-".join([*turned, *fields[3:]])
