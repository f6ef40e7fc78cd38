"""Whether anybody has accepted a connection, asked of the kernel of this machine."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmfence.host.listeners import acceptance
from vmfence.host.listeners.acceptance import Acceptances


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        made.listen(1)
        yield made


@pytest.fixture
def connected(listening: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(listening.getsockname())
        yield made


def test_nobody_has_accepted_until_somebody_does(listening: socket.socket, connected: socket.socket) -> None:
    acceptances = Acceptances()
    assert acceptances.is_missing(connected)
    other, _ = listening.accept()
    with other:
        assert not acceptances.is_missing(connected)
        assert not acceptances.is_missing(other)
    assert acceptances.is_missing(connected), "it is closed"


def test_the_second_one_waits_for_the_first_to_leave(listening: socket.socket, connected: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as second:
        second.connect(listening.getsockname())
        with listening.accept()[0]:
            acceptances = Acceptances()
            assert (acceptances.is_missing(connected), acceptances.is_missing(second)) == (False, True)


def test_a_closed_socket_is_nothing_to_ask_about(connected: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    connected.close()
    assert not Acceptances().is_missing(connected)
    assert not caplog.records


def test_a_kernel_that_does_not_tell_is_asked_once(
    connected: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    acceptances = Acceptances()
    monkeypatch.setattr(acceptance, "_SOCK_DIAG_BY_FAMILY", 99)  # a message that no kernel knows
    assert not acceptances.is_missing(connected)
    assert not acceptances.is_missing(connected)
    (record,) = caplog.records
    assert "does not tell whether anybody accepts" in record.getMessage()


def test_an_answer_that_ends_early() -> None:
    answer = struct.pack("=IHHIIBBBBIIIHHI", 40, 20, 0, 1, 0, 1, 1, 1, 0, 7, 0, 0, 8, 2, 5)
    assert acceptance._parse(answer) == 5
    assert {acceptance._parse(answer[:end]) for end in range(32, len(answer))} == {0}
