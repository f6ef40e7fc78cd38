"""Checks of what the daemon writes down: accepted signatures, and the history of fencing.  Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from vmfence.findings import NOTE, WARNING, Check, Fault, counted
from vmfence.host.check.facts import Facts


def _unkept(facts: Facts) -> Iterator[Fault]:
    folder = str(facts.status["state_dir"])
    look = f"df -h {shlex.quote(folder)}; ls -la {shlex.quote(folder)}"
    if trouble := facts.status["signatures"]["trouble"]:
        message = "accepted signatures are not kept on disk: once the daemon is restarted, recordings count as new"
        yield Fault(WARNING, folder, message, str(trouble), look)
    lost, trouble = facts.status["history"]["lost"], facts.status["history"]["trouble"]
    if trouble:
        message = "fencing is not written into the history"
        yield Fault(WARNING, folder, message, f"{counted(lost, 'record')} lost, the last one: {trouble}", look)
    elif lost:
        message = "some fencing is missing in the history, which can be written again"
        yield Fault(NOTE, folder, message, f"{counted(lost, 'record')} lost since the daemon was started")


CHECKS = (
    Check(
        "host-records-unkept",
        "the daemon can write down what it must remember",
        """In state_dir the daemon keeps the signatures that it has accepted, so that nobody can play back a recorded
        request, and who fenced whom. A disk that is full or read-only does not stop fencing, and this is lost. The
        daemon notices with the next request.""",
        _unkept,
        ("status",),
    ),
)
