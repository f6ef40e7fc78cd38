"""The manual pages say what the program has: every command, option, default, key and exit code, and no other."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from vmfence import errors
from vmfence.agent import outcome
from vmfence.agent.differences import DIFFERENCES
from vmfence.agent.options import COMMAND_LINE_ONLY, OPTIONS, Option
from vmfence.cli import checking, configure, listing
from vmfence.cli.main import vmfence as root
from vmfence.cluster import corosync
from vmfence.cluster.check import facts
from vmfence.cluster.check.checks import CHECKS
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.nodemap import Row
from vmfence.cluster.proofs import RECORD_FILE, Proof
from vmfence.cluster.properties import PROPERTIES
from vmfence.config import grammar
from vmfence.config.section import Shape
from vmfence.config.settings import (
    FILE_SHAPE,
    KEY_FILE,
    LISTENERS,
    MULTICAST_ADDRESSES,
    PORT,
    SEARCH_PATHS,
    DaemonSettings,
    MulticastSettings,
    SerialSettings,
    TcpSettings,
    VsockSettings,
    read,
)
from vmfence.diagnose import Report
from vmfence.findings import ERROR, Fault, Finding
from vmfence.guest.checks import CHECKS as GUEST_CHECKS
from vmfence.host import pool_list, unit
from vmfence.host.assemble import NetworkSettings
from vmfence.host.backends.inventory import DEFAULT_URI, GuestFacts
from vmfence.host.check.checks import CHECKS as HOST_CHECKS
from vmfence.host.steps import State, Step
from vmfence.protocol import reply

FOLDER = Path(__file__).parent.parent.parent / "man"
PAGES = sorted(path.name for path in FOLDER.iterdir())
COMMAND, HOST, CLUSTER = "vmfence.8", "vmfence-host.8", "vmfence-cluster.8"
AGENT, CONFIGURATION = "fence_vmfence.8", "vmfence.conf.5"
GROUPS = {"host": HOST, "cluster": CLUSTER}
# Additions of ours to the grammar of fence_virtd (settings.py names them in its head).
OURS = {
    "allow_unauthenticated",
    "unknown_guest",
    "reboot_method",
    "state_dir",
    "control_socket",
    "listeners/multicast/optional",
    "listeners/tcp/optional",
    "listeners/vsock/optional",
    "listeners/serial/optional",
    "listeners/serial/channel",
    "backends/cpg/fenced_command",
    "groups/group/key_file",
}
ANSWERS = {option for option, _, _ in configure._ANSWERS}
PROPOSALS = {
    **{"--listener": "multicast", "--backend": "libvirt", "--address": MULTICAST_ADDRESSES["ipv4"]},
    **dict.fromkeys(("--port", "--tcp-port", "--vsock-port"), str(PORT)),
    **{"--serial-uri": DEFAULT_URI, "--key-file": KEY_FILE},
}
SETTINGS = {
    "fence_virtd": DaemonSettings,
    "listeners/multicast": MulticastSettings,
    "listeners/tcp": TcpSettings,
    "listeners/vsock": VsockSettings,
    "listeners/serial": SerialSettings,
}


class Entry(NamedTuple):
    """One ``.It`` of a list: what stands on its line, and the text below it, of the next one if it has none."""

    head: str
    body: str


def source(page: str) -> str:
    return (FOLDER / page).read_text()


def part(text: str, macro: str, name: str) -> str:
    """Return what follows the line ``.Sh name`` (or Ss), up to the next section of the same or a higher rank."""
    after = text.split(f"\n.{macro} {name}\n", 1)
    assert len(after) == 2, f"no .{macro} {name}"
    return re.split(r"^\.S[h]\b" if macro == "Sh" else r"^\.S[hs]\b", after[1], maxsplit=1, flags=re.M)[0]


def plain(text: str) -> str:
    """Return mdoc *text* as words: macros at the beginning of lines gone, one blank between words."""
    return " ".join(re.sub(r"^\.[A-Z][a-z] ", "", line) for line in text.splitlines()).replace(" ,", ",")


def entries(text: str) -> list[Entry]:
    """Return the items of all lists in *text*; items that share a body have the same."""
    found: list[Entry] = []
    for piece in reversed(re.split(r"^\.It ", text, flags=re.M)[1:]):
        head, _, body = piece.partition("\n")
        body = re.split(r"^\.El$", body, maxsplit=1, flags=re.M)[0]
        found.append(Entry(head, plain(body) if body.strip() or not found else found[-1].body))
    return found[::-1]


def spelled(head: str) -> set[str]:
    """Return the options that an item is about."""
    long = {f"--{name}" for name in re.findall(r"\bFl Fl ([\w-]+)", head)}
    return long | {f"-{letter}" for letter in re.findall(r"(?<!Fl )\bFl (?!Fl)(\w)\b", head)}


def options(text: str) -> dict[frozenset[str], str]:
    """Return the bodies of the items in *text* that are about options."""
    return {frozenset(spelled(entry.head)): entry.body for entry in entries(text) if spelled(entry.head)}


def literals(text: str) -> list[str]:
    """Return the literal blocks in *text*, as they are shown."""
    blocks = re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", text, re.M | re.S)
    return [block.replace(r"\e", "\\").replace(r"\&", "") for block in blocks]


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield what does something at and below *command*, which some groups do too, each with the words that name it."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield " ".join(path), command
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from commands(below, (*path, name))


COMMANDS = dict(commands(root))


def click_options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def says_default(body: str, default: str) -> bool:
    return re.search(rf"[Dd]efault:? {re.escape(default)}[.,;]?( |$)", body) is not None


def test_there_is_a_page_for_each_part() -> None:
    assert set(PAGES) == {COMMAND, HOST, CLUSTER, AGENT, CONFIGURATION}


def test_pages_and_completions_are_installed() -> None:
    settings = configparser.ConfigParser()
    settings.read(FOLDER.parent / "setup.cfg")
    installed = [path for paths in settings["options.data_files"].values() for path in paths.split()]
    present = [str(path.relative_to(FOLDER.parent)) for name in ("man", "completions") for path in folder(name)]
    assert sorted(installed) == sorted(present)
    assert all(f"share/man/man{page[-1]}" in settings["options.data_files"] for page in PAGES)


def folder(name: str) -> list[Path]:
    return [path for path in (FOLDER.parent / name).iterdir() if path.is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_nothing_to_say(page: str) -> None:
    if not shutil.which("mandoc"):
        pytest.skip("needs mandoc")
    argv = ["mandoc", "-T", "lint", "-W", "warning", page]
    ended = subprocess.run(argv, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_not_long_and_have_no_blank_at_their_end(page: str) -> None:
    assert all(len(line) <= 120 and line == line.rstrip() for line in source(page).splitlines())


def page_of(name: str) -> str:
    """Return the page on which the command *name* is described."""
    return GROUPS.get(name.split()[0], COMMAND)


@pytest.mark.parametrize("page", [COMMAND, HOST, CLUSTER])
def test_every_command_has_its_part_and_no_other(page: str) -> None:
    names = [name for name in COMMANDS if page_of(name) == page]
    description = part(source(page), "Sh", "DESCRIPTION")
    assert sorted(re.findall(r"^\.Ss vmfence (.*)$", description, re.M)) == sorted(names)
    synopsis = plain(part(source(page), "Sh", "SYNOPSIS"))
    assert all(f"vmfence {name}" in synopsis for name in names)


def synopses(page: str) -> dict[str, str]:
    """Return the synopsis of each command on *page*, by its words."""
    found = re.split(r"^\.Nm vmfence\n", part(source(page), "Sh", "SYNOPSIS"), flags=re.M)[1:]
    return {text.partition("\n")[0].removeprefix(".Cm "): text for text in found}


@pytest.mark.parametrize("name", [name for name in COMMANDS if page_of(name) != COMMAND])
def test_synopsis_of_a_command_has_every_option(name: str) -> None:
    text = synopses(page_of(name))[name]
    long = set(re.findall(r"\bFl Fl ([\w-]+)", text))
    short = set("".join(re.findall(r"(?<!Fl )\bFl (?!Fl\b)(\w+)", text)))
    for option in click_options(COMMANDS[name]):
        is_answer = ".Op Ar answers" in text and option.opts[0] in ANSWERS
        is_of_device = ".Op Ar options of the device" in text and (option.name or "").startswith("device_")
        assert is_answer or is_of_device or {word.strip("-") for word in option.opts} & (long | short), option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_command(name: str) -> None:
    # A command with two names is described under one of them; the other refers to it.
    names = [other for other, command in COMMANDS.items() if command is COMMANDS[name]]
    parts = [part(source(page_of(other)), "Ss", f"vmfence {other}") for other in names]
    documented = {spellings: body for text in parts for spellings, body in options(text).items()}
    expected = {frozenset(option.opts): option for option in click_options(COMMANDS[name])}
    assert set(documented) == set(expected)
    for spellings, option in expected.items():
        if isinstance(option.default, (str, int, float)) and option.default and not option.is_flag:
            default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
            assert says_default(documented[spellings], default), option.opts
        for word in option.type.choices if isinstance(option.type, click.Choice) else ():
            assert re.search(rf"\b{word}\b", documented[spellings]), (option.opts, word)


def test_options_of_every_command() -> None:
    introduction = part(source(COMMAND), "Sh", "DESCRIPTION").partition("\n.Ss ")[0]
    assert spelled(introduction.replace("\n.", " ")) == {"-h", "--help", "--version"}


def agent_spellings(option: Option) -> frozenset[str]:
    return frozenset({f"--{option.name}", f"-{option.letter}"} if option.letter else {f"--{option.name}"})


def test_options_of_the_agent() -> None:
    documented = options(part(source(AGENT), "Sh", "OPTIONS"))
    assert set(documented) == {agent_spellings(option) for option in OPTIONS + COMMAND_LINE_ONLY}
    for option in OPTIONS:
        body = documented[agent_spellings(option)]
        assert not option.default or says_default(body, option.default), option.name
        assert all(re.search(rf"\b{word}\b", body) for word in option.words("fence_xvm")), option.name
    for option in COMMAND_LINE_ONLY:
        assert "Only on the command line." in documented[agent_spellings(option)]


def test_synopsis_of_the_agent_has_every_letter() -> None:
    synopsis = part(source(AGENT), "Sh", "SYNOPSIS")
    letters = set("".join(re.findall(r"\bFl (\w+)", synopsis))) | set(re.findall(r"\| (\w)$", synopsis, re.M))
    assert letters == {o.letter for o in OPTIONS + COMMAND_LINE_ONLY if o.letter and not o.deprecated}


def test_actions_of_the_agent() -> None:
    action = next(option for option in OPTIONS if option.name == "action")
    documented = [name for entry in entries(part(source(AGENT), "Sh", "ACTIONS")) for name in entry.head.split(" , ")]
    assert sorted(documented) == sorted(action.words("fence_xvm"))


def test_every_difference_of_the_agent_is_told() -> None:
    markers = re.findall(r'^\.\\" difference: (.*)$', source(AGENT), re.M)
    assert sorted(markers) == sorted(DIFFERENCES)
    assert set(re.findall(r'^\.\\" difference: (.*)$', part(source(AGENT), "Sh", "COMPATIBILITY"), re.M)) == set(
        markers
    )


def test_exit_codes() -> None:
    codes = {error.exit_code for error in vars(errors).values() if isinstance(error, type)} | {0}
    assert {int(entry.head) for entry in entries(part(source(COMMAND), "Sh", "EXIT STATUS"))} == codes
    own = {outcome.OK, outcome.FAILED, outcome.OFF, outcome.DENIED}
    assert {int(entry.head) for entry in entries(part(source(AGENT), "Sh", "EXIT STATUS"))} == own


PACKAGE = "\n".join(path.read_text() for path in sorted((FOLDER.parent / "vmfence").rglob("*.py")))
MESSAGES = [
    message
    for page in (HOST, AGENT)
    for entry in entries(part(source(page), "Sh", "DIAGNOSTICS"))
    for message in entry.head.replace(r"\&", "").split(", ")
    if message != "no line at all for a request"
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_those_of_the_program(message: str) -> None:
    words = re.split(r"(?<!\S)[A-Z]{4,}\b", message)  # what stands for a value
    assert re.search(r"\{[^}\n]*\}".join(map(re.escape, words)), PACKAGE)


OF_AGENT = {word for option in OPTIONS + COMMAND_LINE_ONLY for word in agent_spellings(option)}
OF_COMMANDS = {word for command in COMMANDS.values() for option in click_options(command) for word in option.opts}
KNOWN = {
    **{COMMAND: OF_COMMANDS | {"-h", "--help", "--version"}, HOST: OF_COMMANDS, CLUSTER: OF_COMMANDS},
    **{AGENT: OF_AGENT, CONFIGURATION: OF_COMMANDS},
}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_an_option_that_does_not_exist(page: str) -> None:
    text = source(page)
    flags = {f"--{name}" for name in re.findall(r"\bFl Fl ([\w-]+)", text)}
    bundled = re.findall(r"\bOp Fl (\w+)$", text, re.M)
    single = re.findall(r"(?<!Fl )\bFl (?!Fl\b)(\w)\b", text)
    assert flags | {f"-{letter}" for letter in single + list("".join(bundled))} <= KNOWN[page]


def shown_commands(page: str) -> list[str]:
    """Return the lines of examples, and the texts in running lines, that begin with one of our programs."""
    text = source(page)
    lines = [line.strip() for block in literals(text) for line in block.splitlines()]
    lines += re.findall(r"^\.Ql (.*?)(?: [.,;])?$", text, re.M)
    return [line for line in lines if re.match("(fence_)?vmfence ", line)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_shown_exist(page: str) -> None:
    shown = shown_commands(page)
    assert shown
    for line in shown:
        program, *words = shlex.split(line.rstrip("&"))
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        if program == "fence_vmfence":
            assert given <= OF_AGENT, line
            continue
        name = max((name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len)
        assert given <= {word for option in click_options(COMMANDS[name]) for word in option.opts}, line


def places(shape: Shape, place: str = "") -> Iterator[tuple[str, Shape]]:
    """Yield all sections of a file that hold keys, each by its place."""
    if shape.keys:
        yield place, shape
    for name, inner in shape.sections.items():
        yield from places(inner, f"{place}/{name}".lstrip("/"))


PLACES = dict(places(FILE_SHAPE))


def keys(place: str) -> dict[str, Entry]:
    """Return the items about the section at *place*, by key."""
    found = entries(part(source(CONFIGURATION), "Ss", place))
    return {name: entry for entry in found for name in re.findall(r"\bCm (\w+)", entry.head)}


def test_every_section_of_the_configuration_and_no_other() -> None:
    text = part(source(CONFIGURATION), "Sh", "SECTIONS AND KEYS")
    assert set(re.findall(r"^\.Ss (.*)$", text, re.M)) == set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_every_key_of_a_section_and_no_other(place: str) -> None:
    shape, documented = PLACES[place], keys(place)
    numbered = {f"{base}{number}" for base in shape.numbered for number in (1, 2)}
    assert set(documented) == set(shape.keys) | numbered
    assert all(entry.body for entry in documented.values())
    assert all(re.search(rf"\bCm {name} Ar \w+", entry.head) for name, entry in documented.items())


@pytest.mark.parametrize("place", PLACES)
def test_additions_are_marked(place: str) -> None:
    prefix = "" if place == "fence_virtd" else f"{place}/"
    marked = {f"{prefix}{name}" for name, entry in keys(place).items() if "Pq ours" in entry.head}
    assert marked == {name for name in OURS if name in {f"{prefix}{key}" for key in PLACES[place].keys}}


@pytest.mark.parametrize("place", SETTINGS)
def test_defaults_of_the_configuration(place: str) -> None:
    documented = keys(place)
    for field in fields(SETTINGS[place]):
        if field.name not in documented or field.default is None or field.name == "family":
            continue
        body = documented[field.name].body
        default = "no" if field.default is False else str(field.default)
        assert says_default(body, default) or "As for multicast, with the same defaults." in body, field.name


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"fence_virtd"}))
def test_what_is_not_available_is_said_to_be_so(place: str) -> None:
    available = {*(f"listeners/{name}" for name in LISTENERS), "backends/libvirt", "backends/cpg", "groups/group"}
    assert ("Not available yet." in part(source(CONFIGURATION), "Ss", place)) == (place not in available)


EXAMPLES = literals(part(source(CONFIGURATION), "Sh", "EXAMPLES"))


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_of_the_configuration_are_good(text: str) -> None:
    found = read(text.encode(), "example")
    assert not found.warnings
    assert all(isinstance(listener, NetworkSettings) for listener in found.listeners)
    assert found.backend.name == ("cpg" if "cpg {" in text else "libvirt")


def test_examples_show_what_they_are_for() -> None:
    walkthrough, tcp, clusters, addresses, pool = (read(text.encode(), "example") for text in EXAMPLES)
    assert walkthrough.listeners == (MulticastSettings(interface="br0"),)
    assert [listener.name for listener in tcp.listeners] == ["tcp"]
    assert len({group.key_file for group in clusters.groups or ()} - {None}) == 2
    assert [len(group.sources) for group in addresses.groups or ()] == [2]
    assert (pool.backend.name, pool.daemon.unknown_guest) == ("cpg", "ignore")


def test_the_grammar_is_shown_in_itself() -> None:
    (text,) = literals(part(source(CONFIGURATION), "Sh", "GRAMMAR"))
    assert len(grammar.parse(text.encode(), "grammar")) == 2


def test_files_are_those_of_the_program() -> None:
    for page in (HOST, CONFIGURATION):
        found = re.findall(r"/[\w./]+", part(source(page), "Sh", "FILES"))
        assert set(SEARCH_PATHS) < set(found)
        assert MulticastSettings().key_file in found
        assert any(path.startswith(DaemonSettings().state_dir) for path in found)
    assert unit.INSTALL_PATH in part(source(HOST), "Sh", "FILES")
    found = re.findall(r"/[\w./]+", part(source(CLUSTER), "Sh", "FILES"))
    assert {RECORD_FILE, KEY_FILE, facts.AGENT_FOLDER, corosync.CONFIG_FILE, *facts.SBD_FILES} == set(found)


def test_pages_that_are_named_exist() -> None:
    named = [found for page in PAGES for found in re.findall(r"^\.Xr (\S+) (\d)", source(page), re.M)]
    named += re.findall(r"man:([\w.-]+)\((\d)\)", unit.shipped_text())
    assert {f"{name}.{section}" for name, section in named if "vmfence" in name} == set(PAGES)


def test_states_of_steps() -> None:
    items = entries(part(source(HOST), "Ss", "vmfence host setup"))
    assert {state.value for state in State} <= {entry.head for entry in items}


def test_proposals_of_the_wizard() -> None:
    documented = options(part(source(HOST), "Ss", "vmfence host configure"))
    for option, proposal in PROPOSALS.items():
        assert f"proposed: {proposal}" in documented[frozenset({option})], option


def test_every_check_of_the_host_and_no_other() -> None:
    documented = [(entry.head, entry.body) for entry in entries(part(source(HOST), "Sh", "CHECKS"))]
    assert documented == [(check.code, check.title) for check in HOST_CHECKS]


def test_every_check_of_the_cluster_and_no_other() -> None:
    documented = [(entry.head, entry.body) for entry in entries(part(source(CLUSTER), "Sh", "CHECKS"))]
    assert documented == [(check.code, check.title) for check in CHECKS]


def test_every_check_of_a_guest_and_no_other() -> None:
    documented = [(entry.head, entry.body) for entry in entries(part(source(COMMAND), "Sh", "GUEST CHECKS"))]
    assert documented == [(check.code, check.title) for check in GUEST_CHECKS]


def test_every_property_of_the_cluster_and_no_other() -> None:
    items = entries(part(source(CLUSTER), "Ss", "vmfence cluster properties"))
    documented = {entry.head: entry.body for entry in items if entry.head.startswith("Cm ")}
    names = {one.name: " , ".join(filter(None, (one.name, one.old_name))) for one in PROPERTIES}
    assert documented == {f"Cm {names[one.name]}": one.meaning for one in PROPERTIES}


def test_fields_of_json() -> None:
    record = listing._record(pool_list.Row(GuestFacts("", "", reply.State.RUNNING), "", ""), None)
    body = options(part(source(HOST), "Ss", "vmfence host list"))[frozenset({"--json"})]
    assert all(re.search(rf"\b{name}\b", body) for name in record)
    body = options(part(source(HOST), "Ss", "vmfence host setup"))[frozenset({"--json"})]
    assert all(re.search(rf"\b{name}\b", body) for name in Step("", State.DONE, "").as_dict())


FOUND = Finding("", Fault(ERROR, "", "", "", ""))
JSON = {
    "map": {*Row("").as_dict()},
    "check": {*checking.as_dict(Report(())), *FOUND.as_dict()},
    "history": {*(field.name for field in fields(FencingEvent)), "completed_at"},
    "prove": {field.name for field in fields(Proof)},
}


@pytest.mark.parametrize("name", JSON)
def test_fields_of_json_of_the_cluster(name: str) -> None:
    body = options(part(source(CLUSTER), "Ss", f"vmfence cluster {name}"))[frozenset({"--json"})]
    assert [field for field in JSON[name] if not re.search(rf"\b{field}\b", body)] == []
