"""Questions on a terminal or a pipe: one line each, an empty line takes the default, the end of input ends all.

An option that was given answers its question beforehand.  Questions go to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import BinaryIO, Callable, TypeVar

import click

from vmfence.config import values
from vmfence.config.grammar import shown
from vmfence.config.values import BadValue
from vmfence.errors import UsageError, VmfenceError

T = TypeVar("T")
Check = Callable[[str], T]


class EndOfInput(VmfenceError):
    """The input has ended: no question can be answered any more, whatever asked it."""


class Asker:
    """Asks, checks each answer at once and asks again with the reason.

    *given*: answers by option (``--port``).  *unattended*: nothing is asked, defaults are taken and yes is meant.
    *asked* counts the questions that were put, *is_watched* tells whether the answers come from a terminal.
    """

    def __init__(self, given: Mapping[str, str], unattended: bool, stdin: BinaryIO | None) -> None:
        self.unattended, self.asked = unattended, 0
        self._given, self._used = dict(given), set[str]()
        self._stdin = stdin
        self.is_watched = stdin is not None and stdin.isatty()

    def given(self, option: str) -> str | None:
        """Return what was given for *option*, not checked yet."""
        return self._given.get(option)

    def ask(self, option: str, prompt: str, default: str, check: Check[T]) -> T:
        """Return the checked answer.

        Raises UsageError for a bad option, VmfenceError for a default that is wrong when nobody is asked, EndOfInput;
        *check* raises BadValue or VmfenceError.
        """
        self._used.add(option)
        if option in self._given:
            return self._checked(option, check)
        if self.unattended:
            return self._default(option, prompt, default, check)
        while True:
            answer = self._line(f"{prompt} [{default}]: ", f"{option}, or --yes to take what is proposed") or default
            try:
                return check(_plain(answer))
            except BadValue as error:
                self.say(f"  {_reason(error)}")
            except EndOfInput:  # of a question that the check asked
                raise
            except VmfenceError as error:
                self.say(f"  {error}")

    def option(self, option: str, check: Check[T]) -> T | None:
        """Return the checked value of an option that is never asked for; None when it was not given."""
        self._used.add(option)
        return self._checked(option, check) if option in self._given else None

    def confirm(self, prompt: str, default: bool, instead: str) -> bool:
        """Return yes or no; an empty line takes the default, and what answers another question is asked again.

        *instead* is the option that spares the question.
        """
        if self.unattended:
            return True
        while True:
            answer = self._line(f"{prompt} [{'Y/n' if default else 'y/N'}]? ", instead).strip().lower()
            if answer in ("", "y", "yes", "n", "no"):
                return answer[:1] == "y" if answer else default
            self.say("  answer yes or no")

    def finish(self) -> None:
        """Raise UsageError for options that no question wanted: nothing is ignored in silence."""
        unused = [option for option in self._given if option not in self._used]
        if unused:
            remedy = "leave it out, or name the listener or backend that it is for"
            raise UsageError(f"{', '.join(unused)} has no use here", "", remedy)

    def say(self, text: str) -> None:
        """Show *text*, except when nobody is asked."""
        if not self.unattended:
            click.echo(text, err=True)

    def progress(self, text: str) -> None:
        """Tell somebody who watches what takes its time."""
        if sys.stderr.isatty():
            click.echo(f"{text} ...", err=True)

    def warn(self, texts: Iterable[object]) -> None:
        """Show each of *texts* as a warning."""
        for text in texts:
            click.echo(f"warning: {text}", err=True)

    def _checked(self, option: str, check: Check[T]) -> T:
        try:
            return check(_plain(self._given[option]))
        except BadValue as error:
            what = f"bad value '{shown(self._given[option])}' of {option}"
            raise UsageError(what, error.reason, error.remedy) from error

    def _default(self, option: str, prompt: str, default: str, check: Check[T]) -> T:
        try:
            return check(_plain(default))
        except BadValue as error:
            what = f"'{shown(default)}' cannot be used for: {prompt}"
            raise VmfenceError(what, error.reason, f"give another with {option}") from error

    def _line(self, prompt: str, instead: str) -> str:
        self.asked += 1
        click.echo(prompt, nl=False, err=True)
        line = self._stdin.readline() if self._stdin else b""
        if not line:  # a last line without its end still counts: the question after it would find nothing
            click.echo("", err=True)
            what = f"no answer to '{prompt.split(' [')[0]}'"
            raise EndOfInput(what, "the input ended, so nothing was changed", f"answer it, or give {instead}")
        answer = line.decode("utf-8", "surrogateescape").strip()
        if not self.is_watched:
            click.echo(shown(answer), err=True)
        return answer


def standard_input() -> BinaryIO | None:
    """Return the bytes of stdin, None when it is closed."""
    return sys.stdin.buffer if sys.stdin else None


def _plain(answer: str) -> str:
    """Return *answer* if the grammar can hold it."""
    if '"' in answer:
        raise BadValue("a value holds no double quote")
    return values.text(answer)


def _reason(error: BadValue) -> str:
    return f"{error.reason}; {error.remedy}" if error.remedy else error.reason
