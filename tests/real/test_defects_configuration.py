"""Part E of the reference's defects, configuration: D32, quiet acceptance.

Not applicable yet: what D32 says of the wizard.  Modes of key files: test_defects_authentication.py (D15); reload:
tests/system/test_faults_life.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import wire
from lab.ours import CommandLine
from lab.process import run_client
from lab.rig import ALPHA, Rig, no_trace, refused


@pytest.fixture
def config(vmfence: CommandLine, tmp_path: Path) -> Path:
    """A configuration that is right; not running."""
    return Rig(vmfence, tmp_path).config


def edited(config: Path, old: str, new: str) -> Path:
    """Replace *old*, which must be there, by *new*."""
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    return config


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("tcp { ", 'tcp { prot = "1"; ', "did you mean 'port'"),
        ("tcp { ", "frob { } tcp { ", "unknown section 'frob'"),
        ("fence_virtd {", 'fence_virtd { listner = "x"; ', "did you mean 'listener'"),
        ('port = "', 'port = "65536"; debug_port = "', "65535"),
        ('port = "', 'port = "9', "65535"),
        ('port = "', 'port = "0"; hash = "sha256"; auth = "', ""),
        ('listener = "tcp"', 'listener = "tpc"', "did you mean 'tcp'"),
        ('backend = "libvirt"', 'backend = "libvrt"', "did you mean 'libvirt'"),
        ('uri = "', 'url = "', "'uri' is missing"),
        ("listeners {", "listeners { } listeners {", "given twice"),
        ('address = "127.0.0.1"', 'address = "225.0.0.12"', "multicast address"),
        ('address = "127.0.0.1"', 'address = "198.51.100.77"', "no interface of this machine has that address"),
        ('address = "127.0.0.1"', 'address = "127.0.0.1"; hash = "md5"', "hash"),
        ('address = "127.0.0.1"', 'address = ""', "is empty"),
        ('address = "127.0.0.1"', "address = 127.0.0.1", ""),
        ("backends {", "backends ", ""),
        ('listener = "tcp"', 'listener = "tcp serial"', "without groups every guest could fence every other"),
    ],
)
def test_d32_what_is_not_understood_is_refused(
    vmfence: CommandLine, config: Path, old: str, new: str, told: str
) -> None:
    text = refused(vmfence, edited(config, old, new))
    assert told in text
    assert str(config) in text or "198.51.100.77" in text


def test_d32_every_fault_is_told_with_its_line(vmfence: CommandLine, config: Path) -> None:
    config.write_text('fence_virtd {\n listener = "tcp";\n backend = "libvirt";\n bogus = "1";\n}\nfrob { }\n')
    text = refused(vmfence, config)
    for line in (f"{config}:4: unknown key 'bogus'", f"{config}:6: unknown section 'frob'", "'uri' is missing"):
        assert line in text


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", b"\0", b"\xff\xfe\xff", b"{" * 1000, b'"' * 99, b"a" * 2000000]
)
def test_d32_files_that_are_none(vmfence: CommandLine, config: Path, content: bytes) -> None:
    config.write_bytes(content)
    assert str(config) in refused(vmfence, config)


def test_d32_a_missing_file_or_a_folder(vmfence: CommandLine, tmp_path: Path) -> None:
    assert "does not exist" in refused(vmfence, tmp_path / "nowhere")
    assert "no regular file" in refused(vmfence, tmp_path)


@pytest.mark.parametrize("interface", ["br1", "br00", "eth9"])
def test_d32_an_interface_that_does_not_exist_is_told(vmfence: CommandLine, tmp_path: Path, interface: str) -> None:
    rig = Rig(vmfence, tmp_path, listeners={"multicast": {"interface": interface}})
    assert f"interface {interface} does not exist" in refused(vmfence, rig.config)


def test_d32_carriage_returns_are_no_error(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = Rig(vmfence, tmp_path)
    rig.config.write_bytes(rig.config.read_bytes().replace(b"\n", b"\r\n"))
    with rig:
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE


def test_d32_no_mode_is_changed(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = Rig(vmfence, tmp_path)
    rig.config.chmod(0o644)
    rig.key.chmod(0o640)
    with rig:
        assert rig.ask(wire.STATUS, ALPHA) == wire.DONE
    assert (rig.config.stat().st_mode & 0o777, rig.key.stat().st_mode & 0o777) == (0o644, 0o640)


def test_d32_no_key_is_needed_where_none_is_used(vmfence: CommandLine, tmp_path: Path) -> None:
    settings = {"hash": "none", "auth": "none", "key_file": tmp_path / "missing"}
    with Rig(vmfence, tmp_path, tcp=settings, daemon='allow_unauthenticated = "yes";') as rig:
        with rig.send(wire.packet(wire.STATUS, ALPHA, kind=wire.NONE)) as peer:
            assert peer.converse(b"", wire.NONE) == wire.DONE
        words = ("-T", rig.address, "-p", str(rig.port), "-c", "none", "-C", "none", "-o", "status", "-n", ALPHA)
        assert vmfence.fence(*words).exit == 0


@pytest.mark.parametrize("words", [["--frobnicate"], ["-f"], ["extra"], ["-d", "x"], ["-l"]], ids=" ".join)
def test_d32_usage_errors_are_no_success(vmfence: CommandLine, config: Path, words: list[str]) -> None:
    result = run_client(vmfence.vmfence, ["host", "daemon", "-f", str(config), *words])
    assert result.exit == 2
    assert result.stderr and no_trace(result.stderr)


def test_d32_a_second_daemon_on_the_port_is_told(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path / "one") as rig:
        other = Rig(vmfence, tmp_path / "two", tcp={"port": rig.port})
        told = refused(vmfence, other.config)
        assert "another daemon listens there" in told and str(rig.port) in told
        rig.serves()


def test_d32_a_second_daemon_on_the_control_socket_is_told(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path / "one") as rig:
        other = Rig(vmfence, tmp_path / "two")
        other.config.write_text(other.config.read_text().replace("two/control", "one/control"))
        assert "control" in refused(vmfence, other.config)
        rig.serves()
        assert vmfence.run("host", "status", "-f", str(rig.config)).exit == 0
