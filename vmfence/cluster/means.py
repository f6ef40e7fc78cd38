"""What fencing and rehearsals reach the outside with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from vmfence import proc
from vmfence.cluster import votes, watch
from vmfence.cluster.inquiry import shown_guests
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.votes import Votes
from vmfence.cluster.watch import Look, Start
from vmfence.guest.guests import Inquiry
from vmfence.protocol.reply import Record

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Means:
    """Tests put others in place of what has a default."""

    pacemaker: Pacemaker
    pcs: Pcs
    start: Start = proc.background
    look: Callable[[Inquiry, str], Look] = watch.look
    ask_all: Callable[[Inquiry], Sequence[Record]] = shown_guests
    count_votes: Callable[[], Votes] = votes.load
    count_joins: Callable[[], Mapping[int, int]] = votes.load_joins
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
