"""From a device's options to the question by which its host is asked what it shows: the same path as the agent's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from vmfence.cluster.cib import Device
from vmfence.cluster.durations import parse_duration
from vmfence.errors import UsageError, VmfenceError
from vmfence.guest import answers
from vmfence.guest.guests import CID, HASH_NAMES, TRANSPORTS, Inquiry
from vmfence.protocol.reply import Record, State

AGENTS = ("fence_vmfence", "fence_xvm", "fence_virt")
WINDOW_S = 5.0
_FAMILIES = ("auto", "ipv4", "ipv6")
# What an agent does not know, and so does not act upon.
_UNKNOWN = {
    "fence_xvm": ("ipaddr", "vsock", "serial_device", "serial_params", "channel_address", "transport"),
    "fence_virt": ("multicast_address", "ip_family", "transport"),
}


def inquiry_of(options: Mapping[str, str], agent: str = "") -> Inquiry:
    """Return how to ask the host of a device with *options*; *agent* decides where its options alone do not.

    fence_xvm knows multicast alone; fence_virt takes a VM channel unless told otherwise; transport is ours.
    Raises UsageError for a value that the agent would refuse too.
    """
    usual = Inquiry()
    options = {name: text for name, text in options.items() if agent not in _UNKNOWN or name not in _UNKNOWN[agent]}
    transport = _word(options, "transport", TRANSPORTS, "") or None
    found = Inquiry(
        ipaddr=options.get("ipaddr"),
        address=options.get("multicast_address", usual.address),
        family=_word(options, "ip_family", _FAMILIES, usual.family),
        port=_port(options, usual.port),
        key_file=options.get("key_file", usual.key_file),
        hash_name=_word(options, "hash", HASH_NAMES, usual.hash_name),
        auth_name=_word(options, "auth", HASH_NAMES, usual.auth_name),
        timeout_s=_timeout_s(options, usual.timeout_s),
        vsock=_cid(options),
        serial_device=options.get("serial_device"),
        serial_params=options.get("serial_params", usual.serial_params),
        channel_address=options.get("channel_address"),
        transport=transport,
    )
    if found.kind == "multicast" and agent == "fence_virt":
        return replace(found, transport="vmchannel")
    return found


def shown_guests(inquiry: Inquiry, window_s: float = WINDOW_S) -> tuple[Record, ...]:
    """Return the guests of every host that answers within *window_s*, each once: running where any host says so.

    Raises what guests.list_guests() raises.
    """
    hosts = answers.list_hosts(replace(inquiry, timeout_s=min(window_s, inquiry.timeout_s)))
    found: dict[tuple[str, str], Record] = {}
    for record in (record for host in hosts for record in host.guests):
        known = found.setdefault((record.name, record.uuid), record)
        if known.state != State.RUNNING and record.state == State.RUNNING:
            found[record.name, record.uuid] = record
    return tuple(found.values())


def guests_for(options: Mapping[str, str], agent: str) -> tuple[Record, ...]:
    """Return the guests that the hosts of a device with *options* show.  Raises as inquiry_of and shown_guests."""
    return shown_guests(inquiry_of(options, agent))


def answers_of(devices: Iterable[Device]) -> dict[str, tuple[Record, ...] | VmfenceError]:
    """Return for each of *devices* the guests that its host shows, or why not; nothing is asked twice."""
    asked: dict[Inquiry, tuple[Record, ...] | VmfenceError] = {}
    answers_by_device: dict[str, tuple[Record, ...] | VmfenceError] = {}
    for one in devices:
        try:
            question = inquiry_of(one.options, one.agent)
        except VmfenceError as error:
            answers_by_device[one.id] = error
            continue
        if question not in asked:
            asked[question] = _answer(question)
        answers_by_device[one.id] = asked[question]
    return answers_by_device


def _answer(question: Inquiry) -> tuple[Record, ...] | VmfenceError:
    try:
        return shown_guests(question)
    except VmfenceError as error:
        return error


def _word(options: Mapping[str, str], name: str, words: tuple[str, ...], default: str) -> str:
    word = options.get(name, default).lower()
    if name in options and word not in words:
        raise UsageError(f"{name}={options[name]!r} is not known", "", f"it must be one of {', '.join(words)}")
    return word


def _port(options: Mapping[str, str], default: int) -> int:
    text = options.get("ipport", str(default))
    port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= port <= 65535:
        raise UsageError(f"ipport={text!r} is no port", "", "it must be a whole number from 1 to 65535")
    return port


def _cid(options: Mapping[str, str]) -> int | None:
    """Return the CID of the host, the usual one where the option has no value; None without the option."""
    text = options.get("vsock")
    if text is None:
        return None
    cid = CID if not text else int(text) if text.isascii() and text.isdigit() and len(text) < 11 else 0
    if not 2 <= cid <= 2**32 - 2:
        raise UsageError(f"vsock={text!r} is no CID", "", "it must be a whole number from 2 to 4294967294")
    return cid


def _timeout_s(options: Mapping[str, str], default_s: float) -> float:
    if "timeout" not in options:
        return default_s
    timeout_s = parse_duration(options["timeout"])
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise UsageError(f"timeout={options['timeout']!r} leaves no time")
    return timeout_s
