"""``vmfence host``: commands for the hypervisor machine."""

from __future__ import annotations

from vmfence.cli.lazy import LazyGroup

host = LazyGroup(
    {
        "check": ("vmfence.cli.host_check", "check", "Would fencing work on this host? Findings with remedies."),
        "configure": ("vmfence.cli.configure", "configure", "Make or change the configuration by questions."),
        "daemon": ("vmfence.cli.daemon", "daemon", "Run the daemon, in the foreground."),
        "history": ("vmfence.cli.status", "history", "Who fenced whom, when, with what result."),
        "keygen": ("vmfence.cli.keygen", "keygen", "Make the shared key, or judge one."),
        "list": ("vmfence.cli.listing", "list_guests", "The guests of this host, and who may fence them."),
        "setup": ("vmfence.cli.setup", "setup", "Everything that a host needs, without questions."),
        "status": ("vmfence.cli.status", "status", "What the running daemon does."),
    },
    "Commands for the hypervisor machine.",
    "host",
)
