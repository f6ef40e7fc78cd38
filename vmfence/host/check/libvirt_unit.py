"""Which of libvirt's daemons this host has for QEMU: libvirtd or virtqemud, as systemd tells.  Reads only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from vmfence import proc
from vmfence.errors import VmfenceError

_RUNNING_SYSTEMD = "/run/systemd/system"  # sd_booted(3)
_DAEMONS = ("virtqemud", "libvirtd")
_KINDS = ("socket", "service")
_ASK_S = 3.0


@dataclass(frozen=True)
class LibvirtUnit:
    """The *daemon* (libvirtd, virtqemud) and the *unit* of it that is to be started; "" where there is none."""

    daemon: str = ""
    unit: str = ""


def find_unit() -> LibvirtUnit:
    """Return the daemon that systemd runs, else one that is enabled, else any that it has; none without systemd."""
    program = shutil.which("systemctl", path=proc.system_path())
    if program is None or not os.path.isdir(_RUNNING_SYSTEMD):
        return LibvirtUnit()
    units = [f"{daemon}.{kind}" for daemon in _DAEMONS for kind in _KINDS]
    try:
        told = proc.run([program, "show", "--property=Id,LoadState,UnitFileState,ActiveState", *units], _ASK_S).stdout
    except VmfenceError:
        return LibvirtUnit()  # told by the check of the service
    return choose(told)


def choose(told: str) -> LibvirtUnit:
    """Return the daemon by what ``systemctl show`` *told* of the units: KEY=VALUE lines, with blank lines between."""
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in told.split("\n\n")]
    there = {one.get("Id", ""): one for one in blocks if one.get("LoadState") == "loaded"}
    known = [LibvirtUnit(unit.rpartition(".")[0], unit) for unit in there if unit]
    return max(known, key=lambda one: _weight(one, there), default=LibvirtUnit())


def _weight(one: LibvirtUnit, there: Mapping[str, Mapping[str, str]]) -> tuple[bool, bool, bool]:
    """Return what decides: a daemon that is used, then one whose unit is enabled, then its socket."""
    units = [there[name] for kind in _KINDS if (name := f"{one.daemon}.{kind}") in there]
    is_used = any(unit.get("ActiveState") in ("active", "activating", "failed") for unit in units)
    is_enabled = any(unit.get("UnitFileState", "").startswith("enabled") for unit in units)
    return is_used, is_enabled, one.unit.endswith(".socket")
