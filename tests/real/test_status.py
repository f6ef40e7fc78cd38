"""host status, host history and host keygen as a user types them, with a real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.ours import CommandLine, driver_uri, our_config
from lab.process import Daemon, Result, run_client
from lab.reference import write_key
from lab.waiting import wait_until
from vmfence.host.history import Event, History
from vmfence.host.signatures import FILE_NAME

GUESTS = {"alpha": "11111111-2222-3333-4444-555555555501", "beta": "11111111-2222-3333-4444-555555555502"}


class World(NamedTuple):
    """A daemon on tcp that one test has for itself."""

    vmfence: CommandLine
    daemon: Daemon
    folder: Path
    config: Path
    key: Path
    port: int

    def fence(self, action: str, guest: str, *more: str) -> Result:
        where = ("-T", "127.0.0.1", "-p", str(self.port), "-k", str(self.key))
        return self.vmfence.fence(*where, "-o", action, "-H", guest, *more)

    def show(self, command: str, *more: str) -> Result:
        return self.vmfence.run("host", command, "-f", str(self.config), *more)

    def status(self) -> Any:
        return json.loads(self.show("status", "--json").stdout)

    def history(self, *more: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.show("history", "--json", *more).stdout.splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def world(tmp_path: Path, vmfence: CommandLine) -> Iterator[World]:
    key, port = write_key(tmp_path / "key"), free_port()
    listeners: dict[str, dict[str, object]] = {"tcp": {"port": port}}
    config = our_config(tmp_path, driver_uri(tmp_path, GUESTS), key, listeners=listeners)
    with vmfence.daemon(config) as daemon:
        yield World(vmfence, daemon, tmp_path, config, key, port)


def ask(path: Path, line: bytes) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(line)
        return json.loads(connection.makefile("rb").readline())


def test_status_tells_listeners_keys_and_counts(world: World) -> None:
    assert world.fence("off", "alpha").exit == 0
    assert world.fence("on", "nobody").exit == 1
    with socket.create_connection(("127.0.0.1", world.port)) as stranger:
        stranger.sendall(b"A" * 176)
        stranger.settimeout(10)
        assert stranger.recv(1) == b""
    found = world.status()
    assert found["pid"] == world.daemon.pid
    (listener,) = found["listeners"]
    assert (listener["where"], listener["is_open"]) == (f"tcp 127.0.0.1 port {world.port}", True)
    assert [item["is_answering"] for item in found["hypervisors"]] == [True]
    fingerprint = json.loads(world.vmfence.run("host", "keygen", "--check", "--json", str(world.key)).stdout)
    assert [key["sha256"] for key in found["keys"]] == [fingerprint["fingerprint"]]
    assert found["requests"] == [
        {"action": "off", "result": "ok", "count": 1},
        {"action": "on", "result": "failed", "count": 1},
    ]
    (reject,) = found["last_rejected"]
    assert reject["origin"] == "127.0.0.1 (tcp)"
    text = world.show("status").stdout
    for line in (f"tcp 127.0.0.1 port {world.port}: open", "off ok: 1", "on failed: 1", "rejected packets: 1"):
        assert line in text
    assert world.key.read_bytes().hex()[:64] not in text


def test_history_tells_who_fenced_whom_over_a_restart(world: World) -> None:
    world.fence("reboot", "alpha")
    world.fence("status", "alpha")
    world.fence("off", GUESTS["beta"])
    world.fence("on", "nobody")
    world.daemon.stop()
    events = world.history()
    assert [(e["action"], e["guest"], e["result"]) for e in events] == [
        ("reboot", "alpha", "ok"),
        ("off", "beta", "ok"),
        ("on", "nobody", "failed"),
    ]
    assert {(e["origin"], e["via"]) for e in events} == {("127.0.0.1", "tcp")}
    assert events[1]["uuid"] == GUESTS["beta"]
    assert [e["action"] for e in world.history("--guest", GUESTS["beta"])] == ["off"]
    assert [e["action"] for e in world.history("--guest", "alpha", "--since", "1h")] == ["reboot"]
    assert world.history("--since", "2100-01-01") == []
    lines = world.show("history").stdout.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  reboot  alpha +ok +\d+ ms  127.0.0.1 \(tcp\)$", lines[0])


def test_history_follows(world: World) -> None:
    world.fence("off", "alpha")
    argv = [world.vmfence.vmfence, "host", "history", "-f", str(world.config), "--follow", "--json"]
    with Daemon(argv, world.folder / "followed") as following:
        following.wait_for_line('"alpha"')
        world.fence("off", "beta")
        following.wait_for_line('"beta"')


def test_history_shows_foreign_text_as_escapes_and_as_json_unchanged(world: World) -> None:
    """Names and errors are libvirt's, and it lets much pass."""
    name, detail = "gu\u202eest", "no\x1b[2J\x9b\r\nway"
    world.daemon.stop()
    writer = History(str(world.folder / "state"))
    writer.add(Event(time.time(), "off", name, "", "10.88.0.11", "tcp", "failed", 1, detail))
    writer.close()
    (line,) = world.show("history").stdout.split("\n")[:-1]
    assert "gu\\u202eest " in line
    assert line.endswith("  no\\x1b[2J\\x9b\\r\\nway")
    assert [(event["guest"], event["detail"]) for event in world.history("-H", name)] == [(name, detail)]


def test_history_without_a_record_says_so(world: World) -> None:
    empty = world.show("history")
    assert (empty.exit, empty.stdout, "has no record." in empty.stderr) == (0, "", True)
    world.fence("off", "alpha")
    for words in ("--guest", "beta"), ("--since", "2100-01-01"), ("--json", "-H", "beta", "--since", "2100-01-01"):
        result = world.show("history", *words)
        assert (result.exit, result.stdout) == (0, "")
        assert all(word in result.stderr for word in words if not word.startswith("-"))
    assert world.show("history", "-H", "alpha").stderr == ""


def test_history_of_no_guest_is_a_usage_error(world: World) -> None:
    """The UUID of a guest that nobody knows is empty, too."""
    world.fence("on", "nobody")
    result = world.show("history", "-H", "")
    assert (result.exit, result.stdout) == (2, "")
    assert result.stderr.startswith("error: Invalid value for '-H' / '--guest': it is empty")


def test_a_list_that_is_refused_names_the_hash(world: World) -> None:
    """The daemon requires sha256, unless told otherwise."""
    result = world.vmfence.run(
        "list", "-T", "127.0.0.1", "-p", str(world.port), "-k", str(world.key), "-c", "sha1", "-t", "5"
    )
    assert (result.exit, "a weaker hash than it requires" in result.stderr) == (1, True)


@pytest.mark.parametrize("text", ["yesterday", "\u0662h", "\u0662\u0660\u0662\u0666-11-23"])
def test_history_of_a_bad_time_is_a_usage_error(world: World, text: str) -> None:
    result = world.show("history", "--since", text)
    assert (result.exit, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and " is no time." in result.stderr


def test_control_socket_is_for_root_and_its_group(world: World) -> None:
    mode = (world.folder / "control").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert not mode & stat.S_IRWXO


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\n", "expected one line"),
        (b"[]\n", "expected one line"),
        (b"\xff\xfe\n", "expected one line"),
        (b'{"version": 2, "command": "status"}\n', "version 2 is not known"),
        (b'{"version": 1, "command": "stop"}\n', "command 'stop' is not known"),
    ],
)
def test_control_socket_answers_nonsense_with_an_error(world: World, line: bytes, error: str) -> None:
    assert error in ask(world.folder / "control", line)["error"]
    assert world.status()["pid"] == world.daemon.pid


def test_silent_and_endless_control_clients_cost_nobody_else(world: World) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for connection in silent:
        connection.connect(str(world.folder / "control"))
    with socket.socket(socket.AF_UNIX) as endless:
        endless.connect(str(world.folder / "control"))
        with pytest.raises(OSError, match="."):
            for _ in range(1000):
                endless.sendall(b"x" * 65536)
    assert world.fence("status", "alpha").exit == 0
    for connection in silent:
        connection.close()
    wait_until(lambda: world.show("status").exit == 0, 15)


def test_no_daemon_is_exit_4(world: World) -> None:
    world.daemon.stop()
    result = world.show("status")
    assert result.exit == 4
    assert result.stderr.startswith("error: no daemon answers at ")
    assert not (world.folder / "control").exists()


def test_a_killed_daemons_socket_is_taken_over(world: World) -> None:
    world.daemon.kill()
    with world.vmfence.daemon(world.config) as second:
        assert world.status()["pid"] == second.pid


def test_a_second_daemon_does_not_take_the_socket(world: World, vmfence: CommandLine) -> None:
    result = vmfence.run("host", "daemon", "-f", str(world.config))
    assert result.exit == 1
    assert result.stderr.startswith("error: another vmfence daemon runs and has ")
    assert world.status()["pid"] == world.daemon.pid


def test_status_by_socket_reads_no_configuration(world: World, vmfence: CommandLine) -> None:
    result = vmfence.run("host", "status", "--socket", str(world.folder / "control"), "-f", "/nonexistent")
    assert result.exit == 0, result.stderr


def test_keygen_makes_a_key_once(tmp_path: Path, vmfence: CommandLine) -> None:
    path = tmp_path / "new" / "key"
    made = vmfence.run("host", "keygen", str(path))
    assert made.exit == 0, made.stderr
    first = path.read_bytes()
    assert (len(first), stat.S_IMODE(path.stat().st_mode)) == (4096, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = vmfence.run("host", "keygen", str(path))
    assert (again.exit, path.read_bytes()) == (1, first)
    forced = vmfence.run("host", "keygen", str(path), "--force", "--bytes", "64")
    assert (forced.exit, "the old key stands beside it" in forced.stderr) == (0, True)
    assert len(path.read_bytes()) == 64
    (kept,) = [other for other in path.parent.iterdir() if other != path]
    assert kept.read_bytes() == first


def test_keygen_tells_that_the_key_was_made_where_its_output_is_lost(tmp_path: Path, vmfence: CommandLine) -> None:
    path = tmp_path / "key"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [vmfence.vmfence, "host", "keygen", str(path)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1 and path.stat().st_size == 4096
    assert done.stderr.startswith("error: not all output could be written. No space left on device")
    assert f"the key was made; to see it run: vmfence host keygen --check {path}" in done.stderr


def test_keygen_with_force_speaks_of_no_old_key_where_none_was(tmp_path: Path, vmfence: CommandLine) -> None:
    forced = vmfence.run("host", "keygen", str(tmp_path / "key"), "--force")
    assert (forced.exit, forced.stderr) == (0, "")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_keygen_tells_a_path_that_is_not_utf8(tmp_path: Path, vmfence: CommandLine, more: tuple[str, ...]) -> None:
    path = tmp_path / "k\udcff"
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    made = run_client(vmfence.vmfence, ["host", "keygen", str(path), *more], env=strict)
    assert (made.exit, made.stderr) == (0, "")
    assert (json.loads(made.stdout)["path"] if more else made.stdout.splitlines()[0]) == str(path)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"\0" * 4096, "a known weak one"),
        (b"1234567890123456\n", "a known weak one"),
        (b"d41d8cd98f00b204e9800998ecf8427e  ks.cfg\n", "the key is text"),
        (bytes(range(20)), "the key is short"),
        (os.urandom(5000), "only 4096 count"),
        (os.urandom(4096), ""),
    ],
)
def test_keygen_judges(tmp_path: Path, vmfence: CommandLine, content: bytes, warning: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    result = vmfence.run("host", "keygen", "--check", str(path))
    assert result.exit == (1 if "known weak" in warning else 0)
    assert warning in result.stderr
    assert bool(warning) == bool(result.stderr)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_keygen_refuses_what_everybody_may_use(tmp_path: Path, vmfence: CommandLine, mode: int) -> None:
    path = write_key(tmp_path / "key")
    path.chmod(mode)
    result = vmfence.run("host", "keygen", "--check", str(path))
    assert result.exit == 1
    assert f"chmod 0600 {path}" in result.stderr


def test_status_tells_what_was_changed_since_it_was_read(world: World) -> None:
    assert world.status()["stale"] == []
    write_key(world.key)
    assert world.status()["stale"] == [str(world.key)]
    assert f"changed since the daemon read it: {world.key}" in world.show("status").stdout
    world.daemon.signal(signal.SIGHUP)
    world.daemon.wait_for_line("reloaded: ")
    assert world.status()["stale"] == []


def test_a_refused_reload_is_told_and_changes_nothing(world: World) -> None:
    old = world.folder / "state"
    assert world.fence("off", "alpha").exit == 0
    text = world.config.read_text()
    world.config.write_text(text.replace(str(old), str(world.folder / "elsewhere")))
    world.daemon.signal(signal.SIGHUP)
    world.daemon.wait_for_line("reload refused")
    found = world.status()
    assert (found["stale"], found["state_dir"]) == ([str(world.config)], str(old))
    assert "state_dir cannot change" in found["refused_reload"]["reason"]
    assert "reload refused at " in world.show("status").stdout
    shown = world.show("history")
    assert "alpha" in shown.stdout and f"the daemon that runs writes to {old}, not to " in shown.stderr
    checked = json.loads(world.show("check", "--json", "--only", "host-daemon-stale").stdout)
    [finding] = checked["findings"]
    assert finding["severity"] == "error" and "state_dir cannot change" in finding["evidence"]
    world.config.write_text(text)
    world.daemon.signal(signal.SIGHUP)
    world.daemon.wait_for_line("reloaded: ")
    assert (world.status()["refused_reload"], world.status()["stale"]) == (None, [])


def test_a_daemon_that_hangs_is_told_with_its_process(world: World) -> None:
    world.daemon.signal(signal.SIGSTOP)
    try:
        status, checked = world.show("status"), world.show("check", "--json", "--only", "host-daemon")
    finally:
        world.daemon.signal(signal.SIGCONT)
    told = f"process {world.daemon.pid} runs and does not answer"
    assert (status.exit, told in status.stderr, "start it:" in status.stderr) == (4, True, False)
    [finding] = json.loads(checked.stdout)["findings"]
    assert told in finding["evidence"] and "no daemon runs" not in finding["message"]


def test_a_faulty_configuration_does_not_hide_the_daemon(world: World) -> None:
    world.fence("off", "alpha")
    world.config.write_text(world.config.read_text() + "oops")
    status, history, listed = world.show("status"), world.show("history"), world.show("list")
    for result in status, history:
        assert result.exit == 0 and result.stderr.startswith("warning: "), result
    assert f"process {world.daemon.pid}," in status.stdout and "alpha" in history.stdout
    assert listed.exit == 1 and "alpha" in listed.stdout and "not known" in listed.stdout, listed
    assert listed.stderr.startswith("error: ")
    checked = json.loads(world.show("check", "--json").stdout)
    assert [one["code"] for one in checked["findings"] if one["severity"] == "error"] == ["host-configuration"]
    assert {"host-daemon", "host-listener", "host-libvirt", "host-rejected"} <= set(checked["passed"])
    named = world.vmfence.run("host", "status", "-f", "/nonexistent")
    assert named.exit == 1 and named.stdout == ""


def test_status_tells_when_libvirt_answered(world: World) -> None:
    world.fence("status", "alpha")
    [hypervisor] = world.status()["hypervisors"]
    assert 0 < time.time() - hypervisor["answered_at"] < 3600 and hypervisor["calls"] == 0
    assert ": answered at 2" in world.show("status").stdout


def test_status_tells_who_was_answered_and_what_failed(world: World) -> None:
    assert world.fence("on", "nobody").exit == 1
    found = world.status()
    [failed] = found["last_failed"]
    assert (failed["origin"], failed["action"]) == ("127.0.0.1", "on") and "nobody" in failed["reason"]
    assert list(found["last_answered"]) == ["127.0.0.1"]
    assert "127.0.0.1 on failed: no guest is called nobody" in world.show("status").stdout


def test_a_start_that_fails_speaks_of_no_stop(world: World) -> None:
    world.daemon.stop()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", world.port))
        taken.listen(1)
        failed = world.vmfence.run("host", "daemon", "-f", str(world.config))
    assert (failed.exit, "stopping" in failed.stderr) == (1, False)


def test_status_tells_what_is_gone(world: World) -> None:
    world.key.unlink()
    assert world.status()["stale"] == [str(world.key)]
    assert f"gone since the daemon read it: {world.key}; put it back" in world.show("status").stdout


def test_status_tells_what_the_history_lacks(world: World) -> None:
    state = world.folder / "state"
    world.fence("off", "alpha")
    assert "history:" not in world.show("status").stdout
    state.rename(world.folder / "gone")
    assert world.fence("on", "alpha").exit == 0
    assert world.status()["history"] == {"lost": 1, "trouble": "No such file or directory"}
    lost = "history: 1 record could not be written, the last one: No such file or directory"
    assert lost in world.show("status").stdout
    state.mkdir()
    world.fence("off", "alpha")
    assert "history: 1 record could not be written; it works again" in world.show("status").stdout
    assert [event["action"] for event in world.history()] == ["off"]


def test_status_tells_that_signatures_are_not_kept(world: World) -> None:
    with contextlib.closing(sqlite3.connect(world.folder / "state" / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # somebody holds the file
        assert world.fence("off", "alpha").exit == 0
        assert world.status()["signatures"] == {"trouble": "database is locked"}
        lost = "accepted signatures: not kept on disk, so after a restart recordings of them count as new: database is"
        assert lost in world.show("status").stdout
    assert world.fence("on", "alpha").exit == 0
    assert world.status()["signatures"] == {"trouble": ""}
    assert "accepted signatures" not in world.show("status").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("host", "setup", "-f"),
        ("host", "setup", "--uri"),
        ("host", "setup", "--key-file"),
        ("host", "configure", "-f"),
        ("host", "configure", "--key-file"),
        ("host", "daemon", "-f"),
        ("host", "daemon", "-p"),
        ("host", "list", "--uri"),
        ("host", "list", "-f"),
        ("host", "status", "-s"),
        ("host", "history", "-f"),
        ("host", "check", "-f"),
        ("host", "keygen"),
        ("guest", "list", "-T"),
        ("cluster", "fence"),
    ],
)
def test_empty_values_choose_nothing(vmfence: CommandLine, words: tuple[str, ...]) -> None:
    """As of a variable that is not set."""
    result = vmfence.run(*words, "")
    assert (result.exit, result.stdout) == (2, "")
    assert "it is empty" in result.stderr


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_keygen_replaces_nothing_but_files(tmp_path: Path, vmfence: CommandLine, kind: str) -> None:
    path, other = tmp_path / "key", tmp_path / "other"
    {"folder": path.mkdir, "link": lambda: path.symlink_to(other), "fifo": lambda: os.mkfifo(path)}[kind]()
    for force in ((), ("--force",)):
        result = vmfence.run("host", "keygen", *force, str(path))
        assert (result.exit, "is no regular file" in result.stderr) == (1, True)
    assert not path.is_file()
    assert not other.exists()


@pytest.mark.parametrize("content", ["fence_virtd { }", "12 monkeys", "0x1F"])
def test_a_pid_file_that_holds_something_else_is_left_alone(world: World, content: str) -> None:
    precious = world.folder / "precious"
    precious.write_text(content)
    world.daemon.stop()
    result = world.vmfence.run("host", "daemon", "-f", str(world.config), "-p", str(precious))
    assert (result.exit, precious.read_text()) == (1, content)
    assert f"{precious} is no pid file" in result.stderr


def test_an_old_pid_file_is_taken_over(world: World) -> None:
    old = world.folder / "pid"
    old.write_text("4711\n")
    world.daemon.stop()
    with world.vmfence.daemon(world.config, options=("-p", str(old))) as daemon:
        assert old.read_text() == str(daemon.pid)
    assert not old.exists()
