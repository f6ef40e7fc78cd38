"""Where ``vmfence`` starts: the agent without click, everything else with it."""

from __future__ import annotations

import os
import sys

AGENT_NAMES = ("fence_vmfence", "fence_xvm", "fence_virt")


def main() -> int:
    """Run the command line and return its exit code."""
    name = os.path.basename(sys.argv[0])
    if name in AGENT_NAMES or sys.argv[1:2] == ["agent"]:
        from vmfence.agent.main import main as agent  # late: what Pacemaker starts must not load click

        return agent(sys.argv if name in AGENT_NAMES else ["fence_vmfence", *sys.argv[2:]])
    try:
        from vmfence.cli.main import run

        return run()
    except KeyboardInterrupt:  # click tells of those that come later
        os.write(2, b"error: interrupted.\n")
        return 1
