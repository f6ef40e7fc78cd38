"""The reference implementation: the real fence_virtd, and files it needs (fence-virt 4.12.1, Debian 12).

Its clients fence_xvm and fence_virt are run with process.run_client.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .net import Namespace
from .process import Daemon

FENCE_VIRTD = "/usr/sbin/fence_virtd"
FENCE_XVM = "/usr/sbin/fence_xvm"
FENCE_VIRT = "/usr/sbin/fence_virt"
MODULES = "/usr/lib/x86_64-linux-gnu/fence-virt/"
# Said once its socket is bound, listening and a member of its group; serial has only sockets of guests.
# vsock says nothing after "Actual key length".
READY = r"(?i)\bsuccess[;,] fd = \d+|\* Mode: (Serial|VMChannel)"


def write_key(path: Path, data: bytes | None = None) -> Path:
    """Write a key file of mode 0600, 4096 random bytes unless *data* is given; return *path*."""
    path.touch(mode=0o600)
    path.write_bytes(os.urandom(4096) if data is None else data)
    return path


def config_text(listener: str, uri: str, /, key_file: Path, groups: str = "", **settings: object) -> str:
    """Return a fence_virt.conf with one listener, whose keys are *settings*, and the libvirt backend.

    *groups* is the inside of the groups section; without it everything is allowed.
    """
    lines = "".join(f'{key} = "{value}"; ' for key, value in settings.items())
    access = f"groups {{ {groups} }}\n" if groups else ""
    return (
        f'fence_virtd {{ listener = "{listener}"; backend = "libvirt"; module_path = "{MODULES}"; }}\n'
        f'listeners {{ {listener} {{ key_file = "{key_file}"; {lines}}} }}\n'
        f'backends {{ libvirt {{ uri = "{uri}"; }} }}\n{access}'
    )


@contextmanager
def fence_virtd(
    config: str, folder: Path, netns: Namespace | None = None, name: str = "fence_virtd", ready: str = READY
) -> Iterator[Daemon]:
    """Run fence_virtd with the text *config* until the end of the block, ready when it begins.

    Its files in *folder* begin with *name*; *ready* is the pattern in its log to wait for.
    It gives its configuration and key file mode 0600, and refuses to start without a key file, whatever the
    listener.
    """
    path = folder / f"{name}.conf"
    path.write_text(config)
    argv = ["stdbuf", "-oL", FENCE_VIRTD, "-F", "-d99", "-f", str(path), "-p", str(folder / f"{name}.pid")]
    with Daemon(argv, folder / f"{name}.log", netns) as daemon:
        daemon.wait_for_line(ready)
        yield daemon
