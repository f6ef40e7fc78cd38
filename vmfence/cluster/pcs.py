"""pcs, driven and not imitated: the exact argument lists, by version, and the runner that judges the exit status.

Never parses what pcs says: every change is read back from the CIB by whoever asked for it.  Source: pcs/app.py,
pcs/stonith.py and pcs/prop.py of 0.9.169, 0.10.1 to 0.10.18, 0.11.5 and 0.12.3; run here: 0.11.5.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable

from vmfence import proc
from vmfence.cluster.cib import Operation
from vmfence.errors import CommandError, ToolMissing, VmfenceError
from vmfence.proc import Result

Argv = list[str]
Version = tuple[int, ...]
Run = Callable[[list[str], float, Mapping[str, str]], Result]

CHANGE_TIMEOUT_S = 180.0  # creating a device runs its agent twice or more; pcs 0.12 validates it, within 120 s
VERSION_TIMEOUT_S = 30.0
OLDEST = (0, 9)
_DASHES_SINCE = (0, 10, 8)  # "--" ends the options; before, words that begin with "-" are dropped in silence
_NOISE = ("Warning:", "Deprecation Warning:")


class Pcs:
    """The installed pcs.  *version* selects the argument lists; *cib_file*: work on that file, not on the cluster.

    The builders are pure and return an argument list; run() runs one.
    """

    def __init__(self, version: Version, cib_file: str | None = None, run: Run = proc.run) -> None:
        self.version, self.cib_file = version, cib_file
        self._run = run

    @classmethod
    def detect(cls, cib_file: str | None = None, run: Run = proc.run) -> Pcs:
        """Return the installed pcs.  Raises ToolMissing, VmfenceError for a version that is unknown or too old."""
        pcs = cls((), cib_file, run)
        shown = pcs.run(["pcs", "--version"], VERSION_TIMEOUT_S).stdout
        found = re.search(r"^(\d{1,4}(?:\.\d{1,4})+)", shown, re.MULTILINE)
        if found is None:
            raise VmfenceError("cannot tell the version of pcs", "pcs --version shows no number")
        pcs.version = tuple(map(int, found[1].split(".")))
        if pcs.version < OLDEST:
            raise VmfenceError(f"pcs {found[1]} is too old", "", "0.9 and later are supported")
        return pcs

    def create_stonith(
        self,
        device: str,
        agent: str,
        options: Mapping[str, str],
        operations: Iterable[Operation] = (),
        meta: Mapping[str, str] | None = None,
    ) -> Argv:
        """Return the command that creates *device* in the agent's bare name, options first: "op" and "meta" take
        all that follows them."""
        words = ["stonith", "create", device, agent, *_pairs(options), *_operations(operations)]
        return self._argv([*words, *(["meta", *_pairs(meta)] if meta else [])])

    def update_stonith(self, device: str, options: Mapping[str, str], operations: Iterable[Operation] = ()) -> Argv:
        """Return the command that changes *device*: an empty value removes an option, an operation replaces its own."""
        return self._argv(["stonith", "update", device, *_pairs(options), *_operations(operations)])

    def delete_stonith(self, device: str, force: bool = False) -> Argv:
        """Return the command that deletes *device*.

        "delete" is the one word of all versions.  *force*: also the last one, which 0.11.10 and 0.12.1 refuse.
        """
        return self._argv(["stonith", "delete", device], ["--force"] if force else [])

    def fence(self, node: str, off: bool = False) -> Argv:
        """Return the command that fences *node*: reboots it, or with *off* leaves it off."""
        return self._argv(["stonith", "fence", node], ["--off"] if off else [])

    def property_set(self, pairs: Mapping[str, str]) -> Argv:
        """Return the command that sets cluster properties; an empty value removes one."""
        return self._argv(["property", "set", *_pairs(pairs)])

    def run(self, argv: Argv, timeout_s: float = CHANGE_TIMEOUT_S) -> Result:
        """Run what a builder returned; only its exit status is judged, so a warning is no failure.

        Raises ToolMissing, DeadlineExceeded, CommandError with the error lines of pcs itself.
        """
        try:
            result = self._run(argv, timeout_s, {"PATH": proc.system_path()})
        except ToolMissing as error:
            raise ToolMissing("cannot run pcs", "it is not installed", "install it, or run this on a node") from error
        if result.status != 0:
            raise CommandError(result.argv, result.status, _error_lines(result), self._remedy())
        return result

    def _argv(self, words: Sequence[str], flags: Sequence[str] = ()) -> Argv:
        """Return the whole command line; words that pcs would take for options are set apart, or refused."""
        file = ["-f", self.cib_file] if self.cib_file is not None else []
        _check_words(words)
        dashed = next((word for word in words if word.startswith("-")), None)
        if dashed is None:
            return ["pcs", *file, *words, *flags]
        if self.version < _DASHES_SINCE:
            number = ".".join(map(str, self.version))
            raise VmfenceError(f"pcs {number} cannot be given {dashed!r}", "it drops words that begin with '-'")
        return ["pcs", *file, *flags, "--", *words]

    def _remedy(self) -> str:
        if self.cib_file is None and os.geteuid() != 0:
            return "run it as root: only root and the group haclient may change the cluster"
        return ""


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _operations(operations: Iterable[Operation]) -> list[str]:
    words = []
    for one in operations:
        times = {"interval": one.interval, "timeout": one.timeout}
        words += ["op", one.name, *_pairs({name: value for name, value in times.items() if value})]
    return words


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if "\0" in word or "\n" in word:
            raise VmfenceError(f"cannot pass {word!r} to pcs", "it holds a NUL or a line break")


def _error_lines(result: Result) -> str:
    """Return what pcs wrote besides warnings; before 0.11 its usage goes to stdout."""
    lines = (result.stderr.strip() or result.stdout).splitlines()
    return "\n".join(line for line in lines if not line.startswith(_NOISE))
