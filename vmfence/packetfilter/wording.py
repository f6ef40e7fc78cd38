"""A rule of nftables in words, from ``nft -j``: as nft itself writes it, as far as that is simple.  Pure.

Only to be shown: what is not known is told by its name alone.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_VERDICTS = ("accept", "drop", "return", "continue")


def rule_text(rule: Json) -> str:
    """Return where *rule* stands, its handle and what it says: "inet mine in: udp dport 1229 drop (handle 4)"."""
    place = f"{rule['family']} {rule['table']} {rule['chain']}"
    said = " ".join(filter(None, (_statement(*item) for step in rule.get("expr", ()) for item in step.items())))
    return f"{place}: {said}" + (f" (handle {rule['handle']})" if "handle" in rule else "")


def _statement(verb: str, value: Any) -> str:
    if verb == "match":
        operator = {"==": "", "in": ""}.get(value["op"], f"{value['op']} ")
        return f"{_value(value['left'])} {operator}{_value(value['right'])}"
    if verb in _VERDICTS:
        return verb
    if verb in ("jump", "goto"):
        return f"{verb} {value['target']}"
    if verb == "vmap":
        return f"{_value(value['key'])} vmap {_value(value['data'])}"
    return "" if verb == "counter" else verb


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value)) if all(isinstance(each, (str, int)) for each in value) else _pairs(value)
    if not isinstance(value, dict):
        return str(value)
    [(kind, inner)] = list(value.items())[:1]
    if kind == "payload" and "field" in inner:
        return f"{inner['protocol']} {inner['field']}"
    if kind in ("meta", "ct") and isinstance(inner, dict):
        return inner["key"] if inner["key"] in ("iif", "iifname", "oif", "oifname") else f"{kind} {inner['key']}"
    if kind == "prefix":
        return f"{inner['addr']}/{inner['len']}"
    if kind == "range":
        return "-".join(map(_value, inner))
    if kind == "set":
        return f"{{ {_value(inner)} }}" if isinstance(inner, list) else _value(inner)
    return _value(inner["val"]) if kind == "elem" else kind


def _pairs(entries: list[Any]) -> str:
    return ", ".join(" : ".join(map(_value, each)) if isinstance(each, list) else _value(each) for each in entries)
