"""The help text, from the table.

Light module (loaded for every fence action: standard library only; hence no textwrap).
"""

from __future__ import annotations

from vmfence.agent.options import COMMAND_LINE_ONLY, Option, accepted
from vmfence.agent.values import Cid

_INDENT = 30
_WIDTH = 100


def help_text(program: str) -> str:
    """Return the help of *program*: every option with letter, long name and meaning."""
    entries = [_entry(option, program) for option in accepted(program) if not option.deprecated]
    entries += [_entry(option, program) for option in COMMAND_LINE_ONLY]
    return "\n".join((*_head(program), *entries, *_tail()))


def _head(program: str) -> tuple[str, ...]:
    return (
        f"usage: {program} [options]",
        "",
        "Fences guests of libvirt hosts: asks the daemon of the host (vmfence or fence_virtd) and waits",
        "for its result.  Exit code 0: done, or the guest is on; 2: status found it off; 3: not permitted;",
        "1: everything else, of which nothing may be assumed.",
        "",
    )


def _tail() -> tuple[str, ...]:
    return (
        "",
        "Without options on the command line the same are read from standard input, one to a line:",
        "",
        "    action=status",
        "    plug=guest-name",
        "",
    )


def _entry(option: Option, program: str) -> str:
    value = f"={option.value.upper()}" if option.value else ""
    if isinstance(option.kind, Cid):
        value = f"[{value}]"
    lines = _wrapped(option.explained(program), _WIDTH - _INDENT)
    short = f"-{option.letter}, " if option.letter else "    "
    left = f"  {short}--{option.name}{value}"
    if len(left) >= _INDENT:
        lines.insert(0, "")
    return "\n".join(f"{left if row == 0 else '':<{_INDENT}}{line}".rstrip() for row, line in enumerate(lines))


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines
