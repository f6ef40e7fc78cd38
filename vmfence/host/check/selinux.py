"""SELinux on this host: whether it is enforced, what it has denied us lately, and labels of our files.

Reads by ausearch(8), getsebool(8) and matchpathcon(8) where they are installed.  No test of ours has a kernel with
SELinux: the texts are those that the tools of RHEL 9 (audit 3.1, libselinux 3.6) write.  A tool that fails has told
nothing, so what it was asked stays unknown.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from vmfence import proc
from vmfence.errors import VmfenceError

PROGRAMS = ("vmfence", "fence_virtd", "fence_xvm", "fence_vmfence")
_ENFORCE = "/sys/fs/selinux/enforce"
_ASK_S = 4.0
_BOOLEAN = "fenced_can_network_connect"
# How a tool that exits with 1 answers all the same: nothing found, no such boolean in the policy, another label.
_NO_MATCHES, _NO_BOOLEAN, _WRONG_LABEL = "<no matches>", "Error getting active value", " should be "
_MISLABELLED = re.compile(r"(.+) has context \S+ should be ")


@dataclass(frozen=True)
class SELinux:
    """*denials*: one line each, newest last; *mislabelled*: files whose label is not the policy's.

    *boolean_off*: fenced may not use the network.  *unseen*: what could not be asked.  *is_enabled*: the kernel has it.
    """

    is_enforced: bool = False
    denials: tuple[str, ...] = ()
    mislabelled: tuple[str, ...] = ()
    boolean_off: bool = False
    unseen: tuple[str, ...] = ()
    is_enabled: bool = False


def look(paths: Iterable[str]) -> SELinux:
    """Return what there is; without SELinux nothing."""
    try:
        with open(_ENFORCE, encoding="ascii") as file:
            is_enforced = file.read().strip() == "1"
    except OSError:
        return SELinux()
    unseen: list[str] = []
    audit = _output(["ausearch", "-m", "avc", "-ts", "recent"], unseen, _NO_MATCHES)
    boolean = _output(["getsebool", _BOOLEAN], unseen, _NO_BOOLEAN)
    labels = [_output(["matchpathcon", "-V", path], unseen, _WRONG_LABEL) for path in paths if os.path.exists(path)]
    wrong = [found[1] for text in labels for line in text.splitlines() if (found := _MISLABELLED.match(line))]
    is_off = boolean.split()[-1:] == ["off"]
    return SELinux(is_enforced, denials(audit), tuple(wrong), is_off, tuple(dict.fromkeys(unseen)), is_enabled=True)


def denials(audit: str) -> tuple[str, ...]:
    """Return the denials of our programs in the output of ausearch."""
    found = []
    for line in audit.splitlines():
        program = re.search(r'\bcomm="([^"]*)"', line)
        if "denied" in line and program and program[1] in PROGRAMS:
            what = re.search(r"denied\s+\{ ([^}]*) \}", line)
            target = re.search(r"\btcontext=(\S+)", line)
            found.append(f"{program[1]}: {what[1] if what else '?'} {target[1] if target else ''}".strip())
    return tuple(dict.fromkeys(found))


def _output(argv: list[str], unseen: list[str], answer: str) -> str:
    """Return what a tool tells.  One that fails without saying *answer* is added to *unseen*, with its reason."""
    program = shutil.which(argv[0], path=proc.system_path())
    if program is None:
        unseen.append(f"{argv[0]} is not installed")
        return ""
    try:
        done = proc.run([program, *argv[1:]], _ASK_S)
    except VmfenceError as error:
        unseen.append(error.what)
        return ""
    if done.status and answer not in done.stdout + done.stderr:
        why = (done.stderr or done.stdout).strip().partition("\n")[0]
        unseen.append(f"{argv[0]} failed: {why or f'exit code {done.status}'}")
        return ""
    return done.stdout
