"""Checks of cluster properties of which some value is bad, whatever else is configured.  Pure.

Source: Pacemaker's lib/common/options.c, daemons/controld/controld_fencing.c, and Pacemaker Explained, "Cluster
Options" and "Fencing".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

from vmfence.cluster import properties
from vmfence.cluster.check.checks_properties import CLUSTER, in_force, set_property
from vmfence.cluster.check.facts import Facts
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, Severity


def _check(
    code: str,
    title: str,
    story: str,
    name: str,
    bad: tuple[str, ...],
    severity: Severity,
    message: str,
    good: str,
    more: Callable[[Facts], str] = lambda _: "",
) -> Check:
    """Return the check that the property *name* is none of *bad*; *good*: what to set, *more*: further evidence."""

    def rule(facts: Facts) -> Iterator[Fault]:
        if properties.word(facts.cib, facts.version, name) in bad:
            evidence = in_force(facts, name)[1] + more(facts)
            yield Fault(severity, CLUSTER, message, evidence, set_property(facts, name, good))

    return Check(code, title, story, rule, ("cib", "version"))


CHECKS = (
    _check(
        "cluster-fencing-disabled",
        "fencing is enabled",
        """Without fencing the cluster believes that a node which it lost is dead. If it is only cut off, two nodes run
        the same resources and write to the same disk: data is lost.

        Tutorials advise to set stonith-enabled=false because resources do not start without a device. Make a device
        instead (vmfence cluster add-device), then enable fencing again.""",
        name="stonith-enabled",
        bad=("false",),
        severity=ERROR,
        message="fencing is off: a lost node is taken for dead, and two nodes may write to one disk",
        good="true",
        more=lambda facts: f"; resources configured: {len(facts.cib.resources)}",
    ),
    _check(
        "cluster-startup-fencing",
        "nodes that were never seen are fenced",
        """A node that does not join when the cluster starts may be running resources behind a broken network. startup-
        fencing=false takes it for dead without looking.""",
        name="startup-fencing",
        bad=("false",),
        severity=ERROR,
        message="a node that was never seen is taken for dead without being fenced, and may be running resources",
        good="true",
    ),
    _check(
        "cluster-quorum-ignored",
        "quorum decides who may fence",
        """With no-quorum-policy=ignore every part of a split cluster goes on, and may fence the others. Two nodes do
        not need it: Corosync's two_node keeps quorum on either of them.""",
        name="no-quorum-policy",
        bad=("ignore",),
        severity=WARNING,
        message="quorum is ignored: a minority may fence the majority and take over its resources",
        good="stop",
        more=lambda facts: f"; members: {len(facts.coverage.members)}",
    ),
    _check(
        "cluster-maintenance-mode",
        "the cluster is not in maintenance",
        """In maintenance mode the cluster starts, stops and monitors nothing, so a device that fails is not seen.""",
        name="maintenance-mode",
        bad=("true",),
        severity=WARNING,
        message="the cluster is in maintenance: it manages nothing, devices included",
        good="false",
    ),
    _check(
        "cluster-fencing-action",
        "a fenced node is started again",
        """With stonith-action=off a fenced guest stays off. That ends fence loops, but every outage needs a person.""",
        name="stonith-action",
        bad=("off", "poweroff"),
        severity=NOTE,
        message="a fenced node stays off until somebody starts its guest; some want that, to end fence loops",
        good="reboot",
    ),
    _check(
        "cluster-fence-reaction",
        "a node that hears of its own fencing stays away",
        """Who was fenced cannot hear of it. A node that does was not: the host map leads to another guest, which is off
        now instead of it. With fence-reaction=stop it stops its cluster and stays away, so that somebody looks. With
        panic it resets itself and comes back, as if it had been fenced.

        A rehearsal would then see what it wants to see, the guest of the map going down and the node coming back, and
        prove a wrong map. So prove refuses with panic: set stop for the time of the rehearsal, at least. It refuses,
        too, where SBD runs (have-watchdog=true), which resets such a node all the same.""",
        name="fence-reaction",
        bad=("panic",),
        severity=WARNING,
        message="a node that was not fenced, and hears that it was, resets itself: that hides a wrong map",
        good="stop",
    ),
)
