"""The grammar of fence_virt.conf: bytes to a tree of sections and assignments, and back.

Owns words, quotes, braces and line numbers; knows no section and no key by name.  Never reads a file and
never recovers: the first syntax fault ends the parsing.  What counts as a word, a value or a comment was
found by feeding files to fence_virtd 4.12.1.  Three things are legal here that it refuses: carriage returns
and byte order marks (white space here), and ``""`` (an empty value).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Union

from vmfence.errors import ConfigError

FILE_BYTES_MAX = 1 << 20
DEPTH_MAX = 32
_SHOWN_MAX = 60

_BLANK = " \t\r\n\ufeff"
_WORD = f'[^{_BLANK}{{}};="]+'
_TOKEN = re.compile(
    rf'(?P<blank>[{_BLANK}]+)|(?P<comment>#[^\n]*)|(?P<mark>[{{}};=])|"(?P<value>[^"]*)"|(?P<word>{_WORD})'
)
_UNQUOTED_END = re.compile(r'[;{}\r\n"#]')


@dataclass(frozen=True)
class Assign:
    """``key = "value";`` on *line* (from 1)."""

    key: str
    value: str
    line: int = 0


@dataclass(frozen=True)
class Section:
    """``name { ... }``, or ``name = "value" { ... }``, which begins on *line* (from 1)."""

    name: str
    value: str | None
    entries: Tree
    line: int = 0


Entry = Union[Section, Assign]
Tree = tuple[Entry, ...]


def parse(text: bytes, path: str) -> Tree:
    """Return the entries of the file whose content is *text*, in file order.

    Bytes that are no UTF-8 are kept as surrogate escapes.  *path* is used in messages only.  Raises
    ConfigError for the first syntax fault, a file without any entry, sections nested more than 32 deep, or
    more than 1 MiB.
    """
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(path, 0, "the file is too large: more than 1 MiB", "name a configuration file")
    return _Parser(text.decode("utf-8", "surrogateescape"), path).file()


def dump(tree: Tree) -> str:
    """Return *tree* as text, in its order, indented by tabs; parse() reads the same tree from it.

    Encode it with the surrogateescape handler.  Raises ValueError for a name or a value that the grammar
    cannot hold.
    """
    return "".join(f"{line}\n" for line in _lines(tree, ""))


def shown(text: str) -> str:
    """Return *text* fit for a message: one line, printable, at most 60 characters."""
    cut = text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _lines(tree: Tree, indent: str) -> Iterator[str]:
    for entry in tree:
        if isinstance(entry, Assign):
            yield f"{indent}{_word(entry.key)} = {_quoted(entry.value)};"
        else:
            value = "" if entry.value is None else f" = {_quoted(entry.value)}"
            yield f"{indent}{_word(entry.name)}{value} {{"
            yield from _lines(entry.entries, indent + "\t")
            yield f"{indent}}}"


def _word(text: str) -> str:
    if not re.fullmatch(_WORD, text) or text.startswith("#"):
        raise ValueError(f"not a name in this grammar: {text!r}")
    return text


def _quoted(text: str) -> str:
    if '"' in text:
        raise ValueError(f"a value cannot hold a double quote: {text!r}")
    return f'"{text}"'


class _Token(NamedTuple):
    """*kind* is word, value, unclosed, end, or one of ``{ } ; =``; *at* is where it begins in the text."""

    kind: str
    text: str
    line: int
    at: int


class _Parser:
    """One pass over one text, one token of look-ahead."""

    def __init__(self, text: str, path: str) -> None:
        self._text, self._path = text, path
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def file(self) -> Tree:
        """Return all entries.  Raises ConfigError."""
        tree = self._entries(None, 0)
        if not tree:
            self._fail(0, "the file holds no settings", "create a configuration with: vmfence host setup")
        return tree

    def _scan(self) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                yield _Token("unclosed", "", line, at)
                return
            kind, text = str(match.lastgroup), str(match[str(match.lastgroup)])
            if kind not in ("blank", "comment"):
                yield _Token(text if kind == "mark" else kind, text, line, at)
            line += match[0].count("\n")
            at = match.end()
        yield _Token("end", "", line, at)

    def _take(self) -> _Token:
        token = self._next
        if token.kind == "unclosed":
            self._fail(token.line, "the double quote that begins here is never closed", 'write key = "value";')
        self._next = next(self._tokens, token)
        return token

    def _fail(self, line: int, what: str, remedy: str) -> NoReturn:
        raise ConfigError(self._path, line, what, remedy)

    def _entries(self, opener: _Token | None, depth: int) -> Tree:
        """Read entries up to the brace that closes *opener*, or up to the end of the file when it is None."""
        found: list[Entry] = []
        while self._next.kind == "word":
            found.append(self._entry(self._take(), depth))
        token = self._take()
        if token.kind != ("}" if opener else "end"):
            self._misplaced(token, opener)
        return tuple(found)

    def _entry(self, name: _Token, depth: int) -> Entry:
        token = self._take()
        if token.kind == "{":
            return self._section(name, None, depth)
        if token.kind != "=":
            self._no_value(name, token)
        value = self._take()
        if value.kind != "value":
            self._no_value(name, value)
        end = self._take()
        if end.kind == "{":
            return self._section(name, value.text, depth)
        if end.kind != ";":
            self._not_ended(name, value)
        return Assign(name.text, value.text, name.line)

    def _section(self, name: _Token, value: str | None, depth: int) -> Section:
        if depth >= DEPTH_MAX:
            self._fail(name.line, f"sections are nested more than {DEPTH_MAX} deep", "close them with }")
        return Section(name.text, value, self._entries(name, depth + 1), name.line)

    def _misplaced(self, token: _Token, opener: _Token | None) -> NoReturn:
        """Complain about *token*, which stands where a name should."""
        if token.kind == "end":
            assert opener is not None
            what = f"section {shown(opener.text)}, opened on line {opener.line}, is not closed"
            self._fail(opener.line, what, "add the missing } at its end")
        if token.kind == "}":
            self._fail(token.line, "this } closes no section", "remove it, or look for a } too many above")
        if token.kind == "value":
            what = f'"{shown(token.text)}" stands where a name is expected: stray quote?'
            self._fail(token.line, what, 'write key = "value";')
        if token.kind == ";":
            self._fail(token.line, "this ; ends no assignment", "remove it: none is due after } or ;")
        self._fail(token.line, f"no name before {token.kind}", 'write key = "value"; or name { ... }')

    def _no_value(self, name: _Token, token: _Token) -> NoReturn:
        """Complain about *token*, which stands where ``=``, ``{`` or the value of *name* should."""
        key = shown(name.text)
        after_equals = self._text[name.at + len(name.text) : token.at].lstrip(_BLANK).startswith("=")
        if token.kind == "word" and after_equals:
            value = _UNQUOTED_END.split(self._text[token.at :], maxsplit=1)[0].strip(_BLANK + "'")
            what = f"value of {key} must be in double quotes"
            self._fail(token.line, what, f'write {key} = "{shown(value)}";')
        if token.kind == "value":
            self._fail(name.line, f"missing = after {key}", f'write {key} = "{shown(token.text)}";')
        what = f"{key} has no value" if after_equals or token.kind == ";" else f"missing = or {{ after {key}"
        self._fail(name.line, what, f'write {key} = "value"; for a setting, {key} {{ ... }} for a section')

    def _not_ended(self, name: _Token, value: _Token) -> NoReturn:
        """Complain that neither ``;`` nor ``{`` follows the *value* of *name*."""
        key, first_line = shown(name.text), value.text.split("\n")[0].rstrip("\r; \t")
        if "\n" in value.text:
            what = f"the double quote of the value of {key} is not closed on its line"
            self._fail(value.line, what, f'write {key} = "{shown(first_line)}";')
        self._fail(value.line, f"missing ; after the value of {key}", f'write {key} = "{shown(value.text)}";')
