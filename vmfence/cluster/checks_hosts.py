"""Checks of the way to the hosts: key files, the exchange with each host, and how many hosts answer.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.cluster.facts import Facts, HostFacts
from vmfence.cluster.pcs import command_line
from vmfence.errors import AuthenticationError, KeyFileError, UsageError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault

_COPY_IT = "copy it from the host to this node, owned by root, mode 0600"
_LOOK = "on the host, see what its daemon does: vmfence host status"


def _key_missing(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if key.error is not None and key.mode is None:
            message = "the key is not on this node, so it can fence nobody"
            yield Fault(ERROR, key.path, message, f"{_users(key.devices)}; {key.error.why}", _COPY_IT)


def _key_open(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        mode = key.mode or 0
        if mode & 0o007:
            who, severity = "everybody on this node can read the key, and fence any guest", ERROR
        elif mode & 0o070:
            who, severity = "the key's group can read it, and fence any guest", WARNING
        else:
            continue
        remedy = ("chmod", "0600", key.path)
        yield Fault(severity, key.path, who, f"mode {mode:04o}", command_line(remedy), remedy)


def _key_unusable(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if key.error is not None and key.mode is not None and not key.mode & 0o007:
            yield Fault(
                ERROR,
                key.path,
                "the key cannot be used",
                f"{key.error.what}: {key.error.why}",
                key.error.remedy or _COPY_IT,
            )


def _key_weak(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        for weakness in key.weaknesses:
            if not weakness.remedy.startswith("chmod"):  # told as open
                yield Fault(WARNING, key.path, weakness.what, weakness.why or _users(key.devices), weakness.remedy)


def _refused(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        if isinstance(host.error, AuthenticationError):
            message = "a host is there, and host and node do not prove the same key to each other"
            remedy = "compare fingerprints, sha256sum of the key on both sides; then auth and hash of both sides"
            yield Fault(ERROR, _subject(host), message, f"{host.error.what}: {host.error.why}; {_way(host)}", remedy)


def _silent(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        error = host.error
        if error is None or host.inquiry is None or isinstance(error, (AuthenticationError, KeyFileError)):
            continue
        why = f" ({error.why})" if error.why else ""
        message = "its host does not answer this node, so it can fence nobody from here"
        yield Fault(ERROR, _subject(host), message, f"{error.what}{why}; {_way(host)}", error.remedy or _LOOK)


def _unasked(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        if host.error is not None and host.inquiry is None:
            is_fault = isinstance(host.error, UsageError)
            message = "an option is wrong, so its agent fails" if is_fault else "its host was not asked"
            seen = " ".join(filter(None, (host.error.what, host.error.why)))
            remedy = host.error.remedy or command_line(["pcs", "stonith", "config", *host.devices])
            yield Fault(ERROR if is_fault else NOTE, _subject(host), message, seen, remedy)


def _several(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        if len(host.answers) < 2:
            continue
        seen = ", ".join(f"{answer.peer} shows {len(answer.guests)} guests" for answer in host.answers)
        views = {frozenset(guest.uuid for guest in answer.guests) for answer in host.answers}
        if len(views) == 1:
            message = "several addresses answer with the same guests: a pool of hosts, or one host with two addresses"
            yield Fault(NOTE, _subject(host), message, seen)
        elif len(host.speakers) > 1:
            message = "several hosts answer, and the fastest one wins: one without the guest fails, or says it is off"
            seen += f"; about guest {host.asked} spoke {', '.join(host.speakers)}"
            remedy = (
                "one multicast address for each host (multicast_address of host and device), or on each host "
                'unknown_guest = "ignore"'
            )
            yield Fault(ERROR, _subject(host), message, seen, remedy)
        else:
            message = "several hosts answer to a list, and only the one that has a guest speaks for it"
            yield Fault(NOTE, _subject(host), message, seen)


def _empty(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        for answer in host.answers:
            if not answer.guests:
                message = "the host answers and shows no guest: its access rules, or another libvirt URI"
                yield Fault(
                    ERROR, _subject(host), message, f"{answer.peer}: 0 guests", "on the host: vmfence host list"
                )


def _subject(host: HostFacts) -> str:
    return ", ".join(host.devices)


def _users(devices: tuple[str, ...]) -> str:
    return f"used by {', '.join(devices)}"


def _way(host: HostFacts) -> str:
    """Return how the host was asked, for evidence."""
    asked = host.inquiry
    if asked is None:
        return ""
    proof = f", hash {asked.hash_name}, auth {asked.auth_name}, key {asked.key_file}" if asked.uses_key else ""
    return f"asked by {asked}{proof}"


CHECKS = (
    Check(
        "cluster-key-missing",
        "the keys of all devices are on this node",
        """Host and nodes share a secret file, /etc/cluster/fence_xvm.key unless the device says otherwise. Without it
        the agent sends nothing. It must be the same file on the host and on every node.""",
        _key_missing,
        ("keys",),
    ),
    Check(
        "cluster-key-open",
        "keys are readable by root alone",
        """Who can read the key can switch off every guest of the host that the access rules leave open. Agent and host
        refuse a key that everybody may read.""",
        _key_open,
        ("keys",),
    ),
    Check(
        "cluster-key-unusable",
        "keys can be read and are long enough",
        """A key file must be a regular file of 16 bytes or more; bytes beyond 4096 do not count.""",
        _key_unusable,
        ("keys",),
    ),
    Check(
        "cluster-key-weak",
        "keys are random and long",
        """A key that somebody typed can be guessed from a single packet. vmfence host keygen makes a good one.""",
        _key_weak,
        ("keys",),
    ),
    Check(
        "cluster-key-refused",
        "host and node prove the same key to each other",
        """Each side challenges the other with random bytes that only the key can answer. Another key, or another auth
        or hash setting, ends the exchange there. By multicast a host that has another key stays silent instead: that is
        cluster-host-silent.""",
        _refused,
        ("exchange",),
    ),
    Check(
        "cluster-host-silent",
        "the hosts of all devices answer this node",
        """The list of guests was asked for in the way of the device. Silence has many causes that look alike: no
        daemon, a daemon on another bridge, UDP 1229 closed on the host, TCP 1229 closed on this node for the way back,
        or another key, with which the host drops the packet. On the host, vmfence host status shows what its daemon
        rejected last.""",
        _silent,
        ("hosts",),
    ),
    Check(
        "cluster-host-unasked",
        "the hosts of all devices can be asked",
        """The question goes by the way that the device's options name, with the agent's own code. A wrong value of an
        option makes the agent fail each time.""",
        _unasked,
        ("hosts",),
    ),
    Check(
        "cluster-hosts-several",
        "one host answers for each guest",
        """By multicast every host that hears the question and has the key answers, and the agent takes the first
        answer. A host that does not have the guest answers failure, or (fence_virtd) that it is off: the most dangerous
        answer. Give each host its own group, port or key, or let hosts be silent about guests that they do not
        have.""",
        _several,
        ("answering",),
    ),
    Check(
        "cluster-host-empty",
        "every host shows guests",
        """A host that answers and shows no guest has access rules that leave this node out, or looks at a libvirt that
        has no guests (a session instead of the system).""",
        _empty,
        ("answering",),
    ),
)
