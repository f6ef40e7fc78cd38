"""The agent as a process: against captured runs of fence_xvm 4.12.1, against a host, and in hostile surroundings."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest
from lxml import etree

from vmfence import __version__
from vmfence.agent.differences import DIFFERENCES
from vmfence.protocol.auth import Hash, Key, verify
from vmfence.protocol.exchange import ChallengeBook, DaemonExchange
from vmfence.protocol.reply import Record, encode_list
from vmfence.protocol.request import PACKET_BYTES, decode

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "contrib" / "agent" / "fence_vmfence"
RUNS = json.loads((ROOT / "tests" / "vectors" / "agent" / "local.json").read_text())["runs"]
SECRET = b"0123456789abcdef" * 2
LIMIT_S = 30
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

# Where we differ from a captured run: the difference by its name, our exit code, a text that we print.
DIFFERENT = {
    "xvm-version": ("version", 0, f"fence_xvm {__version__}\nvmfence release {__version__}\n"),
    "virt-version": ("version", 0, f"fence_virt {__version__}\n"),
    "xvm-help": ("help", 0, "usage: fence_xvm [options]\n"),
    "virt-help": ("help", 0, "usage: fence_virt [options]\n"),
    "xvm-help-alt": ("help", 0, "usage: fence_xvm [options]\n"),
    "xvm-badopt": ("unknown-option", 1, "error: fence_xvm has no option -Z."),
    "xvm-missing-arg": ("unknown-option", 1, "error: option -o has no value."),
    "xvm-extra-arg": ("arguments", 1, "error: unexpected argument 'extra'."),
    "xvm-stdin-unknown": ("unknown-name", 0, "warning: unknown option 'bogus' ignored\nwarning: unknown option 'foo'"),
    "xvm-badop-metadata": ("one-cause", 1, "error: Unsupported operation: frobnicate."),
    "virt-hostname": ("addresses", 1, "error: 'localhost' is no IP address."),
    "virt-refused": ("streams", 1, "error: Unable to connect to fence_virtd host 127.0.0.1:9. Connection refused."),
    "virt-vmchannel-refused": ("results", 1, "Operation failed\nerror: "),
    "virt-serial-nodev": ("results", 1, "Operation failed\nerror: "),
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return what runs the agent under a name, in an empty environment."""

    def start(name: str, *words: str | bytes, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
        link = tmp_path / name
        if not link.is_symlink():
            link.symlink_to(SCRIPT)
        settings = {"capture_output": True, "timeout": LIMIT_S, "env": {"PYTHONPATH": str(ROOT)}, "input": stdin}
        return subprocess.run([sys.executable, str(link), *words], **{**settings, **options})

    return start


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return str(path)


def complain(result: subprocess.CompletedProcess[bytes], text: str) -> None:
    """Check that *result* is a failure that says *text*, and is no crash."""
    assert result.returncode == 1
    assert text in result.stderr.decode()
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("sample", RUNS, ids=[sample["name"] for sample in RUNS])
def test_local_runs_end_as_those_of_the_reference(sample: dict[str, Any], run: Run, key: str) -> None:
    contacts = sample["name"] in ("virt-refused", "virt-vmchannel-refused", "virt-serial-nodev")
    result = run(*sample["argv"], *(["-k", key] if contacts else []), stdin=sample["stdin"].encode())
    stdout, stderr = result.stdout.decode(), result.stderr.decode()
    if sample["name"] in DIFFERENT:
        difference, exit_code, text = DIFFERENT[sample["name"]]
        assert difference in DIFFERENCES
        assert result.returncode == exit_code
        assert text in (stdout if text.startswith(("fence_", "usage")) else stderr)
        return
    assert result.returncode == sample["exit_code"]
    for line in sample["lines"]:  # "streams": on standard error; ours has no exclamation mark
        assert line.rstrip("!") in stderr
    assert bool(stderr) == bool(sample["lines"])
    if sample["stdout"] == "metadata":
        assert etree.fromstring(result.stdout).get("name") == sample["argv"][0]
    else:
        assert stdout == ""


def test_every_named_sample_exists() -> None:
    assert set(DIFFERENT) <= {sample["name"] for sample in RUNS}


class Host(threading.Thread):
    """A host on loopback TCP that takes one request, proves *secret*, sends *reply* and closes."""

    def __init__(self, reply: bytes, secret: bytes = SECRET) -> None:
        super().__init__(daemon=True)
        self._reply, self._key = reply, Key(secret)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT_S)
        self.port = str(self._listener.getsockname()[1])
        self.packet = b""

    def run(self) -> None:
        peer, _ = self._listener.accept()
        with self._listener, peer:
            peer.settimeout(LIMIT_S)
            while len(self.packet) < PACKET_BYTES:
                self.packet += peer.recv(PACKET_BYTES - len(self.packet))
            exchange = DaemonExchange(self._key, Hash.SHA256, os.urandom(64), ChallengeBook())
            while not exchange.proven:
                data = peer.recv(4096)
                if not data:
                    return
                peer.sendall(exchange.receive(data))
            peer.sendall(self._reply)


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    started: list[Host] = []

    def start(*arguments: bytes) -> Host:
        started.append(Host(*arguments))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.join(LIMIT_S)


GUESTS = [Record("alpha", "11111111-2222-3333-4444-555555555501", 1), Record("g?st", "u", 5)]
LINES = b"alpha                            11111111-2222-3333-4444-555555555501 on\n"
ANSWERS = [
    ("off", b"\0", 0, b"", b""),
    ("on", b"\0", 0, b"", b""),
    ("monitor", b"\0", 0, b"", b""),
    ("status", b"\0", 0, b"Status: ON\n", b""),
    ("status", b"\2", 2, b"Status: OFF\n", b""),
    ("list", encode_list(GUESTS).replace(b"g?st", b"g\xffst"), 0, LINES + b"g\xffst".ljust(32) + b" u off\n", b""),
    ("list", encode_list([]), 0, b"", b""),
    ("off", b"\1", 1, b"", b"Operation failed\nerror: 127.0.0.1 reports that off of "),
    ("off", b"\2", 1, b"", b"2 (off) does not belong to this action"),
    ("off", b"\3", 3, b"", b"Permission denied\nerror: 127.0.0.1 does not permit off of "),
    ("off", b"\7", 1, b"", b"Unknown response (7)\n"),
    ("off", b"\xc8", 1, b"", b"Unknown response (200)\n"),
    ("off", b"\xff", 1, b"", b"Unknown response (255)\n"),
    ("off", encode_list(GUESTS), 1, b"", b"253 (a list of guests) does not belong to this action"),
    ("off", b"", 1, b"", b"Operation failed\nerror: 127.0.0.1 did not accept"),
    ("list", encode_list(GUESTS)[:-131], 1, b"", b"Operation failed\nerror: 127.0.0.1: the list of guests was cut off"),
]


@pytest.mark.parametrize(("action", "reply", "exit_code", "out", "err"), ANSWERS)
def test_answers_of_a_host(
    run: Run,
    key: str,
    host: Callable[..., Host],
    action: str,
    reply: bytes,
    exit_code: int,
    out: bytes,
    err: bytes,
) -> None:
    answering = host(reply)
    lines = f"action={action}\nplug=gä\nipaddr=127.0.0.1\nipport={answering.port}\nkey_file={key}\ntimeout=9\n"
    result = run("fence_virt", stdin=lines.encode())
    assert (result.returncode, result.stdout) == (exit_code, out)
    assert err in result.stderr
    assert bool(result.stderr) == bool(err)
    request = decode(answering.packet)
    assert (request.action_name(), request.target) == (action, "gä")
    assert verify(answering.packet, Key(SECRET), Hash.SHA256) is Hash.SHA256


def test_a_host_with_another_key_is_not_believed(run: Run, key: str, host: Callable[..., Host]) -> None:
    port = host(b"\0", b"another key, as long").port
    result = run("fence_virt", "-T127.0.0.1", "-p", port, "-k", key, "-o", "off", "-n", "alpha", "-t", "9")
    complain(result, "Invalid response to challenge\nOperation failed\nerror: 127.0.0.1 could not prove the key")


def test_a_name_on_the_command_line_is_sent_as_it_was_typed(run: Run, key: str, host: Callable[..., Host]) -> None:
    answering = host(b"\0")
    words = ("-d", "-T", "127.0.0.1", "-p", answering.port, "-k", key, "-o", "status", "-n", b"g\xc3\xa4\xff")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run("fence_vmfence", *words, env={"PYTHONPATH": str(ROOT), **ascii_only})
    assert (result.returncode, result.stdout) == (0, b"Status: ON\n")
    assert "status of 'gä\\udcff'" in result.stderr.decode()
    assert decode(answering.packet).domain == b"g\xc3\xa4\xff"


def test_debugging_tells_what_happens_on_standard_error(run: Run, key: str, host: Callable[..., Host]) -> None:
    port = host(b"\0").port
    result = run("fence_vmfence", "-d", "-T127.0.0.1", "-p", port, "-k", key, "-o", "status", "-n", "alpha")
    assert result.stdout == b"Status: ON\n"
    assert f"connected to 127.0.0.1 port {port}" in result.stderr.decode()
    assert SECRET not in result.stderr


def test_a_result_counts_even_when_nobody_reads_it(run: Run, key: str, host: Callable[..., Host]) -> None:
    words = ["-T127.0.0.1", "-k", key, "-o", "status", "-n", "alpha"]
    with open("/dev/full", "wb") as full:
        result = run("fence_vmfence", *words, "-p", host(b"\2").port, capture_output=False, stdout=full)
    assert result.returncode == 2
    closed = run("fence_vmfence", *words, "-p", host(b"\2").port, preexec_fn=lambda: os.close(1))
    assert (closed.returncode, closed.stdout) == (2, b"")


def test_a_list_that_nobody_gets_is_no_success(run: Run, key: str, host: Callable[..., Host]) -> None:
    words = ["-T127.0.0.1", "-k", key, "-o", "list", "-p", host(encode_list(GUESTS)).port]
    with open("/dev/full", "wb") as full:
        assert run("fence_vmfence", *words, capture_output=False, stdout=full).returncode == 1


@pytest.mark.parametrize("words", [("-h",), ("-o", "metadata")])
def test_output_that_is_the_result_must_arrive(run: Run, words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    result = run("fence_xvm", *words, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    complain(result, "error: cannot write to standard output. Broken pipe.")


def test_output_to_a_closed_stream_has_not_arrived(run: Run, key: str, host: Callable[..., Host]) -> None:
    """A list or metadata are lost with it; off has nothing to say."""
    words = ("-T127.0.0.1", "-k", key, "-n", "alpha")
    listing = (*words, "-p", host(encode_list(GUESTS)).port, "-o", "list")
    for lost in (("-o", "metadata"), ("-h",), listing):
        complain(run("fence_vmfence", *lost, preexec_fn=lambda: os.close(1)), "error: cannot write to standard output.")
    for action in (("-o", "validate-all"), ("-o", "off", "-p", host(b"\0").port)):
        done = run("fence_vmfence", *words, *action, preexec_fn=lambda: os.close(1))
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_long_list_is_not_cut_where_standard_output_does_not_block(
    run: Run, key: str, host: Callable[..., Host]
) -> None:
    guests = [Record(f"guest-{number}", "u", 1) for number in range(20_000)]
    words = ("-T127.0.0.1", "-k", key, "-o", "list", "-p", host(encode_list(guests)).port)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(read, "rb") as lines, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lines.read)
        result = run("fence_vmfence", *words, capture_output=False, stdout=write)
        os.close(write)
        assert reading.result().count(b"\n") == len(guests)
    assert result.returncode == 0


@pytest.mark.parametrize("words", [("-o", "off"), ("-o", "off", "extra"), ("-V",), ("-o", "metadata")])
def test_a_name_that_is_no_text_does_not_crash(run: Run, words: tuple[str, ...]) -> None:
    result = run("fence_\udcff", *words)
    assert result.returncode == (1 if "off" in words else 0)
    assert b"Traceback" not in result.stderr and b"internal error" not in result.stderr


def close_all(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        os.close(number)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_not_crash(run: Run, closed: tuple[int, ...]) -> None:
    result = run("fence_xvm", preexec_fn=lambda: close_all(closed))
    assert result.returncode == 1
    assert result.stdout == b""
    assert (b"No domain specified" in result.stderr) == (2 not in closed)


def test_standard_input_that_cannot_be_read(run: Run) -> None:
    with open("/dev/null", "wb") as write_only:
        result = run("fence_xvm", preexec_fn=lambda: os.dup2(write_only.fileno(), 0))
    complain(result, "cannot read standard input. Bad file descriptor.")


@pytest.mark.parametrize("data", [b"\0\0", b"\xff\xfe=\n", b"plug=\xc3\n=\naction=off\nplug=x", b"#" * 70_000])
def test_rubbish_on_standard_input(run: Run, data: bytes) -> None:
    complain(run("fence_xvm", stdin=data), "error: ")


def test_with_arguments_standard_input_is_not_read(run: Run) -> None:
    assert run("fence_xvm", "-o", "metadata", stdin=b"action=off\nplug=alpha\n").returncode == 0


def test_somebody_at_a_terminal_is_told_what_it_waits_for(run: Run) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"action=validate-all\nplug=alpha\n\x04")
    result = run("fence_xvm", preexec_fn=lambda: os.dup2(theirs, 0))
    os.close(ours)
    os.close(theirs)
    assert result.returncode == 0
    assert b"fence_xvm -h" in result.stderr


@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 1)])
def test_signals_end_it_without_success(key: str, sent: signal.Signals, exit_code: int) -> None:
    words = [sys.executable, str(SCRIPT), "-d", "-o", "off", "-n", "alpha", "-w", "60", "-k", key]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"debug: waiting 60 s before off\n"
        process.send_signal(sent)
        rest = process.stderr.read()
    assert process.returncode == exit_code
    assert b"Traceback" not in rest


@pytest.mark.parametrize("name", ["fence_xvm", "fence_virt", "fence_vmfence"])
def test_without_a_key_nothing_is_sent(run: Run, name: str, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"short")
    short.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        words = [] if name == "fence_xvm" else ["-T127.0.0.1", "-p", str(listener.getsockname()[1])]
        result = run(name, *words, "-o", "off", "-n", "alpha", "-k", str(short))
        complain(result, f"Operation failed\nerror: the key {short} cannot be used. it holds 5 bytes")
        with pytest.raises(BlockingIOError):
            listener.accept()
