"""Checks of what the host was given: configuration, keys, access rules, SELinux, clock.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.config.settings import SerialSettings
from vmfence.errors import ConfigErrors, ConfigNotPermitted, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, explained
from vmfence.host import unit
from vmfence.host.check import running, scope
from vmfence.host.check.facts import Facts
from vmfence.protocol.auth import Hash

KEYGEN = "vmfence host keygen --force"
_SETUP, _CHANGE_IT = "vmfence host setup", "vmfence host configure"
RELOAD = ("systemctl", "reload", unit.NAME)
_AHEAD_S = 60.0
_REFUSED = "guests that still have the old key, or none, are refused from then on: copy the new key to them first"


def _unreadable(facts: Facts) -> Iterator[Fault]:
    error = facts.settings
    if isinstance(error, ConfigNotPermitted):
        message = "this user may not read the configuration, so most of this host was not judged"
        yield Fault(NOTE, error.path, message, error.what, "run this as root")
    elif isinstance(error, ConfigErrors):
        for one in error.faults:
            yield Fault(ERROR, facts.path, "the daemon does not start with this", one.what, one.remedy or _CHANGE_IT)
    elif isinstance(error, VmfenceError):
        yield Fault(ERROR, facts.path, "there is no configuration to run with", error.what, error.remedy or _SETUP)


def _refused(facts: Facts) -> Iterator[Fault]:
    error = facts.accepted
    if isinstance(error, VmfenceError):
        seen = " ".join(filter(None, (error.what, error.why)))
        yield Fault(ERROR, facts.path, "the daemon does not start with this", seen, error.remedy or _CHANGE_IT)


def _doubtful(facts: Facts) -> Iterator[Fault]:
    for one in facts.settings.warnings:
        yield Fault(WARNING, facts.path, one.what, "", one.remedy)


def _key_missing(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if not key.exists:
            yield Fault(ERROR, key.path, "there is no key, so the daemon does not serve", "no such file", _SETUP)


def _key_unusable(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if key.fault is not None:
            fix = ("chmod", "0600", key.path) if key.fault.remedy.startswith("chmod") else None
            message = "the daemon does not serve with this key"
            yield Fault(ERROR, key.path, message, f"{key.fault.what}: {key.fault.why}", key.fault.remedy, fix)


def _key_weak(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if key.weaknesses:
            message = "; ".join(": ".join(filter(None, (one.what, one.why))) for one in key.weaknesses)
            remedy = "; ".join(dict.fromkeys(one.remedy for one in key.weaknesses if one.remedy))
            yield Fault(WARNING, key.path, message, f"SHA256 {key.fingerprint}", remedy or KEYGEN)


def _key_stale(facts: Facts) -> Iterator[Fault]:
    in_use = {str(key["path"]): str(key["sha256"]) for key in facts.status["keys"]}
    for key in facts.keys:
        used = in_use.get(key.path)
        if key.fingerprint and used is None:
            message = "the daemon does not run with this key, so who has it is not heard"
            yield Fault(ERROR, key.path, message, f"it has {', '.join(in_use) or 'no key'}", *_read_keys(facts))
        elif key.fingerprint and used != key.fingerprint:
            message = "the daemon runs with another key than the file has now, so who has the new one is not heard"
            yield Fault(ERROR, key.path, message, f"file {key.fingerprint}, daemon {used}", *_read_keys(facts))


def _read_keys(facts: Facts) -> tuple[str, tuple[str, ...] | None]:
    remedy, fix = reload(facts)
    return (explained(remedy, _REFUSED), None) if _is_key_taken(facts) else (remedy, fix)


def _is_key_taken(facts: Facts) -> bool:
    """Whether guests that are heard now may not be, once the daemon has read the keys again."""
    if isinstance(facts.keys, VmfenceError):
        return True
    kept = {key.path: key.fingerprint for key in facts.keys}
    in_use = facts.status["keys"]
    return any(kept.get(key["path"]) != key["sha256"] for key in in_use) or bool(kept and not in_use)


def reload(facts: Facts) -> tuple[str, tuple[str, ...] | None]:
    """Return remedy and fix for a daemon that has to read its files again: no fix where that takes away a key."""
    if running.is_waiting(facts):  # it reads nothing again before it has started
        return running.restart(facts), None
    if running.is_of_service(facts):
        return " ".join(RELOAD), None if _is_key_taken(facts) else RELOAD
    return f"kill -HUP {facts.status['pid']}", None


def log(facts: Facts) -> str:
    """Return where the daemon's log is read."""
    has_journal = not isinstance(facts.unit, VmfenceError) and facts.unit.is_manager and facts.unit.path is not None
    return f"journalctl -u {unit.NAME}" if has_journal else "see the daemon's log, which is its standard error"


def _open(facts: Facts) -> Iterator[Fault]:
    for one in facts.settings.listeners:
        if not isinstance(one, SerialSettings) and Hash.NONE in (one.hash, one.auth):
            seen = f"hash {one.hash}, auth {one.auth}"
            if one.hash == one.auth:
                message = "no key is asked for: everybody who reaches this host may fence"
                yield Fault(WARNING, one.name, message, seen, f"remove hash and auth from {facts.path}")
            else:
                message = "only one of signature and challenge is asked for"
                yield Fault(WARNING, one.name, message, seen, f"remove hash and auth from {facts.path}")


def _no_rules(facts: Facts) -> Iterator[Fault]:
    if facts.settings.groups is None:
        message = "there are no access rules: whoever has the key may fence every guest of this host"
        yield Fault(NOTE, facts.path, message, "no section groups", explained("man 5 vmfence.conf", "see groups"))


def _selinux(facts: Facts) -> Iterator[Fault]:
    found = facts.selinux
    if found.denials:
        severity = ERROR if found.is_enforced else WARNING
        seen = "; ".join(found.denials[-5:])
        remedy = explained("ausearch -m avc -ts recent", "then setsebool or restorecon for what it names")
        yield Fault(severity, "SELinux", "has denied something that fencing needs", seen, remedy)
    for path in found.mislabelled:
        fix = ("restorecon", "-v", path)
        yield Fault(WARNING, path, "has another SELinux label than the policy gives it", "", " ".join(fix), fix)
    if found.boolean_off and found.is_enforced and found.denials:
        remedy = "setsebool -P fenced_can_network_connect 1"
        yield Fault(WARNING, "SELinux", "fenced domains may not use the network", "", remedy)
    if found.is_enforced and found.unseen:
        yield Fault(NOTE, "SELinux", "not all could be asked", "; ".join(found.unseen))


def _clock(facts: Facts) -> Iterator[Fault]:
    clock = facts.clock
    if clock.newest > facts.now + _AHEAD_S:
        message = "the clock is behind what this host has written before: records of fencing get wrong times"
        seen = f"files are {clock.newest - facts.now:.0f} s ahead of the clock"
        remedy = explained("systemctl enable --now chronyd", "sets it, and keeps it right")
        yield Fault(WARNING, "clock", message, seen, remedy)
    elif clock.is_synchronised is False:
        message = "the clock is not kept right, so times in history and logs differ from those of the guests"
        yield Fault(NOTE, "clock", message, "NTPSynchronized=no", "timedatectl set-ntp true")


CONFIGURATION = (
    Check(
        "host-configuration",
        "there is a configuration that the daemon takes",
        """The daemon reads --config, /etc/vmfence.conf or /etc/fence_virt.conf, the first that exists, and does not
        start with a faulty one. A user who may not read it can have little judged: run the check as root.""",
        _unreadable,
    ),
    Check(
        "host-configuration-refused",
        "configuration, keys and access rules fit together",
        """What the daemon checks at its start beyond the file's syntax: keys that belong to a listener and a group at
        once, channels that every guest could fence by, a backend that is not available.""",
        _refused,
        ("readable",),
    ),
    Check(
        "host-configuration-doubtful",
        "nothing in the configuration is doubtful",
        """Lines that mean another thing than they seem to, such as settings that fence_virtd ignored and that count
        here.""",
        _doubtful,
        ("settings",),
    ),
)
KEYS = (
    Check(
        "host-key-missing",
        "the keys are there",
        """Host and guests share a secret file. Without it the daemon does not start the listener, and never serves
        without one by itself. vmfence host setup makes it; then every guest needs the same file.""",
        _key_missing,
        ("keys",),
        doubt=scope.keys,
    ),
    Check(
        "host-key-unusable",
        "the keys can be used",
        """A key is a regular file of 16 bytes or more that nobody but its owner and group may read.""",
        _key_unusable,
        ("keys",),
        doubt=scope.present_keys,
    ),
    Check(
        "host-key-weak",
        "the keys are random and long",
        """A key that somebody typed can be guessed from a single packet. vmfence host keygen makes a good one; then
        every guest needs it too.""",
        _key_weak,
        ("keys",),
        doubt=scope.usable_keys,
    ),
)
KEY_IN_USE = Check(
    "host-key-stale",
    "the daemon runs with the keys that are in the files",
    """The daemon reads keys at its start and on reload. A key that was replaced since then is another key: guests with
    the new one are refused, in silence as far as they can see.""",
    _key_stale,
    ("keys", "status"),
    doubt=scope.usable_keys,
)
CHECKS = (
    Check(
        "host-unauthenticated",
        "every request has to prove the key",
        """hash and auth say what is asked of a request. With none for either, no proof or half of it is enough.""",
        _open,
        ("settings",),
        doubt=scope.network_access,
    ),
    Check(
        "host-access-open",
        "access rules say who may fence whom",
        """Without groups every guest that has the key may fence every other guest of this host. That is how fence_virtd
        works too; with guests of several clusters or owners on one host it is a risk.

        It is a note and no more, because host setup leaves it so on purpose: the nodes of one cluster have to fence one
        another, and whether the guests of a host belong together nobody can see from here. A warning on every new host
        would only teach people to pass over warnings. Groups that cannot be read are an error: the daemon does not
        start.""",
        _no_rules,
        ("settings",),
    ),
    Check(
        "host-selinux",
        "SELinux denies nothing that fencing needs",
        """Denials of the last ten minutes are looked up by ausearch, labels of configuration and keys by matchpathcon.
        A key that was copied from elsewhere keeps the label of that place.""",
        _selinux,
        ("selinux",),
        doubt=scope.selinux,
    ),
    Check(
        "host-clock",
        "the clock is right",
        """History, logs and the age of requests go by this clock.""",
        _clock,
        ("clock",),
        doubt=scope.clock,
    ),
)
