"""Metadata and help: what they say, compared with the reference and with the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from vmfence.agent.metadata import metadata
from vmfence.agent.options import OPTIONS, accepted
from vmfence.agent.usage import help_text

VECTORS = Path(__file__).parent.parent / "vectors" / "agent"
REFERENCE = {program["name"]: program for program in json.loads((VECTORS / "metadata.json").read_text())["programs"]}
HELP = json.loads((VECTORS / "local.json").read_text())["help"]
OURS = "fence_vmfence"
CHILDREN = ["getopt", "content", "shortdesc"]


def tree(program: str) -> Any:
    return etree.fromstring(metadata(program).encode())


def shape(program: str) -> list[dict[str, Any]]:
    found = []
    for parameter in tree(program).iter("parameter"):
        getopt, content, text = parameter
        assert [child.tag for child in parameter] == CHILDREN
        assert text.get("lang") == "en" and text.text.strip()
        found.append({**parameter.attrib, "getopt": getopt.get("mixed"), "content": dict(content.attrib)})
    return found


@pytest.mark.parametrize("program", sorted(REFERENCE))
def test_under_their_names_it_is_that_of_the_reference(program: str) -> None:
    assert tree(program).get("name") == program
    assert [child.tag for child in tree(program)] == REFERENCE[program]["elements"]
    assert shape(program) == REFERENCE[program]["parameters"]
    assert [dict(action.attrib) for action in tree(program).iter("action")] == REFERENCE[program]["actions"]


def test_ours_has_every_parameter_of_both() -> None:
    names = {parameter["name"] for program in REFERENCE.values() for parameter in program["parameters"]}
    assert {parameter["name"] for parameter in shape(OURS)} == names | {"transport"}


def test_ours_lists_every_action_but_null() -> None:
    assert [action.get("name") for action in tree(OURS).iter("action")] == [
        "on", "off", "reboot", "metadata", "status", "monitor", "list", "list-status", "validate-all",
    ]  # fmt: skip


def test_nothing_is_automatic_or_bound_to_its_target() -> None:
    assert all(set(action.attrib) == {"name"} for action in tree(OURS).iter("action"))


def test_both_names_of_the_guest_are_there_for_every_pacemaker() -> None:
    by_name = {parameter["name"]: parameter for parameter in shape(OURS)}
    assert (by_name["plug"]["required"], by_name["plug"]["obsoletes"]) == ("1", "port")
    assert (by_name["port"]["required"], by_name["port"]["deprecated"]) == ("1", "1")
    required = [name for name, parameter in by_name.items() if parameter["required"] == "1"]
    assert required == ["plug", "port"]


def test_ours_promises_no_default_that_is_not_used() -> None:
    by_name = {parameter["name"]: parameter["content"] for parameter in shape(OURS)}
    for name in ("timeout", "ipaddr", "vsock", "serial_device", "channel_address"):
        assert "default" not in by_name[name]
    assert by_name["delay"] == {"type": "second", "default": "0"}
    assert by_name["ipport"] == {"type": "integer", "default": "1229"}


def test_choices_are_listed_and_can_be_chosen() -> None:
    for content in tree(OURS).iter("content"):
        choices = [choice.get("value") for choice in content]
        assert (content.get("type") == "select") == bool(choices)
        assert not choices or content.get("default", choices[0]) in choices


def test_a_name_of_its_own_is_escaped() -> None:
    assert tree('fence_<&"').get("name") == 'fence_<&"'


@pytest.mark.parametrize("program", ["fence_xvm", "fence_virt", OURS])
def test_help_has_every_option(program: str) -> None:
    text = help_text(program)
    letters = set(re.findall(r"^  -(\S), --", text, re.M))
    assert letters | {""} == {option.letter for option in accepted(program) if not option.deprecated} | {"h", "V", ""}
    if program in HELP:
        assert letters | {"?"} == set(HELP[program]["letters"])
    for name in HELP.get(program, {"names": [o.name for o in OPTIONS if not o.deprecated]})["names"]:
        assert f"--{name}" in text
    assert max(map(len, text.splitlines())) <= 100
    assert text.endswith("\n")
