"""The one question before something is changed in a cluster."""

from __future__ import annotations

from vmfence.cli.asking import Asker, standard_input
from vmfence.errors import UsageError, VmfenceError


def require(question: str, is_agreed: bool) -> None:
    """Ask *question*, where an empty line is no.  *is_agreed*: --yes was given, nothing is asked.

    Raises VmfenceError when the answer is no, UsageError when nobody can be asked: a script must say that it means it.
    """
    if is_agreed:
        return
    asker = Asker({}, False, standard_input())
    if not asker.is_watched:
        raise UsageError("nothing was changed", "there is no terminal to ask on", "say that you mean it with --yes")
    if not asker.confirm(question, False, "--yes"):
        raise VmfenceError("nothing was changed", "the answer was no")
