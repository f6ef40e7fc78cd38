"""Checks of a pool of hosts (backend cpg): does Corosync let this host take part, and does its daemon?  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vmfence.errors import DeadlineExceeded, ToolMissing, Unreachable, VmfenceError
from vmfence.findings import ERROR, Check, Fault, NotReached
from vmfence.host import unit
from vmfence.host.check import checks_setup
from vmfence.host.check.facts import Facts

CONFIG_FILE = "/etc/corosync/corosync.conf"
RESTART = f"systemctl restart {unit.NAME}"
_NEVER_OFF = "so no guest out of sight is ever called off, and status of one that is off fails"
_START = ("systemctl", "start", "corosync")


def _libraries(facts: Facts) -> Iterator[Fault]:
    error = facts.corosync
    if isinstance(error, ToolMissing):
        message = "the daemon cannot join its pool, so it does not start"
        yield Fault(ERROR, "Corosync", message, f"{error.what}: {error.why}", error.remedy)


def _libraries_unseen(facts: Facts) -> VmfenceError | None:
    """Corosync was asked for, with an answer or without."""
    error = facts.corosync
    return error if isinstance(error, VmfenceError) and not isinstance(error, Unreachable) else None


def _corosync(facts: Facts) -> Iterator[Fault]:
    error = facts.corosync
    if isinstance(error, (Unreachable, DeadlineExceeded)):
        message = "this host is out of its pool: its daemon answers nobody, and the others cannot reach its guests"
        has_manager = not isinstance(facts.unit, VmfenceError) and facts.unit.is_manager
        remedy = f"{' '.join(_START)}; journalctl -u corosync" if has_manager else "start Corosync, and see its log"
        yield Fault(ERROR, "Corosync", message, ": ".join(filter(None, (error.what, error.why))), remedy)


def _corosync_unseen(facts: Facts) -> VmfenceError | None:
    """Corosync answered."""
    return facts.corosync if isinstance(facts.corosync, VmfenceError) else None


def _nodes(facts: Facts) -> Iterator[Fault]:
    sight = facts.corosync
    if sight.nodes is None:
        message = f"Corosync does not tell which hosts there are, {_NEVER_OFF}"
        remedy = "give it a nodelist with name and nodeid of every host, the same on all; then restart it"
        yield Fault(ERROR, CONFIG_FILE, message, "no nodelist.node.0.nodeid in its map", remedy)
    elif sight.me not in sight.nodes:
        message = f"this host is not in the list of nodes, {_NEVER_OFF}"
        yield Fault(
            ERROR, CONFIG_FILE, message, f"node {sight.me}; listed: {numbers(sight.nodes)}", "add it on all hosts"
        )


def _votes(facts: Facts) -> Iterator[Fault]:
    if not facts.corosync.has_votes:
        message = f"Corosync counts no votes, and calls every part of a split pool quorate, {_NEVER_OFF}"
        remedy = "add quorum { provider: corosync_votequorum } on every host (two_node: 1 for two); restart Corosync"
        yield Fault(ERROR, CONFIG_FILE, message, "no quorum provider", remedy)


def _quorum(facts: Facts) -> Iterator[Fault]:
    if facts.corosync.has_votes and not facts.corosync.is_quorate:
        message = f"this part of the pool has not the votes to decide, {_NEVER_OFF}"
        remedy = "bring the other hosts back, or their network; see: corosync-quorumtool -s, corosync-cfgtool -s"
        yield Fault(ERROR, "quorum", message, "not quorate", remedy)


def _counted(facts: Facts) -> VmfenceError | None:
    """Votes are counted."""
    return None if facts.corosync.has_votes else NotReached("Corosync counts no votes")


def numbers(nodes: Iterable[int]) -> str:
    """Return them as text, in their order."""
    return ", ".join(map(str, sorted(nodes)))


def _joined(facts: Facts) -> Iterator[Fault]:
    report = facts.pool
    if report is None:
        message = "the daemon runs without the pool: the backend changed while it ran, which no reload takes over"
        yield Fault(ERROR, facts.path, message, f"it runs with backend {facts.status['backend']}", RESTART)
    elif not report.is_joined:
        message = "the daemon is not in the group of its pool, so it answers nobody"
        yield Fault(ERROR, "pool", message, report.trouble or "not joined yet", f"{checks_setup.log(facts)}; {RESTART}")


COROSYNC = (
    Check(
        "host-pool-libraries",
        "Corosync's libraries can be loaded",
        """With backend cpg the daemon speaks to the Corosync of its host by libcpg, libquorum and libcmap. Debian has
        them in packages of their own, the RHEL family in corosynclib.""",
        _libraries,
        ("settings",),
        doubt=_libraries_unseen,
    ),
    Check(
        "host-pool-corosync",
        "Corosync runs and answers",
        """The hosts of a pool find each other by Corosync. Without it the daemon leaves its pool, fails every request
        and joins again when Corosync is back. Nothing is joined for this check.""",
        _corosync,
        ("settings",),
        doubt=_corosync_unseen,
    ),
    Check(
        "host-pool-nodes",
        "Corosync tells which hosts there are",
        """A guest out of sight may be on a host that nobody thinks of, unless the list of all hosts is known: the
        nodelist in corosync.conf. Old configurations that find nodes by multicast have none.""",
        _nodes,
        ("corosync",),
    ),
    Check(
        "host-pool-votes",
        "Corosync counts votes",
        """When a pool splits, only the part with most votes may say that a guest of the other part is off. That takes
        the section quorum of corosync.conf; without it both parts are called quorate, and the daemon believes
        neither.""",
        _votes,
        ("corosync",),
    ),
    Check(
        "host-pool-quorum",
        "the pool is quorate",
        """Without the majority of votes the hosts that are not in sight may be together elsewhere and start guests
        there. Guests that run in sight are fenced all the same.""",
        _quorum,
        ("corosync",),
        doubt=_counted,
    ),
)
JOINED = Check(
    "host-pool-joined",
    "the daemon is in the group of its pool",
    """The daemon tells the others what guests it has, and acts for them. It joins by itself when Corosync is back; a
    changed backend or fenced_command takes a restart.""",
    _joined,
    ("corosync", "pool", "status"),
)
