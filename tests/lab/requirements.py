"""What the laboratory needs from the machine, so that a skip can name what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("ip", "unshare", "mount", "stdbuf", "libvirtd", "qemu-system-x86_64", "fence_virtd", "fence_xvm")


def missing() -> list[str]:
    """Return what is missing for tests on real guests and namespaces; empty when all is there."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]
    if importlib.util.find_spec("libvirt") is None:
        lacks.append("libvirt-python")
    return lacks
