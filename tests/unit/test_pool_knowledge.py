"""What a host keeps of its pool: on the disk, and from the fencer's history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmfence.errors import VmfenceError
from vmfence.host.pool import record
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.fenced import find_fenced, was_fenced_since
from vmfence.host.pool.messages import Entry, Listing

ALPHA = Entry("älpha", "11111111-2222-3333-4444-555555555501", 1)
SAMPLES = Path(__file__).parents[1] / "samples"


def known() -> Directory:
    """Hosts 1 (this one), 2 with a guest, and 3 that has left with the same one shut off."""
    directory = Directory()
    directory.me = 1
    directory.set_configured({1: "h1", 2: "h2", 3: "h3"})
    directory.set_members(frozenset({1, 2, 3}), 10.0, 1000.0)
    for node, guests in ((1, ()), (2, (ALPHA,)), (3, (Entry("älpha", ALPHA.uuid, 5, True),))):
        directory.greeted(node)
        directory.listed(node, Listing(guests, (), True, True), 11.0)
    directory.set_members(frozenset({1, 2}), 12.0, 1002.0)
    return directory


def test_what_was_known_is_known_after_a_restart(tmp_path: Path) -> None:
    record.save(str(tmp_path), record.take(known()))
    loaded = record.load(str(tmp_path), 2000.0)
    assert loaded[3] == (1002.0, (Entry("älpha", ALPHA.uuid, 5, True),))
    # Nobody saw when host 2 left, if it did: a fence of before does not count.
    assert loaded[2] == (2000.0, (ALPHA,))
    again = Directory(loaded)
    again.set_members(frozenset({1}), 20.0, 2001.0)
    assert {away.node: away.entry for away in again.away("älpha")} == {2: ALPHA, 3: Entry("älpha", ALPHA.uuid, 5, True)}
    assert again.last_active(ALPHA.uuid) == 2
    assert (tmp_path / record.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert record.load(str(tmp_path), 1.0) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hosts": {"x": 1}}', '{"hosts": {"2": {"left_at": 1}}}', "\xff"])
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(VmfenceError, match="damaged"):
        record.load(str(tmp_path), 1.0)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / record.FILE_NAME).mkdir()
    with pytest.raises(VmfenceError, match="cannot read"):
        record.load(str(tmp_path), 1.0)


def test_a_host_taken_out_of_the_configuration_is_forgotten() -> None:
    directory = known()
    directory.set_configured({1: "h1", 2: "h2"})
    assert directory.away("älpha") == ()


def test_a_departed_host_excuses_itself_only_by_what_ran_since() -> None:
    directory = known()
    assert directory.away("älpha")[0].is_excused is False
    directory.see(2, (ALPHA,), 13.0)
    assert directory.away("älpha")[0].is_excused is True
    directory.set_members(frozenset({1, 2, 4}), 14.0, 1004.0)  # what a newcomer knows may be newer
    assert directory.away("älpha")[0].is_excused is False


def test_a_guest_that_left_is_nobodys() -> None:
    directory = known()
    assert directory.last_active("älpha") == 2
    directory.listed(2, Listing((Entry("älpha", ALPHA.uuid, 5, True),), number=1), 15.0)
    assert directory.last_active(ALPHA.uuid) == 0


HISTORY = """<pacemaker-result api-version="2.25" request="stonith_admin"><fence_history>
<fence_event action="reboot" target="h3" client="c" origin="h1" status="success" completed="2026-11-22 14:53:00Z"/>
<fence_event action="reboot" target="h4" client="c" origin="h1" status="failed" completed="2026-11-22 14:53:00Z"/>
<fence_event action="on" target="h5" client="c" origin="h1" status="success" completed="2026-11-22 14:53:00Z"/>
<fence_event action="off" target="h6" client="c" origin="h1" status="success" completed="nonsense"/>
</fence_history></pacemaker-result>"""
AT = 1795359180.0  # 2026-11-22 14:53:00 UTC


def test_the_history_of_the_fencer() -> None:
    now = AT + 60
    assert was_fenced_since(HISTORY, "h3", AT - 10, now)
    assert was_fenced_since(HISTORY, "h3", AT + 0.9, now)  # its times are whole seconds
    assert not was_fenced_since(HISTORY, "h3", AT + 1, now)
    for other in ("h4", "h5", "h6", "h7", ""):
        assert not was_fenced_since(HISTORY, other, 0.0, now)
    with pytest.raises(VmfenceError):
        was_fenced_since("rubbish", "h3", 0.0, now)


def test_a_fencing_of_the_future_is_of_a_clock_that_is_wrong() -> None:
    """It may be one of before the host left."""
    assert was_fenced_since(HISTORY, "h3", AT - 10, AT - 4)
    with pytest.raises(VmfenceError, match="h3 was fenced 3600 s from now"):
        was_fenced_since(HISTORY, "h3", AT - 3700, AT - 3600)
    assert not was_fenced_since(HISTORY, "h7", AT - 3700, AT - 3600)
    both = HISTORY.replace("</fence_history>", HISTORY[HISTORY.index("<fence_event") : HISTORY.index("</fence_h")])
    both = both.replace("14:53:00", "13:53:00", 1).replace("</pacemaker-result>", "</fence_history></pacemaker-result>")
    assert was_fenced_since(both, "h3", AT - 3700, AT - 3600)


def test_a_command_tells_who_was_fenced(tmp_path: Path) -> None:
    command = tmp_path / "was-fenced"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$1" = h3 ]\n')
    command.chmod(0o755)
    assert find_fenced(((3, 5.5), (4, 6.0)), {3: "h3", 4: "h4"}, str(command)) == {3}
    assert (tmp_path / "asked").read_text() == "h3 3 5\nh4 4 6\n"


@pytest.mark.parametrize("text", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\nkill -9 $$\n"])
def test_no_answer_is_not_fenced(tmp_path: Path, text: str | None) -> None:
    command = tmp_path / "was-fenced"
    if text is not None:
        command.write_text(text)
        command.chmod(0o755)
    assert find_fenced(((3, 5.5),), {3: "h3"}, str(command)) == frozenset()


def test_the_record_is_plain(tmp_path: Path) -> None:
    record.save(str(tmp_path), record.take(known()))
    assert json.loads((tmp_path / record.FILE_NAME).read_text())["version"] == 1
