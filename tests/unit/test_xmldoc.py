"""The XML parser: what it reads, and the tricks that it refuses."""

from __future__ import annotations

import pytest

from vmfence import xmldoc
from vmfence.errors import VmfenceError

BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><a>&c;</a>'


def refused(text: str | bytes) -> str:
    with pytest.raises(VmfenceError, match="cannot read the thing") as caught:
        xmldoc.parse(text, "the thing")
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["<a><b x='ü'/></a>", "<a><b x='ü'/></a>".encode(), '<?xml version="1.0"?><a><b x="ü"/></a>']
)
def test_text_and_bytes_are_read(text: str | bytes) -> None:
    assert xmldoc.parse(text, "the thing").find("b").get("x") == "ü"


def test_text_is_what_it_is_whatever_it_declares() -> None:
    assert xmldoc.parse('<?xml version="1.0" encoding="iso-8859-1"?><a b="ü"/>', "the thing").get("b") == "ü"


def test_comments_and_instructions_are_left_out() -> None:
    root = xmldoc.parse("<a><!-- c --><?pi x?><b/></a>", "the thing")
    assert [child.tag for child in root] == ["b"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "<a>",
        "<a></b>",
        "text",
        "<a/><b/>",
        b"\xff\xfe<",
        b"<a>\xff</a>",
        "<a>\0</a>",
        "\ud800",
        "<a>\udcff</a>",
    ],
)
def test_what_is_no_xml_is_our_error(text: str | bytes) -> None:
    assert "not XML" in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/evil.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>',
        "<!DOCTYPE a><a/>",
    ],
)
def test_document_types_are_refused(text: str) -> None:
    assert "document type" in refused(text)


def test_an_unknown_entity_is_refused() -> None:
    assert "not XML" in refused("<a>&nothing;</a>")


def test_depth_is_bounded() -> None:
    assert "not XML" in refused("<a>" * 5000 + "</a>" * 5000)


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xmldoc, "SIZE_MAX", 1 << 20)
    assert "more than 1 MiB" in refused("<a>" + " " * (1 << 20) + "</a>")
