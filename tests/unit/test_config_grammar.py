"""The grammar: what is read, what is refused and with which words, and that a dump is read back alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmfence.config.grammar import DEPTH_MAX, FILE_BYTES_MAX, Assign, Section, Tree, dump, parse, shown
from vmfence.errors import ConfigError

GOOD = {
    "assignment": (b'port = "1229";', (Assign("port", "1229", 1),)),
    "no blanks": (b'a{b="1";}', (Section("a", None, (Assign("b", "1", 1),), 1),)),
    "empty section": (b"groups { }", (Section("groups", None, (), 1),)),
    "value node": (b'group = "web" { ip = "1"; }', (Section("group", "web", (Assign("ip", "1", 1),), 1),)),
    "order kept": (
        b'a = "1"; b { } a = "2";',
        (Assign("a", "1", 1), Section("b", None, (), 1), Assign("a", "2", 1)),
    ),
    "comments": (b'# a = "0";\na = "1"; # b\n#c', (Assign("a", "1", 2),)),
    "comment right after a mark": (b'a = "1";#b = "2";', (Assign("a", "1", 1),)),
    "# inside a word": (b'a#b = "1";', (Assign("a#b", "1", 1),)),
    "marks inside quotes": (b'a = "#;{}=";', (Assign("a", "#;{}=", 1),)),
    "newline inside quotes counts": (b'a = "1\n2";\nb = "3";', (Assign("a", "1\n2", 1), Assign("b", "3", 3))),
    "line of the name": (b'a\n=\n"1"\n;\nb\n{\n}', (Assign("a", "1", 1), Section("b", None, (), 5))),
    "carriage returns": (b'a = "1";\r\nb = "2";\r\n', (Assign("a", "1", 1), Assign("b", "2", 2))),
    "byte order mark": (b'\xef\xbb\xbfa = "1";', (Assign("a", "1", 1),)),
    "empty value": (b'a = "";', (Assign("a", "", 1),)),
    "no UTF-8": (b'a\xff = "\xfe";', (Assign("a\udcff", "\udcfe", 1),)),
    "other blanks are letters": (b'a\x0b = "1";', (Assign("a\x0b", "1", 1),)),
}

BAD = {
    "empty": (b"", 0, "the file holds no settings", "vmfence host setup"),
    "comments only": (b"# a = 1\n\n#", 0, "the file holds no settings", "vmfence host setup"),
    "unquoted": (
        b"a {\n  port = 1229;\n}",
        2,
        "value of port must be in double quotes",
        'write port = "1229";',
    ),
    "unquoted words": (b"a = b c ; d", 1, "value of a must be in double quotes", 'write a = "b c";'),
    "unquoted to the end": (b"a = b # c", 1, "value of a must be in double quotes", 'write a = "b";'),
    "single quotes": (b"a = 'b';", 1, "value of a must be in double quotes", 'write a = "b";'),
    "opening quote missing": (
        b'a = b";\nc = "d";',
        1,
        "value of a must be in double quotes",
        'write a = "b";',
    ),
    "no semicolon": (b'a = "1"\nb = "2";', 1, "missing ; after the value of a", 'write a = "1";'),
    "no semicolon before }": (b'x {\na = "1" }', 2, "missing ; after the value of a", 'write a = "1";'),
    "no semicolon at the end": (b'a = "1"', 1, "missing ; after the value of a", 'write a = "1";'),
    "no value": (b"a = ;", 1, "a has no value", 'write a = "value";'),
    "nothing after =": (b"\na =", 2, "a has no value", 'write a = "value";'),
    "two =": (b'a = = "1";', 1, "a has no value", 'write a = "value";'),
    "name and ;": (b"a;", 1, "a has no value", 'write a = "value";'),
    "name alone": (b"a", 1, "missing = or { after a", "a { ... } for a section"),
    "two names": (b'a b = "1";', 1, "missing = or { after a", "a { ... } for a section"),
    "= missing": (b'a "1";', 1, "missing = after a", 'write a = "1";'),
    "} missing": (
        b'x {\n y {\n  a = "1";\n }\n',
        1,
        "section x, opened on line 1, is not closed",
        "missing }",
    ),
    "inner } missing": (b"x {\n}\ny {\n z {\n", 4, "section z, opened on line 4, is not closed", "missing }"),
    "} too many": (b'a = "1";\n}', 2, "this } closes no section", "remove it"),
    "} alone": (b"}", 1, "this } closes no section", "remove it"),
    "; after }": (b"a { };", 1, "this ; ends no assignment", "remove it"),
    "two ;": (b'a = "1";;', 1, "this ; ends no assignment", "remove it"),
    "{ without name": (b"{ }", 1, "no name before {", "name { ... }"),
    "= without name": (b'= "1";', 1, "no name before =", 'write key = "value";'),
    "stray value": (b'a = "1";\n"b";', 2, '"b" stands where a name is expected', 'write key = "value";'),
    "stray quote": (
        b'a = "1";\n"\n',
        2,
        "the double quote that begins here is never closed",
        'key = "value";',
    ),
    "never closed": (b'a = "1\n2";\nb = "3;\n\n', 3, "the double quote that begins here is never closed", ""),
    "closed by the next quote": (
        b'a = "1;\nb = "2";',
        1,
        "the double quote of the value of a is not closed on its line",
        'write a = "1";',
    ),
    "too deep": (b"a{\n" * 33, 33, "sections are nested more than 32 deep", "close them"),
    "far too deep": (b"a{" * 100_000, 1, "sections are nested more than 32 deep", "close them"),
    "too large": (
        b"#" * (FILE_BYTES_MAX + 1),
        0,
        "the file is too large: more than 1 MiB",
        "configuration file",
    ),
}

SAMPLE = b"""\xef\xbb\xbf# sample
fence_virtd {\r
\tlistener = "multicast";
}
groups { group = "a
b" { ip = "\xff"; uuid=""; } }
"""

words = st.text(st.characters(blacklist_characters=' \t\r\n\ufeff{};="', blacklist_categories=["Cs"]), min_size=1)
names = words.filter(lambda word: not word.startswith("#"))
texts = st.text(st.characters(blacklist_characters='"', blacklist_categories=["Cs"]))
assigns = st.builds(Assign, names, texts)
trees = st.recursive(
    assigns,
    lambda entry: st.builds(Section, names, st.none() | texts, st.lists(entry, max_size=4).map(tuple)),
    max_leaves=12,
)


def without_lines(tree: Tree) -> Tree:
    return tuple(
        Assign(entry.key, entry.value)
        if isinstance(entry, Assign)
        else Section(entry.name, entry.value, without_lines(entry.entries))
        for entry in tree
    )


@pytest.mark.parametrize(("text", "tree"), GOOD.values(), ids=GOOD)
def test_reads(text: bytes, tree: Tree) -> None:
    assert parse(text, "f") == tree


@pytest.mark.parametrize(("text", "line", "what", "remedy"), BAD.values(), ids=BAD)
def test_refuses(text: bytes, line: int, what: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "/etc/f")
    assert caught.value.line == line
    where = f"/etc/f:{line}" if line else "/etc/f"
    assert caught.value.what.startswith(f"{where}: {what}")
    assert remedy in caught.value.remedy


def test_deepest_nesting_is_read() -> None:
    assert parse(b"a{" * DEPTH_MAX + b"}" * DEPTH_MAX, "f")


def test_largest_file_is_read() -> None:
    text = b'a = "1";'
    assert parse(text + b" " * (FILE_BYTES_MAX - len(text)), "f") == (Assign("a", "1", 1),)


def test_dump_looks_as_fence_virtd_users_know_it() -> None:
    tree = parse(b'x { a = "1"; group = "g" { b = "2"; } }', "f")
    assert dump(tree) == 'x {\n\ta = "1";\n\tgroup = "g" {\n\t\tb = "2";\n\t}\n}\n'


@given(st.lists(trees, min_size=1, max_size=4).map(tuple))
def test_dump_is_read_back_alike(tree: Tree) -> None:
    assert without_lines(parse(dump(tree).encode(), "f")) == tree


def test_dump_keeps_bytes_that_are_no_utf8() -> None:
    tree = parse(SAMPLE, "f")
    again = parse(dump(tree).encode("utf-8", "surrogateescape"), "f")
    assert without_lines(again) == without_lines(tree)


@pytest.mark.parametrize(
    "entry",
    [
        Assign("a", 'x"; evil = "y'),
        Assign("a b", "x"),
        Assign("", "x"),
        Assign("#a", "x"),
        Section("a{", None, ()),
        Section("a", '"', ()),
        Section("a", None, (Assign("=", ""),)),
    ],
)
def test_dump_refuses_what_would_be_read_otherwise(entry: Section | Assign) -> None:
    with pytest.raises(ValueError, match="grammar|quote"):
        dump((entry,))


def test_every_truncation_ends_in_a_tree_or_a_config_error() -> None:
    for length in range(len(SAMPLE)):
        try:
            parse(SAMPLE[:length], "f")
        except ConfigError as error:
            assert error.remedy


@given(st.binary() | st.lists(st.sampled_from([b"a", b'"', b"{", b"}", b";", b"=", b"\n", b"#", b" "])).map(b"".join))
def test_random_bytes_end_in_a_tree_or_a_config_error(text: bytes) -> None:
    try:
        tree = parse(text, "f")
    except ConfigError as error:
        assert 0 <= error.line <= text.count(b"\n") + 1
    else:
        assert without_lines(parse(dump(tree).encode("utf-8", "surrogateescape"), "f")) == without_lines(tree)


def test_shown_is_short_and_printable() -> None:
    assert shown("a\n\udcff\x1b[0m") == "a\\n\\udcff\\x1b[0m"
    assert len(shown("x" * 1000)) == 60
