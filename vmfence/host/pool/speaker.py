"""Which host answers a request that several hear, as by multicast.  Pure.

All of them may act on every guest of the pool, and one wish must be carried out once: three reboots are not one.
"""

from __future__ import annotations

from vmfence.host.pool.verdict import View


def is_speaker(view: View, me: int) -> bool:
    """Whether the host *me* is the one to answer for the guest seen in *view*.

    The one that has it active: it can end it whatever becomes of the group.  Else the lowest; where it cannot be told
    what the guest is, there is no view, and nobody answers.  fence_virtd cannot be kept from answering, and does not
    count.
    """
    ours = (view.sightings.keys() | view.silent.keys()) - view.references
    return me == min((view.active().keys() & ours) or ours, default=0)
