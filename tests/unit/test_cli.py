"""The command line: every level helps, errors are lines with an exit code, output is what a script can read.

In process by click's runner where that shows it, as a real process where exit codes and streams matter.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from lab.rig import powerless
from unit.fakes import Peer, peer, prove, read_request, wait_for_end
from vmfence import __version__
from vmfence.agent.options import OURS
from vmfence.cli import main
from vmfence.cli.main import vmfence
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.reply import Record, encode_list
from vmfence.protocol.request import Action, decode

FOLDER = Path(sys.executable).parent
SECRET = b"k" * 32
RECORDS = [Record("alpha", "11111111-2222-3333-4444-555555555501", 1), Record("Gast-\u00e4", "", 5)]
Words = tuple[str, ...]


def walk(command: click.Command, path: Words = ()) -> Iterator[tuple[Words, click.Command]]:
    """Return every command below *command*, itself included, with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from walk(below, (*path, name))


TREE = list(walk(vmfence))
OWN_HELP = [pytest.param(path, id=" ".join(path) or "vmfence") for path, _ in TREE if path != ("agent",)]


def run(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the real program to its end."""
    settings = {"capture_output": True, "text": True, "timeout": 30, "stdin": subprocess.DEVNULL, **how}
    return subprocess.run([str(FOLDER / "vmfence"), *words], check=False, **settings)


def error_lines(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines on stderr, each an error that says what it is and ends."""
    lines = ended.stderr.splitlines()
    assert lines and "Traceback" not in ended.stderr
    for line in lines:
        assert line.startswith("error: ") and line.endswith((".", "?")), ended.stderr
    return lines


# Help and version


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("path", OWN_HELP)
def test_help_on_every_level(path: Words, flag: str) -> None:
    shown = CliRunner().invoke(vmfence, [*path, flag])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "Usage:" in shown.output and "-h, --help" in shown.output


@pytest.mark.parametrize(
    ("path", "command"), TREE, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_and_option_says_what_it_does(path: Words, command: click.Command) -> None:
    assert command.help and command.help.splitlines()[0].endswith((".", ":"))
    for parameter in command.params:
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            shown = parameter.help or parameter.show_default or isinstance(parameter.type, click.Choice)
            assert shown or parameter.metavar, f"{' '.join(path)} {parameter.opts}"


@pytest.mark.parametrize("path", [path for path, command in TREE if isinstance(command, click.Group)], ids=str)
def test_a_group_lists_its_commands(path: Words) -> None:
    shown = CliRunner().invoke(vmfence, [*path, "--help"]).output
    for below in (other[-1] for other, _ in TREE if other[:-1] == path and other):
        assert f"\n  {below} " in shown


def test_version() -> None:
    ended = run("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"vmfence {__version__}\n", "")


def test_as_a_module() -> None:
    ended = subprocess.run([sys.executable, "-m", "vmfence", "--version"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, f"vmfence {__version__}\n")


@pytest.mark.parametrize("words", [["--version"], ["agent", "-o", "metadata"]])
def test_the_agent_is_started_without_click(words: list[str]) -> None:
    code = (
        "import sys; sys.argv[:] = {!r}; from vmfence.cli.entry import main; main()\n"
        "sys.stderr.write(str('click' in sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code.format(["vmfence", *words])], capture_output=True, text=True, check=True, timeout=30
    )
    assert ended.stderr == str(words == ["--version"])


def test_the_agent_by_any_of_its_names(tmp_path: Path) -> None:
    program = tmp_path / "fence_xvm"
    program.symlink_to(FOLDER / "vmfence")
    shown = [
        subprocess.run([*words, "-o", "metadata"], capture_output=True, text=True, check=True, timeout=30).stdout
        for words in ([str(FOLDER / "vmfence"), "agent"], [str(FOLDER / OURS)], [str(program)])
    ]
    assert shown[0] == shown[1] and f'name="{OURS}"' in shown[0]
    assert 'name="fence_xvm"' in shown[2]


# Usage


@pytest.mark.parametrize(
    "words",
    [
        *([], ["nonsense"], ["--nonsense"], ["host"], ["host", "nonsense"], ["guest", "nonsense"]),
        *(["host", "daemon", "--nonsense"], ["host", "daemon", "-d", "x"], ["host", "daemon", "stray"]),
        *(["list", "-p", "0"], ["list", "-p", "65536"], ["list", "-c", "md5"], ["list", "-t", "0"], ["list", "-t"]),
        *(["list", "-t", "nan"], ["guest", "check", "-t", "nan"], ["cluster", "fence", "n1", "--timeout", "nan"]),
        *(["guest", "check", "--watch", "--interval", pause] for pause in ("nan", "inf")),
        *(["cluster", "prove", "n1", "--timeout", "nan"], ["cluster", "add-device", "--wait", "nan"]),
        *(["host", "list", "--uri", ""], ["host", "history", "-H", ""]),
        *(["list", "-i", "ipv5"], ["list", "-T", "host.example", "-c", "none", "-C", "none"]),
        *(["list", "-a", "10.0.0.1", "-c", "none", "-C", "none"],),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vmfence", *words])
    code = main.run()
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: " if words in ([], ["host"]) else "error: ")


def test_an_unknown_command_of_the_real_program() -> None:
    ended = run("nonsense")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "nonsense" in ended.stderr and "Traceback" not in ended.stderr


# Faults


@pytest.mark.parametrize("words", [["host", "daemon", "-f"]], ids=" ".join)
@pytest.mark.parametrize("content", [None, "", "nonsense", 'fence_virtd { listener = "x"; listener = 7', "\0\xff"])
def test_a_configuration_that_is_missing_or_wrong(tmp_path: Path, words: list[str], content: str | None) -> None:
    path = tmp_path / "vmfence.conf"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    ended = run(*words, str(path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert all(str(path) in line for line in error_lines(ended))


def test_every_fault_of_a_configuration_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "vmfence.conf"
    path.write_text('fence_virtd {\n listner = "tcp";\n backend = "libvrt";\n debug = "x";\n}\n')
    lines = error_lines(run("host", "daemon", "-f", str(path)))
    assert [number for number in (2, 3, 4) if any(f"{path}:{number}: " in line for line in lines)] == [2, 3, 4]


@pytest.mark.parametrize(("mode", "content"), [(None, b""), (0o644, SECRET), (0o600, b""), (0o600, b"short")], ids=str)
def test_a_key_that_cannot_be_used(tmp_path: Path, mode: int | None, content: bytes) -> None:
    path = tmp_path / "key"
    if mode is not None:
        path.write_bytes(content)
        path.chmod(mode)
    ended = run("list", "-k", str(path), "-T", "127.0.0.1")
    assert ended.returncode == 1
    (line,) = error_lines(ended)
    assert str(path) in line and "kkk" not in line


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        ended = run("list", "-c", "none", "-C", "none", "-T", "127.0.0.1", "-p", str(bound.getsockname()[1]))
    assert ended.returncode == 4
    assert "refused" in error_lines(ended)[0]


def test_a_guest_has_no_libvirt() -> None:
    """pip install vmfence is enough there; what needs more says so."""
    code = (
        "import sys; sys.modules['libvirt'] = None; from vmfence.cli.main import run; sys.argv[:] = {}; sys.exit(run())"
    )
    for words, status in (["vmfence", "host", "daemon"], 1), (["vmfence", "list", "--help"], 0):
        ended = subprocess.run(
            [sys.executable, "-c", code.format(words)], check=False, timeout=30, capture_output=True, text=True
        )
        assert ended.returncode == status
        if status:
            (line,) = error_lines(ended)
            assert "libvirt is not installed" in line
            assert f"{sys.executable} -m pip install libvirt-python" in line


@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        (("host", "list"), 1, "error: the Python package libvirt is not installed"),
        (("host", "list", "--uri", "test:///default"), 1, "error: the Python package libvirt is not installed"),
        (("host", "list", "--bogus"), 2, "--bogus"),
        (("host", "daemon", "-d", "x"), 2, "'x'"),
        (("host", "setup", "--bogus"), 2, "--bogus"),
        (("host", "check", "--explain", "host-clock"), 0, "host-clock: "),
        (("host", "check", "--explain", "all"), 0, "host-clock: "),
        (("host", "configure", "--help"), 0, "--listener"),
    ],
)
def test_only_what_asks_libvirt_needs_it(words: Words, status: int, shown: str) -> None:
    code = "import sys; sys.modules['libvirt'] = None; from vmfence.cli.main import run; sys.exit(run())"
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], check=False, timeout=30, capture_output=True, text=True
    )
    assert (ended.returncode, shown in ended.stdout + ended.stderr) == (status, True)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("hosts",), "did you mean vmfence host?"),
        (("host", "chek"), "did you mean vmfence host check?"),
        (("cluster", "add-devices", "x"), "did you mean vmfence cluster add-device?"),
        (("guest", "zzz"), "the commands are check, list"),
    ],
)
def test_a_command_that_is_misspelt_is_told_with_the_nearest_one(words: Words, remedy: str) -> None:
    ended = run(*words)
    assert (ended.returncode, len(error_lines(ended))) == (2, 1)
    assert f"has no command {words[-2 if 'x' in words else -1]!r}" in error_lines(ended)[0]
    assert remedy in error_lines(ended)[0]


def test_a_check_that_is_misspelt_is_told_with_the_nearest_of_its_command() -> None:
    ended = run("cluster", "check", "--explain", "cluster-clock")
    assert ended.returncode == 2
    assert "did you mean cluster-" in error_lines(ended)[0]


@pytest.mark.parametrize(
    "words", [("list", "-T", "127.0.0.1", "-k"), ("host", "keygen"), ("host", "keygen", "--check")]
)
def test_a_key_that_this_user_may_not_use(words: Words, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    key = folder / "key"
    if words != ("host", "keygen"):
        key.write_bytes(SECRET)
        key.chmod(0o600)
    folder.chmod(0)
    try:
        argv = [*powerless(), str(FOLDER / "vmfence"), *words, str(key)]
        ended = subprocess.run(argv, check=False, timeout=30, capture_output=True, text=True)
    finally:
        folder.chmod(0o700)
    assert (ended.returncode, len(error_lines(ended))) == (3, 1)
    assert "Permission denied" in error_lines(ended)[0] and "as root" in error_lines(ended)[0]


# A list, from a host that plays a script


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return str(path)


def listing(host: Peer, connection: socket.socket) -> None:
    read_request(host, connection)
    prove(connection, Key(SECRET), Hash.SHA256)
    connection.sendall(encode_list(RECORDS))
    wait_for_end(connection)


def denying(host: Peer, connection: socket.socket) -> None:
    read_request(host, connection)
    prove(connection, Key(SECRET), Hash.SHA256)
    connection.sendall(b"\3")
    wait_for_end(connection)


@pytest.mark.parametrize("words", [["list"], ["guest", "list"]], ids=" ".join)
def test_a_list_as_fence_xvm_shows_it(words: list[str], key_file: str) -> None:
    with peer(listing) as host:
        ended = run(*words, "-k", key_file, "-T", "127.0.0.1", "-p", str(host.port), env={"LC_ALL": "C"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "".join(f"{record.line()}\n" for record in RECORDS)
    assert decode(host.requests[0]).action == Action.LIST


@pytest.mark.parametrize("words", [["list"], ["guest", "list"]], ids=" ".join)
def test_a_list_as_json(words: list[str], key_file: str) -> None:
    with peer(listing) as host:
        ended = run(*words, "--json", "-k", key_file, "-T", "127.0.0.1", "-p", str(host.port))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == [record.as_dict() for record in RECORDS]
    assert ended.stdout.isascii()


def test_an_answer_that_is_no_list(key_file: str) -> None:
    with peer(denying) as host:
        ended = run("list", "--json", "-k", key_file, "-T", "127.0.0.1", "-p", str(host.port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "127.0.0.1" in error_lines(ended)[0]


def test_a_host_with_another_key(key_file: str) -> None:
    Path(key_file).write_bytes(b"another key, long enough")
    with peer(listing) as host:
        ended = run("list", "-k", key_file, "-T", "127.0.0.1", "-p", str(host.port))
    assert ended.returncode == 1
    assert "could not prove the key" in error_lines(ended)[0]


# Streams


def test_a_reader_that_left(key_file: str) -> None:
    """As head does: no traceback.  Not success either, as nothing was shown."""
    reading, writing = os.pipe()
    os.close(reading)
    with peer(listing) as host:
        words = ("list", "-k", key_file, "-T", "127.0.0.1", "-p", str(host.port))
        ended = run(*words, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("words", [["--help"], ["host", "daemon", "--help"]], ids=" ".join)
def test_a_full_disk(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        ended = run(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device.\n")


@pytest.mark.parametrize("words", [["--help"], ["nonsense"]], ids=" ".join)
def test_streams_that_are_closed(words: list[str]) -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", str(FOLDER / "vmfence"), *words], check=False, timeout=30
    )
    assert ended.returncode == (2 if words == ["nonsense"] else 0)


def test_interrupted() -> None:
    """Ctrl-C while a host is asked that does not answer."""

    def silent(host: Peer, connection: socket.socket) -> None:
        read_request(host, connection)
        started.send_signal(signal.SIGINT)
        wait_for_end(connection)

    with peer(silent) as host:
        words = ["list", "-c", "none", "-C", "none", "-T", "127.0.0.1", "-p", str(host.port)]
        started = subprocess.Popen([str(FOLDER / "vmfence"), *words], stderr=subprocess.PIPE, text=True)
        _, shown = started.communicate(timeout=30)
    assert started.returncode == 1
    assert shown.strip() == "error: interrupted."


def test_the_exit_code_of_a_command_is_that_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """click returns it instead of raising it."""

    @click.command()
    def probe() -> None:
        raise click.exceptions.Exit(7)

    monkeypatch.setattr(type(vmfence), "get_command", lambda *_: probe)
    monkeypatch.setattr(sys, "argv", ["vmfence", "probe"])
    assert main.run() == 7


def test_ctrl_c_while_the_program_is_loaded_is_no_traceback() -> None:
    code = """import sys
class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "vmfence.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
sys.argv[:] = ["vmfence", "host", "setup"]
from vmfence.cli.entry import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: interrupted.\n")
