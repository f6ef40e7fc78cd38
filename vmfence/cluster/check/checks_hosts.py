"""Checks of the way to the hosts: key files, the exchange with each host, and how many hosts answer.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.cluster.check.facts import Facts, HostFacts
from vmfence.errors import AuthenticationError, KeyExposed, KeyFileError, UsageError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, command_line
from vmfence.guest.agreement import APART, Agreement, agreement, empty, shown

_COPY_IT = "copy it from the host to this node, owned by root, mode 0600"
_LOOK = "on the host, see what its daemon does: vmfence host status"


def _key_missing(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if key.error is not None and key.mode is None:
            message = "the key is not on this node, so it can fence nobody"
            yield Fault(ERROR, key.path, message, f"{_users(key.devices)}; {key.error.why}", _COPY_IT)


def _key_open(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if isinstance(key.error, KeyExposed):
            message = "everybody on this node can read the key, and fence any guest"
            yield Fault(ERROR, key.path, message, key.error.why, key.error.remedy, key.error.closing or None)
        for one in key.weaknesses:
            if isinstance(one, KeyExposed):
                message = f"{one.what}, and so fence any guest"
                yield Fault(WARNING, key.path, message, one.why, one.remedy, one.closing or None)


def _key_unusable(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        if key.error is not None and key.mode is not None and not isinstance(key.error, KeyExposed):
            seen = f"{key.error.what}: {key.error.why}"
            yield Fault(ERROR, key.path, "the key cannot be used", seen, key.error.remedy or _COPY_IT)


def _key_weak(facts: Facts) -> Iterator[Fault]:
    for key in facts.keys:
        for one in key.weaknesses:
            if not isinstance(one, KeyExposed):  # told as open
                yield Fault(WARNING, key.path, one.what, one.why or _users(key.devices), one.remedy)


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
        seen, how = shown(host.answers), agreement(host.answers, host.asked, host.speakers)
        if how is Agreement.SAME:
            message = "several addresses answer with the same guests: a pool of hosts, or one host with two addresses"
            yield Fault(NOTE, _subject(host), message, seen)
        elif how is Agreement.RIVALS:
            message = "several hosts answer, and the fastest one wins: one without the guest fails, or says it is off"
            seen += f"; about guest {host.asked} spoke {', '.join(host.speakers)}"
            yield Fault(ERROR, _subject(host), message, seen, APART)
        elif how is Agreement.UNKNOWN:
            message = "several hosts answer with different guests, and it was not seen whether each speaks for its own"
            yield Fault(WARNING, _subject(host), message, seen, f"run the check again; {APART}")
        else:
            message = "several hosts answer to a list, and only the one that has a guest speaks for it"
            yield Fault(NOTE, _subject(host), message, seen)


def _empty(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        found, has_others = empty(host.answers)
        for answer in found:
            message = "the host answers and shows no guest: its access rules, or another libvirt URI"
            if has_others:
                message = "one of the hosts shows no guest, while another does"
            severity, seen = NOTE if has_others else ERROR, f"{answer.peer}: 0 guests"
            yield Fault(severity, _subject(host), message, seen, "on the host: vmfence host list")


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
        "keys are for root alone",
        """Who can read the key can switch off every guest of the host that the access rules leave open. Agent and host
        refuse a key that everybody may read. One that its group may read is used: of the group root nothing is said, of
        another one a warning, because who is in it decides. Host and guest check judge by the same rule.""",
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
        has no guests (a session instead of the system). Of several hosts one may have none for this cluster.""",
        _empty,
        ("answering",),
    ),
)
