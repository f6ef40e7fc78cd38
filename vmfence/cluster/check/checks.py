"""All checks of the cluster, in the order in which they are shown: a cause before what follows from it.

First what could be read; then what is configured, the way to the hosts, what they show, who is covered; last what the
cluster has made of it.  So the first error is the one to mend first.
"""

from __future__ import annotations

from vmfence.cluster.check import (
    checks_devices,
    checks_guests,
    checks_hosts,
    checks_nodes,
    checks_options,
    checks_properties,
    checks_settings,
    checks_timing,
)
from vmfence.findings import NOTE, WARNING, Check, unread

READING = (
    unread(
        "cluster-cib-unread",
        "cib",
        "the cluster's configuration can be read",
        "Everything depends on it. It needs root, or the group haclient, on a node where Pacemaker runs.",
    ),
    unread(
        "cluster-version-unread",
        "version",
        "the version of Pacemaker is known",
        "Versions read options in different ways, so nothing can be judged without it.",
    ),
    unread("cluster-status-unread", "status", "the cluster's state can be read", "It is read with crm_mon."),
    unread(
        "cluster-fencer-unread",
        "fencer",
        "the fencer tells which devices it would use",
        "Each node has a fencer, asked with stonith_admin --list. One that does not answer cannot fence either.",
    ),
    unread(
        "cluster-agents-unread",
        "agents",
        "the installed agents can be listed",
        "They are listed by stonith_admin --list-installed, and asked for their metadata.",
    ),
    unread("cluster-keys-unread", "keys", "the keys can be judged", "Key files are opened and judged, never shown."),
    unread("cluster-hosts-unread", "hosts", "the hosts can be asked", "Each host is asked for its list of guests."),
    unread(
        "cluster-history-unread",
        "history",
        "the fencing history can be read",
        "The fencer remembers what was fenced, until it is restarted.",
        WARNING,
    ),
    unread(
        "cluster-pcs-unread",
        "pcs",
        "pcs can be run on this node",
        "add-device, remove-device, fence and prove work through pcs, on the node where they are run. The cluster "
        "itself fences without it.",
        WARNING,
    ),
    unread("cluster-node-unread", "node", "this node's name is known", "It is asked with crm_node --name.", WARNING),
    unread(
        "cluster-corosync-unread",
        "corosync",
        "Corosync's quorum settings can be read",
        "They are asked with corosync-cmapctl, or read from /etc/corosync/corosync.conf.",
        WARNING,
    ),
    unread(
        "cluster-proofs-unread",
        "proofs",
        "the record of rehearsals can be read",
        "vmfence cluster prove keeps it in /var/lib/vmfence/proofs.json.",
        WARNING,
    ),
    unread(
        "cluster-watchdog-unread",
        "watchdog_s",
        "SBD's settings can be read",
        "They are in /etc/sysconfig/sbd or /etc/default/sbd where SBD is installed.",
        WARNING,
    ),
    unread(
        "cluster-uuid-unread",
        "machine_uuid",
        "this machine's UUID can be read",
        "The firmware of a libvirt guest shows the guest's UUID, which proves which guest this node is. Only root may "
        "read it, and containers have none.",
        NOTE,
    ),
)
CHECKS: tuple[Check, ...] = (
    *READING,
    *checks_settings.CHECKS,
    *checks_properties.CHECKS,
    *checks_devices.CHECKS,
    *checks_options.CHECKS,
    *checks_hosts.CHECKS,
    *checks_guests.CHECKS,
    *checks_nodes.CHECKS,
    *checks_timing.CHECKS,
    *checks_devices.RUNNING,
    *checks_nodes.STATE,
)
