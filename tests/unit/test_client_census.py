"""How many hosts answer one question: counted by real connections, the datagram alone is played."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from unit.fakes import prove
from vmfence.client import census, multicast
from vmfence.client.failures import NoAnswer
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import Action

SECRET = b"k" * 32


@pytest.fixture()
def call_backs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    """Hosts at the addresses in the list that call back once a question was sent, each with the key given there."""
    hosts: list[tuple[str, bytes]] = []
    threads: list[threading.Thread] = []

    def call(address: str, secret: bytes, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 5, (address, 0)) as connection:
            try:
                prove(connection, Key(secret), Hash.SHA256)
                connection.sendall(b"\0")
            except OSError:
                return  # refused

    def send(request: Any, *_: Any) -> int:
        if not threads:
            threads.extend(threading.Thread(target=call, args=(*one, request.port)) for one in hosts)
            for thread in threads:
                thread.start()
        return 1

    monkeypatch.setattr(multicast, "_send_copies", send)
    yield hosts
    for thread in threads:
        thread.join(5)


def ask_all(settle_s: float = 1.0, timeout_s: float = 5.0) -> list[str]:
    answers = census.count(
        Action.STATUS, "vm-1", port=0, key=Key(SECRET), hash_type=Hash.SHA256, auth=Hash.SHA256,
        timeout_s=timeout_s, settle_s=settle_s,
    )  # fmt: skip
    return sorted(answer.peer for answer in answers)


def test_all_hosts_that_prove_the_key_are_counted_once(call_backs: list[tuple[str, bytes]]) -> None:
    call_backs += [("127.0.0.2", SECRET), ("127.0.0.3", SECRET), ("127.0.0.4", b"x" * 32), ("127.0.0.2", SECRET)]
    assert ask_all() == ["127.0.0.2", "127.0.0.3"]


def test_the_time_is_over_before_hosts_have_settled(call_backs: list[tuple[str, bytes]]) -> None:
    call_backs += [("127.0.0.2", SECRET)]
    assert ask_all(settle_s=3600, timeout_s=1.0) == ["127.0.0.2"]


def test_nobody_answers(call_backs: list[tuple[str, bytes]]) -> None:
    with pytest.raises(NoAnswer):
        ask_all(timeout_s=0.1)


def test_a_census_never_acts() -> None:
    with pytest.raises(AssertionError):
        census.count(
            Action.OFF, "vm-1", port=0, key=None, hash_type=Hash.NONE, auth=Hash.NONE, timeout_s=1
        )  # fmt: skip
