"""The rules that a packet from this machine passes, turned round, so that they are walked as those of one coming in.

Pure.  Chains of hook output take the place of those of input, and the interface that a packet leaves by, and the
address that it goes to, are judged as if it came from there.  Translation of addresses and firewalld's own tables are
left out: neither stops what we send.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vmfence.packetfilter.rulesets import Rulesets

_TURNED = {"INPUT": "OUTPUT", "iifname": "oifname", "iif": "oif", "-i": "-o", "in on": "out on"}
_TURNED.update({"saddr": "daddr", "-s": "-d", "--src-type": "--dst-type", "--physdev-in": "--physdev-out"})
_TURNED.update({there: here for here, there in tuple(_TURNED.items())})
_WORDS = re.compile(rf"(?<!\S)({'|'.join(map(re.escape, _TURNED))})(?!\S)")
_BASES = re.compile(r"^(:|-A )(PREROUTING|POSTROUTING|FORWARD)\b")
_FIREWALLD = "firewalld"
Json = dict[str, Any]


def mirrored(rulesets: Rulesets) -> Rulesets:
    """Return *rulesets* as seen by what leaves.  Raises ValueError, LookupError or TypeError for what is none."""
    return replace(
        rulesets,
        nft=_mirrored_nft(rulesets.nft) if rulesets.nft else "",
        saved="\n".join(_mirrored_tables(rulesets.saved.splitlines())),
        legacy="\n".join(_mirrored_tables(rulesets.legacy.splitlines())),
    )


def turned(command: str) -> str:
    """Return the *command* that lets a packet in as the one that lets it out."""
    return _WORDS.sub(lambda word: _TURNED[word[1]], command)


def _mirrored_nft(ruleset: str) -> str:
    entries = json.loads(ruleset)["nftables"]
    return json.dumps({"nftables": [each for entry in entries for each in _mirrored_entry(entry)]})


def _mirrored_entry(entry: Json) -> Iterable[Json]:
    [(kind, value)] = entry.items()
    if kind not in ("chain", "rule"):
        return (entry,)
    if str(value["table"]).startswith(_FIREWALLD):
        return ()
    if kind == "rule":
        return ({kind: {**_swapped(value), "chain": _name(value["chain"])}},)
    is_ours = value.get("hook") == "output" and value.get("type") == "filter"
    chain = {key: each for key, each in value.items() if key != "hook"}
    return ({kind: {**chain, "name": _name(value["name"]), **({"hook": "input"} if is_ours else {})}},)


def _swapped(value: Any) -> Any:
    """Return a part of a rule with interfaces and addresses of both directions exchanged."""
    if isinstance(value, list):
        return [_swapped(each) for each in value]
    if isinstance(value, dict):
        return {key: _key(each) if key in ("key", "field", "flags") else _swapped(each) for key, each in value.items()}
    return value


def _key(value: Any) -> Any:
    if isinstance(value, list):
        return [_key(each) for each in value]
    return _TURNED.get(value, value) if isinstance(value, str) else _swapped(value)


def _name(chain: str) -> str:
    return _TURNED[chain] if chain in ("INPUT", "OUTPUT") else chain


def _mirrored_tables(lines: Iterable[str]) -> Iterable[str]:
    """Yield the lines of iptables-save but those of table nat, and of chains that what we send does not pass."""
    table = ""
    for line in lines:
        table = line[1:].strip() if line.startswith("*") else table
        if table == "nat" and not line.startswith("#"):
            continue
        if line.startswith((":", "-A ")):
            if not _BASES.match(line):
                head = ":" if line.startswith(":") else ""
                yield head + turned(line[len(head) :])
        else:
            yield line
