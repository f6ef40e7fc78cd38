"""libvirt-python, imported when something of it is first used: help, explanations and usage errors do without it.

Use it as ``from vmfence.host.backends import binding as libvirt``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from vmfence.errors import VmfenceError

PACKAGE = "libvirt-python"


def load() -> ModuleType:
    """Return the package.  Raises VmfenceError when it is not installed."""
    try:
        return importlib.import_module("libvirt")
    except ModuleNotFoundError as error:
        remedy = f"on a host: {sys.executable or 'python3'} -m pip install {PACKAGE}"
        raise VmfenceError("the Python package libvirt is not installed", "", remedy) from error


def __getattr__(name: str) -> Any:
    """Return what the package has under this *name*."""
    if name.startswith("__"):
        raise AttributeError(name)  # asked of every module by Python itself
    return getattr(load(), name)
