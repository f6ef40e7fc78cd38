"""Facts about the machine and the programs, without which figures mean nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path

from lab.process import clean_environment
from lab.reference import FENCE_VIRT
from vmfence import __version__

from .world import ROOT


def facts() -> dict[str, str]:
    """Return what is known, as text."""
    model = _found(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    memory_kib = _found(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"), "0")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "processor": f"{os.cpu_count()} x {model}",
        "memory": f"{int(memory_kib) // 1024} MiB",
        "kernel": platform.release(),
        "system": _found(r'PRETTY_NAME="(.*)"', _read("/etc/os-release")),
        "python": platform.python_version(),
        "libvirtd": _version("libvirtd", "--version"),
        "qemu": _version("qemu-system-x86_64", "--version"),
        "fence-virt": _found(r"release (\S+)", _output(FENCE_VIRT, "-V")),
        "vmfence": f"{__version__} ({_commit()})",
        "load": load(),
    }


def load() -> str:
    """Return the machine's load averages."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _version(*argv: str) -> str:
    return _found(r"(\d+\.\d+(?:\.\d+)*)", _output(*argv))


def _commit() -> str:
    changed = "+changes" if _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "vmfence") else ""
    return (_output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD").strip() or "no git") + changed


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=clean_environment()
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _found(pattern: str, text: str, otherwise: str = "unknown") -> str:
    match = re.search(pattern, text)
    return match[1].strip() if match else otherwise
