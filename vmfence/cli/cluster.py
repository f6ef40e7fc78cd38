"""``vmfence cluster``: commands for a cluster node."""

from __future__ import annotations

from vmfence.cli.lazy import LazyGroup

cluster = LazyGroup(
    {
        "add-device": (
            "vmfence.cli.cluster_device",
            "add_device",
            "Create the stonith device: mapped, applied, read back.",
        ),
        "agents": ("vmfence.cli.cluster_show", "agents", "The fence agents installed on this node."),
        "check": ("vmfence.cli.cluster_check", "check", "Would fencing work? Findings with evidence and remedy."),
        "describe": ("vmfence.cli.cluster_show", "describe", "The parameters of a fence agent."),
        "devices": ("vmfence.cli.cluster_show", "devices", "The stonith devices and where they run."),
        "fence": ("vmfence.cli.cluster_fence", "fence", "Fence a node through the cluster, and see that it happened."),
        "history": ("vmfence.cli.cluster_show", "history", "What the cluster fenced, when, with what result."),
        "map": ("vmfence.cli.cluster_device", "show_map", "Which guest each node is, and what it is doing."),
        "properties": (
            "vmfence.cli.cluster_show",
            "properties",
            "Cluster properties that matter to fencing; set them.",
        ),
        "prove": ("vmfence.cli.cluster_prove", "prove", "Rehearse: fence node after node, and record that it works."),
        "remove-device": ("vmfence.cli.cluster_device", "remove_device", "Remove a stonith device."),
    },
    "Commands for a cluster node.",
    "cluster",
)
