"""Every captured byte of tests/vectors, both ways: our client against the recorded daemon, our daemon against the
recorded client, the packets and frames alone.  Captured from fence_xvm, fence_virt and fence_virtd 4.12.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmfence.errors import SignatureError
from vmfence.protocol import serial
from vmfence.protocol.auth import Hash, Key, sign, verify
from vmfence.protocol.exchange import ChallengeBook, ClientExchange, ClientStage, DaemonExchange
from vmfence.protocol.reply import END_OF_LIST, RECORD_BYTES, Code, Record, RecordReader, decode_record, encode_list
from vmfence.protocol.request import Action, Request, decode, encode

VECTORS = Path(__file__).parent.parent / "vectors"
PIECES = [1, 7, 63, 10_000]
RUBBISH = (63, 127, 129)


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def named(items: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(item, id=item["name"]) for item in items]


KEY = Key(bytes.fromhex(load("key")["hex"]))
REQUESTS = load("requests")["requests"]
CONVERSATIONS = load("conversations")["conversations"]
EXCHANGES = load("serial")["exchanges"]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def steps(conversation: dict[str, Any], *whats: str) -> bytes:
    return b"".join(bytes.fromhex(step["hex"]) for step in conversation["steps"] if step["what"] in whats)


def sent_by(conversation: dict[str, Any], who: str) -> bytes:
    """Return all that *who* sent on the stream, without the request packet."""
    found = (s["hex"] for s in conversation["steps"] if s["from"] == who and s["what"] != "request")
    return bytes.fromhex("".join(found))


def kind_of(conversation: dict[str, Any]) -> Hash:
    return Hash.named(conversation["listener"]["auth"])


def records_of(conversation: dict[str, Any]) -> list[Record]:
    found = (decode_record(bytes.fromhex(s["hex"])) for s in conversation["steps"] if s["what"] == "host-record")
    return [record for record in found if record]


def test_nothing_is_missing() -> None:
    assert (len(REQUESTS), len(CONVERSATIONS), len(EXCHANGES)) == (67, 76, 17)


@pytest.mark.parametrize("vector", named(REQUESTS))
def test_request_fields(vector: dict[str, Any]) -> None:
    request, fields = decode(bytes.fromhex(vector["hex"])), vector["fields"]
    seen = (request.action, request.hash_type, request.flags, request.target, request.port, request.seqno)
    assert seen == tuple(fields[name] for name in ("request", "hashtype", "flags", "domain", "port", "seqno"))
    assert (request.family, request.random.hex()) == (fields["family"], fields["random"])
    assert request.signature.hex() == fields["hash"]
    assert request.address == bytes.fromhex(fields["address"])[: fields["addrlen"]]


@pytest.mark.parametrize("vector", named(REQUESTS))
def test_request_encodes_to_the_same_bytes(vector: dict[str, Any]) -> None:
    fields = vector["fields"]
    request = Request(
        Action(fields["request"]),
        fields["domain"].encode(),
        seqno=fields["seqno"],
        random=bytes.fromhex(fields["random"]),
        address=bytes.fromhex(fields["address"])[: fields["addrlen"]],
        port=fields["port"],
        family=fields["family"],
        flags=fields["flags"],
    )
    assert sign(encode(request), KEY, Hash(fields["hashtype"])).hex() == vector["hex"]


@pytest.mark.parametrize("vector", named(REQUESTS))
def test_request_signature(vector: dict[str, Any]) -> None:
    packet, kind = bytes.fromhex(vector["hex"]), Hash(vector["fields"]["hashtype"])
    assert verify(packet, KEY, Hash.NONE) is kind
    assert vector["signature_valid_with_key"] is (kind is not Hash.NONE)
    if kind is not Hash.NONE:
        assert verify(packet, KEY, kind) is kind
        with pytest.raises(SignatureError):
            verify(packet, Key(b"another key of enough bytes"), Hash.NONE)


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize("vector", named(CONVERSATIONS))
def test_client_side(vector: dict[str, Any], size: int) -> None:
    exchange = ClientExchange(KEY, kind_of(vector), steps(vector, "challenge-by-client"))
    out = exchange.begin()
    for piece in pieces(sent_by(vector, "daemon"), size):
        if exchange.stage is ClientStage.DONE:
            break
        out += exchange.receive(piece)
    exchange.end()
    assert out == sent_by(vector, "client")
    assert exchange.proven is (kind_of(vector) is not Hash.NONE)
    assert exchange.code == steps(vector, "response-code")[0]
    assert exchange.records == records_of(vector)


@pytest.mark.parametrize("vector", named([c for c in CONVERSATIONS if "list" in c["name"]]))
def test_list_lines(vector: dict[str, Any]) -> None:
    """Our list prints as the reference printed it, but for names that it cuts: there it prints the UUID twice."""
    lines, records = vector["stdout"].splitlines(), records_of(vector)
    assert len(lines) == len(records)
    for line, record in zip(lines, records):
        assert record.line() == line or (len(record.name) == 63 and line.startswith(record.name))


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize("vector", named(CONVERSATIONS))
def test_daemon_side(vector: dict[str, Any], size: int) -> None:
    challenge = steps(vector, "challenge-by-daemon") or bytes(64)
    exchange = DaemonExchange(KEY, kind_of(vector), challenge, ChallengeBook())
    out = b"".join(exchange.receive(piece) for piece in pieces(sent_by(vector, "client"), size))
    assert exchange.proven
    assert out == steps(vector, "response-by-daemon", "challenge-by-daemon")


@pytest.mark.parametrize("vector", named([c for c in CONVERSATIONS if "list" in c["name"]]))
def test_daemon_list(vector: dict[str, Any]) -> None:
    recorded = steps(vector, "response-code", "host-record", "host-terminator", "trailing-response-code")
    assert encode_list(records_of(vector)) == without_rubbish(recorded)


def without_rubbish(reply: bytes) -> bytes:
    """Zero the bytes of a list reply that the reference leaves to chance; the last is the trailing code."""
    clean = bytearray(reply)
    for start in range(1, len(reply) - 1, RECORD_BYTES):
        for offset in RUBBISH:
            clean[start + offset] = 0
    return bytes(clean)


@pytest.mark.parametrize("vector", named([c for c in CONVERSATIONS if c["transport"] == "multicast"]))
def test_datagram(vector: dict[str, Any]) -> None:
    """The request of a multicast conversation verifies, and says where the daemon called back."""
    packet = bytes.fromhex(vector["udp_request_hex"])
    verify(packet, KEY, Hash.named(vector["listener"]["hash"]))
    request = decode(packet)
    assert f"{'.'.join(map(str, request.address))}:{request.port}" == vector["tcp_opened_to"]


@pytest.mark.parametrize("vector", named([c for c in CONVERSATIONS if c["transport"] == "tcp"]))
def test_tcp_request(vector: dict[str, Any]) -> None:
    verify(steps(vector, "request"), KEY, Hash.named(vector["listener"]["hash"]))


@pytest.mark.parametrize("vector", named(EXCHANGES))
def test_serial_request(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["request_hex"])
    request = serial.decode_request(frame)
    assert serial.encode_request(request) == frame


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize("vector", named(EXCHANGES))
def test_serial_request_in_pieces(vector: dict[str, Any], size: int) -> None:
    frame = bytes.fromhex(vector["request_hex"])
    reader = serial.FrameReader(serial.REQUEST_BYTES)
    assert [found for piece in pieces(b"noise" + frame, size) for found in reader.feed(piece)] == [frame]
    assert (reader.skipped, reader.pending()) == (5, False)


@pytest.mark.parametrize("vector", named(EXCHANGES))
def test_serial_response(vector: dict[str, Any]) -> None:
    """We read the recorded answer, and would have sent the same bytes (noise before, rubbish inside apart)."""
    answer = bytes.fromhex(vector["response_hex"])
    reader = serial.FrameReader(serial.RESPONSE_BYTES)
    (frame,) = reader.feed(answer[: answer.index(serial.MAGIC) + serial.RESPONSE_BYTES])
    rest = answer[answer.index(serial.MAGIC) + serial.RESPONSE_BYTES :]
    if frame[4] != Code.LIST:
        assert (frame, rest) == (serial.encode_response(frame[4]), b"")
        return
    records = RecordReader()
    found = records.feed(rest)
    assert records.ended
    assert found[0].name == "alpha"
    listed = serial.encode_list_response(found)
    assert listed[serial.RESPONSE_BYTES - 1 :][:-5] == without_rubbish(answer[serial.RESPONSE_BYTES - 1 : -4])[:-1]
    assert listed.endswith(END_OF_LIST + serial.encode_response(Code.SUCCESS))
