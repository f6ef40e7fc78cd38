"""Remedies in the kernel hold until the next boot: what is to be said, as a comment that may be pasted along.  Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

_RULES_KEPT = (
    "# until the next boot; to keep it, add it to the file that your rules are loaded from: nftables.conf, or rules.v4 "
    "and rules.v6 of iptables"
)
_SYSCTL_FILE = "/etc/sysctl.d/90-vmfence.conf"


def rules(commands: Iterable[str]) -> str:
    """Return *commands* as one line to paste, which tells how long they hold: those of ufw are kept, others not."""
    told = list(commands)
    is_kept = all(command.startswith("ufw ") for command in told)
    return " && ".join(told) + ("" if is_kept else f"   {_RULES_KEPT}")


def link(command: str) -> str:
    """Return the *command* of ip(8) as a line to paste, which tells how long it holds."""
    return f"{command}   # until the next boot; to keep it, add it to the network configuration of this machine"


def loosened(interface: str) -> str:
    """Return the line to paste that makes the reverse path filter of *interface* loose, and what keeps it so.

    With slashes: in the form with dots the name of a VLAN, eth0.5, falls into two (sysctl.d(5)).
    """
    setting = shlex.quote(f"net/ipv4/conf/{interface}/rp_filter=2")
    return f"sysctl -w {setting}   # until the next boot; to keep it: echo {setting} >> {_SYSCTL_FILE}"
