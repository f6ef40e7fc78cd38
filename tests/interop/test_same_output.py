"""The same command line, given to a real client and to our agent called by the same name, ends in the same way.

Compared are exit code, state of the guests, and lines, of both streams together: 4.12.1 says on standard output what
newer releases and we say on standard error.  Ours may add lines that begin with ``error: ``.  All other differences are
on purpose, and NAMED.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from interop.sides import ALPHA, BETA, GUESTS, HASTE, OFF, ON, REFERENCE, Client, Daemons, access_rules
from lab import wire
from lab.host import TERMINATOR, FalseHost, guest_list, prove, record
from lab.net import HOST_IPV4, Bridge
from lab.process import Result, run_client
from lab.reference import write_key
from vmfence.agent.differences import DIFFERENCES

pytestmark = pytest.mark.system


class Case(NamedTuple):
    """A request: of the first guest, or with *stranger* of the second; *rules*: to a daemon with access rules."""

    action: str
    guest: str = ALPHA
    state: int = ON
    rules: bool = False
    stranger: bool = False
    changes: Mapping[str, object] = {}


class Named(NamedTuple):
    """A difference on purpose: *why* (a key of DIFFERENCES, or the decision itself), our exit code, our lines."""

    why: str
    exit: int
    lines: tuple[str, ...] = ()


FAILED = ("Operation failed",)
TIMED_OUT = ("Timed out waiting for response", *FAILED)
UNPROVEN = ("Invalid response to challenge", *FAILED)
SECRETS = "DESIGN 4, D35: challenges and digests are never printed"
GLUED = "the reference's perror has no newline; nothing else differs"
CASES = {
    **{f"{action}-running": Case(action) for action in ("off", "on", "reboot", "status", "null", "monitor", "list")},
    **{f"{action}-off": Case(action, state=OFF) for action in ("off", "on", "reboot", "status", "monitor", "list")},
    **{f"{action}-unknown": Case(action, "nobody") for action in ("off", "on", "reboot", "status", "null", "list")},
    **{f"{action}-denied": Case(action, BETA, rules=True) for action in ("off", "on", "reboot", "status", "null")},
    **{f"{action}-unnamed": Case(action, "") for action in ("monitor", "list", "list-status")},
    "uuid": Case("off", GUESTS[ALPHA]),
    "other-case": Case("status", ALPHA.upper()),
    "denied-unknown": Case("off", "nobody", rules=True),
    "list-filtered": Case("list", "", rules=True),
    "list-empty": Case("list", "", rules=True, stranger=True),
    "monitor-stranger": Case("monitor", "", rules=True, stranger=True),
    "delay": Case("off", changes={"delay": 1}),
    "stronger-hash": Case("off", changes={"hash": "sha512"}),
    "weaker-hash": Case("off", changes={"hash": "sha1", **HASTE}),
    "no-hash": Case("off", changes={"hash": "none", **HASTE}),
    "weaker-auth": Case("off", changes={"auth": "sha1", **HASTE}),
    "stronger-auth": Case("off", changes={"auth": "sha512", **HASTE}),
    "no-auth": Case("off", changes={"auth": "none", **HASTE}),
    "wrong-key": Case("off", changes={"key_file": "wrong", **HASTE}),
    "empty-key": Case("off", changes={"key_file": "empty", **HASTE}),
    "no-daemon": Case("off", changes={"ipport": 9, **HASTE}),
}  # fmt: skip

# Answers that no honest daemon gives: action, answer.
RECORD = record(ALPHA.encode(), GUESTS[ALPHA].encode(), ON)
LIST, LIST_REPLY = bytes((wire.HOSTS,)), guest_list(RECORD)
ANSWERS = {
    **{f"off-{code}": ("off", bytes((code,))) for code in (0, 1, 2, 3, 7, 200, 255)},
    **{f"status-{code}": ("status", bytes((code,))) for code in (0, 1, 2, 3, 7)},
    **{f"monitor-{code}": ("monitor", bytes((code,))) for code in (0, 1, 2, 3)},
    **{f"list-{code}": ("list", bytes((code,))) for code in (0, 1, 2, 3)},
    **{f"null-{code}": ("null", bytes((code,))) for code in (0, 1)},
    "list-whole": ("list", LIST_REPLY),
    "list-of-none": ("list", guest_list()),
    "list-ends-at-the-terminator": ("list", LIST + RECORD + TERMINATOR),
    "list-cut": ("list", LIST),  # after a record the reference would print for ever (D26)
    "list-stalls": ("list", LIST + RECORD),
    "list-for-off": ("off", LIST_REPLY),
    "list-for-status": ("status", LIST_REPLY),
    "silent": ("off", b""),
    "closes": ("off", b""),
    "unproven": ("off", b"\0"),
}
STAYING = ("list-stalls", "silent")  # the host keeps the connection open

# Command lines that are wrong in themselves, beside "-o off -H alpha".
USAGE = {
    "hash": ("-c", "md5"), "auth": ("-C", "md5"), "port": ("-p", "0"), "high-port": ("-p", "65536"),
    "timeout": ("-t", "0"), "delay": ("-w", "-1"), "key": ("-k", "/nowhere"), "action": ("-o", "frobnicate"),
    "twice": ("-n", "other"), "long-name": ("-H", "a" * 64), "no-name": ("-H", ""), "option": ("-Z",),
    "no-value": ("-t",), "argument": ("-o", "validate-all", "extra"), "valid": ("-o", "validate-all"),
}  # fmt: skip

# By the name of the case, or that and the transport.
NAMED = {
    "empty-key": Named("key", 1, FAILED),
    "weaker-auth": Named(SECRETS, 1, UNPROVEN),
    "stronger-auth": Named(SECRETS, 1, UNPROVEN),
    "unproven": Named(SECRETS, 1, UNPROVEN),
    "no-auth": Named("results", 1, TIMED_OUT),
    "weaker-hash-tcp": Named(GLUED, 1, UNPROVEN),
    "no-hash-tcp": Named(GLUED, 1, UNPROVEN),
    "wrong-key-tcp": Named(GLUED, 1, UNPROVEN),
    "no-daemon-tcp": Named("streams", 1, FAILED),
    "off-2": Named("results", 1, FAILED),
    "off-7": Named("results", 1, ("Unknown response (7)",)),
    "off-200": Named("results", 1, ("Unknown response (200)",)),
    "off-255": Named("results", 1, ("Unknown response (255)",)),
    "status-7": Named("results", 1, ("Unknown response (7)",)),
    "monitor-2": Named("results", 1, FAILED),
    "list-0": Named("results", 1, FAILED),
    "list-2": Named("results", 1, FAILED),
    "null-0": Named("null", 1, FAILED),
    "list-cut": Named("results", 1, FAILED),
    "list-stalls": Named("results", 1, TIMED_OUT),
    "list-for-off": Named("results", 1, FAILED),
    "list-for-status": Named("results", 1, FAILED),
    "silent": Named("results", 1, TIMED_OUT),
}
NAMED_USAGE = {
    "option": Named("unknown-option", 1, ("has no option -Z",)),
    "no-value": Named("unknown-option", 1, ("option -t has no value",)),
    "argument": Named("arguments", 1, ("unexpected argument 'extra'",)),
}


class Ending(NamedTuple):
    """How one run ended."""

    exit: int
    lines: tuple[str, ...]
    states: Mapping[str, int]


def ending(result: Result, states: Mapping[str, int] | None = None) -> Ending:
    lines = (line for line in (result.stdout + result.stderr).splitlines() if not line.startswith("error: "))
    return Ending(result.exit, tuple(sorted(lines)), states or {})


def compare(name: str, theirs: Ending, ours: Ending, transport: str = "") -> None:
    """Check that both ended alike, or differ as NAMED."""
    named = NAMED.get(name) or NAMED.get(f"{name}-{transport}")
    if named is None:
        assert ours == theirs
        return
    assert named.why in DIFFERENCES or " " in named.why
    assert ours == Ending(named.exit, tuple(sorted(named.lines)), theirs.states)
    assert ours != theirs, "no difference any more"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys that no daemon has."""
    folder = tmp_path_factory.mktemp("keys")
    write_key(folder / "wrong")
    write_key(folder / "empty", b"")
    return folder


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["our_daemons", "reference_daemons"])
def test_requests(
    kind: str,
    transport: str,
    name: str,
    reference_client: Client,
    our_client: Client,
    bridge: Bridge,
    keys: Path,
    request: pytest.FixtureRequest,
) -> None:
    daemons: Daemons = request.getfixturevalue(kind)
    case = CASES[name]
    changes = {key: keys / str(value) if key == "key_file" else value for key, value in case.changes.items()}
    rules = access_rules(bridge, ALPHA, GUESTS[ALPHA]) if case.rules else ""
    endpoint = daemons.at(transport, groups=rules)

    def run(client: Client) -> Ending:
        endpoint.put(ALPHA, case.state)
        one = Client(client.programs, bridge.guests[1]) if case.stranger else client
        return ending(one.ask(endpoint, case.action, case.guest, **changes), endpoint.states())

    compare(name, run(reference_client), run(our_client), transport)


@pytest.mark.parametrize("name", ANSWERS)
def test_odd_answers(name: str, names: Mapping[str, str], keys: Path) -> None:
    action, reply = ANSWERS[name]
    secret = (keys / "wrong").read_bytes()

    def host(peer: wire.Peer) -> None:
        prove(peer, b"another" if name == "unproven" else secret)
        peer.send(reply)
        if name in STAYING:
            peer.read(1)

    words: tuple[str, ...] = ("-o", action, "-H", ALPHA, "-t", "1")
    with FalseHost(host) as odd:
        theirs, ours = (
            run_client(programs["fence_virt"], (*words, *odd.options(keys / "wrong")))
            for programs in (REFERENCE, names)
        )
    compare(name, ending(theirs), ending(ours))


def test_busy_call_back_port(
    reference_client: Client, our_client: Client, our_daemons: Daemons, bridge: Bridge
) -> None:
    """On purpose: the reference gives up with 255 (D25), ours is called back at another port (DESIGN 11)."""
    endpoint = our_daemons.at("multicast")
    with bridge.guests[0].call(wire.listen, "0.0.0.0", endpoint.port):
        theirs = ending(reference_client.ask(endpoint, "monitor", **HASTE))
        ours = ending(our_client.ask(endpoint, "monitor"))
    assert (theirs.exit, theirs.lines[-1]) == (255, "Unknown response (-1)")
    assert (ours.exit, ours.lines) == (0, ())


@pytest.mark.parametrize("name", USAGE)
@pytest.mark.parametrize("program", REFERENCE)
def test_wrong_command_lines(program: str, name: str, reference_client: Client, our_client: Client) -> None:
    """On purpose ours shows no help, and says what is wrong on a line that begins with ``error: ``."""
    words = ("-o", "off", *(("-H", ALPHA) if "-H" not in USAGE[name] else ()))
    words += ("-T", HOST_IPV4) if program == "fence_virt" else ()
    theirs, ours = (client.run(program, *words, *USAGE[name]) for client in (reference_client, our_client))
    named = NAMED_USAGE.get(name)
    if named:
        assert named.why in DIFFERENCES
        assert (theirs.exit, ours.exit) == (0, named.exit)
    else:
        assert ours.exit == theirs.exit
    said = theirs.stdout.partition("usage: ")[0].splitlines() if not named else named.lines
    assert all(line.rstrip("!") in ours.stderr for line in said)
    assert bool(ours.stderr) == bool(ours.exit)
    assert ours.stdout == ""


@pytest.mark.parametrize("channel", [("-D/nowhere",), ("-A127.0.0.1", "-p9")])
def test_channels_that_are_not_there(channel: tuple[str, ...], reference_client: Client, our_client: Client) -> None:
    """On purpose ("results"): a failure is 1, not 255."""
    theirs, ours = (c.run("fence_virt", "-o", "off", "-H", ALPHA, *channel) for c in (reference_client, our_client))
    assert (theirs.exit, ours.exit) == (255, 1)
    assert "Operation failed" in ours.stderr


def test_all_named_cases_exist() -> None:
    names = {f"{case}{more}" for case in CASES for more in ("", "-tcp", "-multicast")} | set(ANSWERS)
    assert set(NAMED) <= names
    assert set(NAMED_USAGE) <= set(USAGE)
