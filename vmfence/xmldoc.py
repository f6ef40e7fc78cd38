"""XML from tools and from libvirt: the one parser, hardened; and the little that we write.

No entities, no document type, no network, bounded size and depth.  What is not well-formed is an error of ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from vmfence.errors import VmfenceError

SIZE_MAX = 32 << 20
Element = etree._Element


def parse(text: str | bytes, what: str) -> Element:
    """Return the root element of *text*, called *what* in messages; comments and instructions are left out.

    Raises VmfenceError when it is not well-formed, has a document type, is larger than 32 MiB or deeper than 256.
    """
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(content) > SIZE_MAX:
        raise VmfenceError(f"cannot read {what}", f"more than {SIZE_MAX >> 20} MiB")
    try:
        root = etree.fromstring(content, _parser("utf-8" if isinstance(text, str) else None))
    except etree.XMLSyntaxError as error:
        raise VmfenceError(f"cannot read {what}", f"this is not XML: {error.msg}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise VmfenceError(f"cannot read {what}", "it has a document type, which nothing that we read has")
    return root


def element(name: str, attributes: Mapping[str, str], *children: Element) -> Element:
    """Return a new element."""
    made = etree.Element(name, dict(attributes))
    made.extend(children)
    return made


def write(root: Element) -> str:
    """Return *root* as text in one line, without a declaration."""
    return str(etree.tostring(root, encoding="unicode"))


def _parser(encoding: str | None) -> etree.XMLParser:
    """Return a new parser: they are cheap, and one must not be shared by threads."""
    return etree.XMLParser(
        encoding=encoding,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
