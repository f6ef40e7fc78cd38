"""The check commands as programs: what hangs all at once, options that mean nothing, output that nobody takes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.process import clean_environment
from lab.waiting import wait_until

PROGRAM = str(Path(sys.executable).parent / "vmfence")
LIMIT_S = 10.0  # what the manual promises, and the start of the program: here everything hangs that can
TOOLS = ("firewall-cmd", "nft", "iptables-save", "ip6tables-save", "timedatectl", "systemctl", "ausearch", "getsebool")


def run(*words: str, path: Path | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    env = clean_environment()
    if path is not None:
        env["PATH"] = f"{path}:{env['PATH']}"
    return subprocess.run(
        [PROGRAM, *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A configuration with two listeners and a daemon that hangs, and a folder of tools that all hang."""
    folder, tools = tmp_path / "host", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    for name in TOOLS:
        (tools / name).write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {tools}/{name}.pid\nwait\n")
        (tools / name).chmod(0o755)
    (folder / "key").write_bytes(os.urandom(64))
    (folder / "key").chmod(0o600)
    with socket.socket(socket.AF_UNIX) as daemon, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        daemon.bind(str(folder / "control"))
        daemon.listen(100)
        (folder / "conf").write_text(
            f"""fence_virtd {{ listener = "multicast tcp"; backend = "libvirt"; control_socket = "{folder}/control"; }}
            listeners {{ multicast {{ interface = "lo"; port = "{port}"; key_file = "{folder}/key"; }}
            tcp {{ address = "127.0.0.1"; port = "{port}"; key_file = "{folder}/key"; }} }}
            backends {{ libvirt {{ uri = "test:///default"; }} }}"""
        )
        yield folder / "conf", tools


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the firewall")
def test_when_everything_hangs_the_report_is_there_in_time(hanging: tuple[Path, Path]) -> None:
    config, tools = hanging
    done = run("host", "check", "--json", "-f", str(config), path=tools, timeout_s=LIMIT_S)
    found = json.loads(done.stdout)
    told = {one["code"]: one for one in found["findings"]}
    assert (done.returncode, done.stderr) == (1, "") and told["host-daemon"]["severity"] == "error"
    assert told["host-firewall-back-unread"]["severity"] == "warning"
    shown = " ".join(one["message"] + one["evidence"] for one in found["findings"])
    for name in ("firewall-cmd", "nft", "iptables-save"):
        assert f"{name} did not end within" in shown
    assert {"host-unanswered"} & {*told, *(one["code"] for one in found["not_judged"])}
    for pid in (int(path.read_text()) for path in tools.glob("*.pid")):
        wait_until(lambda pid=pid: not _is_running(pid), what="the end of what a tool had started")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_check_that_cannot_be_made_has_one_exit_code_however_it_is_named() -> None:
    gone = ("host", "check", "-f", "/no/such/file")
    assert run(*gone, "--only", "host-key-missing").returncode == 4
    assert run(*gone, "--skip", "host-configuration").returncode == 4
    assert run(*gone).returncode == 1


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("host", "check", "--only", "host-daemon", "--skip", "host-daemon"), "no check is left"),
        (("guest", "check", "--only", "guest-key", "--skip", "guest-key"), "no check is left"),
        (("host", "check", "--yes"), "--yes answers the question of --fix"),
        (("guest", "check", "--yes"), "--yes answers the question of --fix"),
        (("cluster", "check", "--yes"), "--yes answers the question of --fix"),
        (("guest", "check", "--watch", "--json"), "--json means nothing with --watch"),
        (("guest", "check", "--watch", "--fix"), "--fix means nothing with --watch"),
        (("guest", "check", "--watch", "-q"), "--quiet means nothing with --watch"),
        (("guest", "check", "--interval", "5"), "--interval means nothing without --watch"),
        (("guest", "check", "--count", "5"), "--count means nothing without --watch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_mean_nothing_are_no_success(words: tuple[str, ...], what: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "") and what in done.stderr


def test_a_full_disk_is_told_as_one() -> None:
    with open("/dev/full", "w") as full:
        words = [PROGRAM, "host", "check", "-f", "/no/such/file"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: not all output could be written. No space left on device.")


def test_fix_without_anybody_to_ask_shows_the_report(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o644)
    done = run("guest", "check", "--fix", "-t", "0.1", "-k", str(key), "-T", "127.0.0.1", "-p", "1")
    assert done.returncode == 2 and "guest-key: " in done.stdout and "--yes" in done.stderr
    assert key.stat().st_mode & 0o777 == 0o644


def test_a_watch_ends_when_nobody_reads_it() -> None:
    """Not only when it has a next line to write."""
    words = [PROGRAM, "guest", "check", "--watch", "--interval", "1000", "-k", "/no/such/key"]
    watch = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert watch.stdout is not None and select.select([watch.stdout], [], [], 60)[0]
    assert b"guest-key" in watch.stdout.readline()
    watch.stdout.close()
    assert watch.wait(60) in (1, 4)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""  # ended meanwhile


def test_ctrl_c_has_its_own_exit_code(hanging: tuple[Path, Path]) -> None:
    config, tools = hanging
    words = [PROGRAM, "host", "check", "-f", str(config)]
    env = {**clean_environment(), "PATH": f"{tools}:{clean_environment()['PATH']}"}
    check = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    wait_until(lambda: any(tools.glob("*.pid")) or check.poll() is not None, timeout=30)
    check.send_signal(signal.SIGINT)
    shown, said = check.communicate(timeout=30)
    assert (check.returncode, shown, said) == (130, "", "error: interrupted.\n")
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(tools) in _command_line(pid)]
