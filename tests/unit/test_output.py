"""What commands write: tables and foreign text that a terminal cannot be harmed by, and the line of progress."""

from __future__ import annotations

import io
import sys

import pytest

from vmfence.cli.output import Progress, printable, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1", "web-1"),
        ("Gäste 客", "Gäste 客"),
        ("\x1b[2J\r\n\t\x07", "\\x1b[2J\\r\\n\\t\\x07"),
        ("\udcff\u202e\x9b", "\\udcff\\u202e\\x9b"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_table_stands_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(("NAME", "STATE"), [("alpha", "running"), ("b\x1b", "")])
    assert capsys.readouterr().out == "NAME   STATE\nalpha  running\nb\\x1b\n"


def test_no_rows_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    table(("NAME", "STATE"), [])
    assert capsys.readouterr().out == ""


class Screen(io.StringIO):
    """stderr, a terminal or not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_one_line_on_a_terminal_and_gone_at_the_end(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(KeyError), Progress() as progress:
        progress.show("one")
        progress.show("two\n")
        raise KeyError
    clear = "\r\x1b[K"
    assert screen.getvalue() == (f"{clear}one ...{clear}two\\n ...{clear}" if is_terminal else "")
