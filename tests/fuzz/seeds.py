"""Write the captured bytes of tests/vectors as seeds, a folder for each target: python tests/fuzz/seeds.py FOLDER."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "vectors"
CONFIG = b"""fence_virtd { listener = "multicast tcp"; backend = "libvirt"; debug = "1"; }
listeners { multicast { key_file = "/k"; address = "225.0.0.12"; interface = "virbr0"; } tcp { port = "1230"; } }
backends { libvirt { uri = "qemu:///system"; uri1 = "test:///default"; } }
groups { group = "a" { ip = "10.0.0.0/8"; uuid = "alpha"; } } # comment
"""
STDIN = (
    b'action=off\nplug="alpha"\n# comment\nmulticast_address = 225.0.0.12\nipport=1229\nhash=sha512\ndebug=1\nport=x\n'
)


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def cut(data: bytes) -> bytes:
    """Return *data* as the targets cut it: pieces of at most 255 bytes, each behind its length."""
    return b"".join(bytes((len(data[n : n + 255]),)) + data[n : n + 255] for n in range(0, len(data), 255))


def seeds() -> Iterator[tuple[str, bytes]]:
    """Return (target, bytes)."""
    for vector in load("requests")["requests"]:
        yield "request", bytes.fromhex(vector["hex"])
    for vector in load("conversations")["conversations"]:
        for who in ("client", "daemon"):
            sent = (s for s in vector["steps"] if s["from"] == who and s["what"] != "request")
            conversation = cut(b"".join(bytes.fromhex(step["hex"]) for step in sent))
            yield "exchange", conversation
            yield "dissection", conversation
        records = (s["hex"] for s in vector["steps"] if s["what"].startswith("host-"))
        yield "records", cut(bytes.fromhex("".join(records)))
    for vector in load("serial")["exchanges"]:
        yield "frames", cut(bytes.fromhex(vector["request_hex"]) + bytes.fromhex(vector["response_hex"]))
    yield "config", CONFIG
    yield "agent", STDIN


def write(folder: Path) -> None:
    """Write all seeds below *folder*."""
    for number, (target, data) in enumerate(seeds()):
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
