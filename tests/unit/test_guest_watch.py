"""Whom a watch vouches for, while libvirt is slow to tell what has become of a guest."""

from __future__ import annotations

import asyncio
from typing import Any

from vmfence.host.backends.live import LiveGuest
from vmfence.host.backends.watch import Follower, GuestWatch

ALPHA, BETA = LiveGuest("alpha", "A", cid=3, run="1"), LiveGuest("beta", "B", cid=4, run="2")


class SlowHypervisor:
    """Has alpha and beta at first; what is asked of one guest later is answered, with None, when *release* is set."""

    uri = "fake:///"

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self._answers: list[Any] = [None, [ALPHA, BETA]]

    async def call(self, work: object, deadline: float) -> Any:
        if self._answers:
            return self._answers.pop(0)
        await self.release.wait()
        return None


def test_nobody_vouches_for_a_guest_that_something_happened_to() -> None:
    """It may have stopped, and its CID be another guest's by now."""

    async def story() -> None:
        hypervisor = SlowHypervisor()
        follower = Follower(hypervisor)  # type: ignore[arg-type]
        watch = GuestWatch([follower])
        await watch.open()
        assert watch.vouched() == [ALPHA, BETA]
        follower._heard("A")
        assert watch.vouched() == [BETA]
        looking = asyncio.ensure_future(watch.look_at("A"))
        await asyncio.sleep(0)
        assert watch.vouched() == [BETA] and not looking.done()
        hypervisor.release.set()
        await looking
        assert watch.vouched() == watch.guests() == [BETA]
        watch.close()

    asyncio.run(story())
