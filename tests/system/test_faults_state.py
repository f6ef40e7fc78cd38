"""The state folder under faults: not writable, damaged, full.  Fencing goes on, replays stay refused where it can be.

libvirt's test driver and loopback; full and read-only disks are small tmpfs in a mount namespace of the daemon.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lab import wire
from lab.ours import CommandLine
from lab.rig import ALPHA, BETA, ON, Rig, no_trace, powerless, refused

pytestmark = pytest.mark.system
FILE = "state/signatures.sqlite"


def on_tmpfs(folder: Path, options: str) -> list[str]:
    """Return the words that begin a command line whose program has a tmpfs at the state folder."""
    state = folder / "state"
    state.mkdir(parents=True)
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {options} none {state} && exec "$@"', "sh"]


def recorded(rig: Rig, request: int = wire.OFF) -> bytes:
    """Hold an honest conversation and return its packet."""
    packet = rig.packet(request, ALPHA)
    with rig.send(packet) as peer:
        assert peer.converse(rig.secret) == wire.DONE
    return packet


def is_refused(rig: Rig, packet: bytes) -> bool:
    with rig.send(packet + os.urandom(64)) as peer:
        return peer.closed()


def seen_by(rig: Rig) -> Path:
    """Return the state folder as the daemon sees it."""
    return Path(f"/proc/{rig.daemon.pid}/root{rig.folder}/state")


# Not writable


def test_a_folder_that_may_not_be_written(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = Rig(vmfence, tmp_path)
    (tmp_path / "state").mkdir(mode=0o500)
    told = refused(vmfence, rig.config, prefix=powerless())
    assert f"{tmp_path}/state" in told and "state_dir" in told


def test_a_disk_that_is_read_only(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = Rig(vmfence, tmp_path)
    assert f"{tmp_path}/state" in refused(vmfence, rig.config, prefix=on_tmpfs(tmp_path, "ro"))


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_folder_that_is_none(vmfence: CommandLine, tmp_path: Path, kind: str) -> None:
    rig = Rig(vmfence, tmp_path)
    if kind == "file":
        (tmp_path / "state").write_text("not a folder")
    else:
        (tmp_path / "state").symlink_to(tmp_path / "nowhere" / "deep")
        (tmp_path / "nowhere").write_text("")
    assert f"{tmp_path}/state" in refused(vmfence, rig.config)


def test_a_folder_that_is_not_there_is_made_for_root_alone(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path) as rig:
        rig.serves()
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


# Damaged


@pytest.mark.parametrize("damage", ["rubbish", "text", "header", "half a page"])
def test_a_damaged_file_is_put_aside(vmfence: CommandLine, tmp_path: Path, damage: str) -> None:
    with Rig(vmfence, tmp_path) as rig:
        old = recorded(rig)
        rig.daemon.signal(signal.SIGTERM)
        assert rig.daemon.wait() == 0
        path = tmp_path / FILE
        content = path.read_bytes()
        spoilt = {
            "rubbish": os.urandom(len(content)),
            "text": b"hello\n" * 1000,
            "header": b"X" + content[1:],
            "half a page": content[:100] + os.urandom(len(content) - 100),
        }[damage]
        path.write_bytes(spoilt)
        rig.start()
        rig.wait_told("is damaged")
        assert [aside.read_bytes() for aside in path.parent.glob("*.damaged-*")] == [spoilt]
        new = recorded(rig)
        assert is_refused(rig, new)
        rig.restart()
        assert is_refused(rig, new)
        assert old != new
        rig.serves()


def test_a_file_damaged_below_a_running_daemon(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path) as rig:
        first = recorded(rig)
        for path in (tmp_path / "state").iterdir():
            if path.name.startswith("signatures"):
                path.write_bytes(os.urandom(8192))
        for _ in range(5):
            packet = recorded(rig)
            assert is_refused(rig, packet)
        rig.power_on(ALPHA)
        rig.serves()
        assert first != packet


def test_files_removed_below_a_running_daemon(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path) as rig:
        packets = [recorded(rig)]
        for path in (tmp_path / "state").iterdir():
            path.unlink()
        packets.append(recorded(rig))
        assert [is_refused(rig, packet) for packet in packets] == [True, True]
        rig.serves()


# Full


def test_a_full_disk_does_not_stop_fencing(vmfence: CommandLine, tmp_path: Path) -> None:
    """It fences, says so once, refuses exact repeats; when there is room again, what comes is kept over a restart."""
    with Rig(vmfence, tmp_path, prefix=on_tmpfs(tmp_path, "size=512k")) as rig:
        before = recorded(rig)
        filler = seen_by(rig) / "filler"
        fill(filler)
        packets = [recorded(rig, request) for request in (wire.ON, wire.OFF, wire.STATUS, wire.REBOOT) * 60
                   if request != wire.STATUS]  # fmt: skip
        rig.wait_told("cannot keep accepted signatures")
        assert rig.told("cannot keep accepted signatures") == 1
        assert all(is_refused(rig, packet) for packet in [before, *packets])
        assert rig.hosts() == {ALPHA: ON, BETA: ON}
        assert no_trace(rig.daemon.log())
        filler.unlink()
        after = recorded(rig)
        rig.wait_told("kept on disk again")
        assert is_refused(rig, after)
        rig.serves()


def fill(path: Path) -> None:
    """Write to *path* until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def test_a_full_disk_at_the_start(vmfence: CommandLine, tmp_path: Path) -> None:
    """Nothing could be remembered: it does not start, and says why."""
    prefix = on_tmpfs(tmp_path, "size=4k")
    told = refused(vmfence, Rig(vmfence, tmp_path).config, prefix=prefix)
    assert f"{tmp_path}/state" in told


# Two daemons on one folder


def test_two_daemons_that_share_the_folder_share_the_memory(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path / "one") as one:
        other = Rig(vmfence, tmp_path / "two", key=one.key)
        other.config.write_text(other.config.read_text().replace("two/state", "one/state"))
        with other:
            packet = recorded(one)
            assert is_refused(other, packet)
            assert is_refused(one, packet)
            assert other.state(ALPHA) == ON
