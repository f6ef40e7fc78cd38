"""A guest that was running here, and is shut off by nobody knows what: it may run where it was migrated to."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmfence.host.pool import record
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.messages import Entry, Listing, Message, Sight
from vmfence.host.pool.own import OwnGuests

UUID = "11111111-2222-3333-4444-555555555501"
RUNNING, PAUSED, OFF = (Entry("alpha", UUID, state) for state in (1, 3, 5))
UNEXPLAINED = Entry("alpha", UUID, 5, is_unexplained=True)


def joined(directory: Directory) -> OwnGuests:
    """Return the guests of host 1, which has joined the group."""
    own = OwnGuests(directory, lambda _: None)
    directory.me = 1
    directory.set_members(frozenset({1}), 1.0, 1.0)
    own.joined()
    return own


def restarted(folder: Path, *guests: Entry) -> OwnGuests:
    """Return host 1 after a restart of the daemon; the record has these guests."""
    directory = Directory()
    joined(directory)
    directory.greeted(1)
    directory.listed(1, Listing(guests, (), True, True), 1.0)
    record.save(str(folder), record.take(directory))
    return joined(record.load(str(folder), 2.0))


def is_off(own: OwnGuests, *seen: Entry) -> bool:
    """Read the guests so, one time after the other; tell whether it may be called off at last."""
    for each in seen:
        own.read([each])
    found = own.recall(seen[-1])
    assert not found.is_unexplained  # nobody else is told
    return found.is_off


def test_what_libvirt_has_forgotten_is_not_taken_for_an_end() -> None:
    """libvirtd was restarted, and forgets that the guest was migrated away; nobody saw it go."""
    for before in (RUNNING, PAUSED):
        own = joined(Directory())
        assert not is_off(own, before, UNEXPLAINED)
        assert not is_off(own, UNEXPLAINED, OFF)
        assert is_off(own, RUNNING, OFF)  # until it was here again


def test_what_was_off_before_is_off_for_whatever_reason() -> None:
    assert is_off(joined(Directory()), UNEXPLAINED)
    assert is_off(joined(Directory()), RUNNING, OFF, UNEXPLAINED)


def test_a_look_before_the_guests_were_read_again_says_so_too() -> None:
    own = joined(Directory())
    own.read([RUNNING])
    assert not own.recall(UNEXPLAINED).is_off
    assert own.recall(OFF).is_off is False


def test_what_was_running_when_the_daemon_stopped_may_be_elsewhere(tmp_path: Path) -> None:
    assert not is_off(restarted(tmp_path, RUNNING), UNEXPLAINED)
    assert not is_off(restarted(tmp_path, RUNNING), UNEXPLAINED, UNEXPLAINED)
    assert is_off(restarted(tmp_path, RUNNING), OFF)
    assert is_off(restarted(tmp_path, OFF), UNEXPLAINED)


def test_what_was_running_when_the_host_went_down_has_ended_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the guests of a host that has crashed could never be started again."""
    folder, boot = tmp_path / "state", tmp_path / "boot_id"
    folder.mkdir()
    monkeypatch.setattr(record, "BOOT_ID", str(boot))
    boot.write_text("first\n")
    restarted(folder, RUNNING)
    boot.write_text("second\n")
    assert is_off(joined(record.load(str(folder), 3.0)), UNEXPLAINED)
    boot.write_text("first\n")
    assert not is_off(joined(record.load(str(folder), 3.0)), UNEXPLAINED)
    boot.unlink()  # not known: then nothing is presumed
    assert not is_off(restarted(folder, RUNNING), UNEXPLAINED)


def test_a_record_of_before_boots_were_noted_is_of_another(tmp_path: Path) -> None:
    (tmp_path / record.FILE_NAME).write_text('{"version":1,"hosts":{}}')
    assert not record.load(str(tmp_path), 1.0).is_of_this_boot


class Seat:
    """Host 1 and what it sends; hosts 2 and 3 come and go."""

    def __init__(self, directory: Directory, is_quorate: bool = True) -> None:
        self.sent: list[Message] = []
        self.directory = directory
        self.own = OwnGuests(directory, self.sent.append)
        directory.me = 1
        directory.set_quorate(is_quorate, 1.0)
        self.own.joined()
        self.members(1)  # nobody hears that

    def members(self, *nodes: int) -> list[Message]:
        """Let these be in the group; return what the host tells of how much it knows."""
        if self.directory.set_members(frozenset(nodes), 1.0, 1.0):
            self.own.somebody_joined(1.0)
        return self.sights()

    def sights(self) -> list[Message]:
        found = [message for message in self.sent if isinstance(message, Sight)]
        self.sent.clear()
        return found


def test_the_others_are_told_while_the_guests_cannot_be_read() -> None:
    seat = Seat(Directory())
    seat.own.read([RUNNING])
    assert seat.members(1, 2) == []
    for is_blind in (True, True, False, False, True):
        seat.own.set_blind(is_blind)
    assert seat.sights() == [Sight(True), Sight(False), Sight(True)]
    assert seat.members(1, 2, 3) == [Sight(True)]


def test_a_host_that_has_booted_says_so_to_those_who_can_decide_once(tmp_path: Path) -> None:
    for is_quorate, again in ((True, []), (False, [Sight(has_booted=True)])):
        seat = Seat(record.load(str(tmp_path), 1.0), is_quorate)
        assert seat.members(1, 2) == [Sight(has_booted=True)]
        assert seat.members(1, 2, 3) == again
    record.save(str(tmp_path), record.take(seat.directory))
    assert Seat(record.load(str(tmp_path), 1.0)).members(1, 2) == []  # the daemon alone was started again
