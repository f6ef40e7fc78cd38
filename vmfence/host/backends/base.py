"""What a hypervisor backend is: it finds guests, tells their state, and switches them.

A backend never decides who may do what and never answers a client; it carries out one step and raises when it cannot.
Deadlines are seconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Protocol

from vmfence.host.backends.live import LiveGuest
from vmfence.protocol.reply import State

# Raises VmfenceError when what is about to be done is not wanted any more.
Wanted = Callable[[], None]


@dataclass(frozen=True)
class Guest:
    """A guest as it was just read.

    *places* are the numbers of the hypervisors where it runs, or, when it runs nowhere, where it is defined.
    *moved*: it is shut off here because it was migrated away, so another host may be running it.  *is_unexplained*: it
    is shut off, and libvirt does not know why; it forgets that when it restarts.
    """

    name: str
    uuid: str
    state: State
    places: tuple[int, ...] = (0,)
    moved: bool = False
    is_unexplained: bool = False

    @property
    def is_off(self) -> bool:
        """Whether it is known not to run.  Paused, crashed and dying guests are not off: their process is there."""
        return self.state is State.SHUT_OFF and not self.moved

    @property
    def is_running(self) -> bool:
        """Whether it is executing."""
        return self.state in (State.RUNNING, State.BLOCKED)


@dataclass(frozen=True)
class HypervisorStatus:
    """What a backend knows of one hypervisor without asking: whether its last answer came, and why not.

    *answered_at*: when it did last, in seconds of the wall clock, 0 for never; *calls*: those under way.
    """

    uri: str
    is_answering: bool
    trouble: str
    connections: int
    calls: int
    answered_at: float


class Watch(Protocol):
    """Follows running guests.

    *changed* is called in the event loop when they, or trouble(), have changed, *heard* when anything happened to any
    guest.
    """

    changed: Callable[[], None]
    heard: Callable[[], None]

    async def open(self) -> None:
        """Begin, or begin again where there is trouble.  Raises BackendError when no hypervisor can be asked."""

    def guests(self) -> list[LiveGuest]:
        """Return the guests that were running when last heard of."""

    def vouched(self) -> list[LiveGuest]:
        """Return the guests that are known to run: those of the hypervisors that are being heard."""

    async def look_at(self, uuid: str) -> None:
        """Read the guest *uuid* anew, if it is among those known."""

    def trouble(self) -> str:
        """Return which hypervisor is not heard, and why, or nothing."""

    def close(self) -> None:
        """Stop."""


class Backend(Protocol):
    """Every method raises BackendError (Unreachable when a hypervisor cannot be asked) before its deadline.

    still_wanted is called directly before anything is changed, in whatever thread does it.
    """

    async def ping(self, deadline: float) -> None:
        """Return if every configured hypervisor answers."""

    async def find(self, target: str, deadline: float) -> Guest:
        """Return the guest with this name (exactly) or UUID.  Raises GuestNotFound only if everybody was asked."""

    async def guests(self, deadline: float) -> list[Guest]:
        """Return all guests."""

    def remembered(self, target: str, lately: bool) -> Guest | None:
        """Return a transient guest that this backend ended, so that libvirt forgot it; *lately*: a moment ago only."""

    async def read_back(self, guest: Guest, deadline: float) -> Guest:
        """Return *guest* as it is now at its places, where something was just done to it.

        A transient one that power_off() ended there is shut off; one that vanished by itself raises GuestNotFound.
        """

    async def power_off(self, guest: Guest, deadline: float, still_wanted: Wanted) -> State:
        """End *guest* at once at all its places and return the state it had directly before.

        At several places that is running, if it was that at one.  The state is not read back here.
        """

    async def power_on(self, guest: Guest, deadline: float, still_wanted: Wanted) -> None:
        """Boot *guest* afresh, at the first of its places."""

    async def reset(self, guest: Guest, deadline: float, still_wanted: Wanted) -> None:
        """Reset *guest* in place and return when the hypervisor has reported it."""

    def watch(self, uri: str | None) -> Watch:
        """Return what follows the guests at *uri*, or at every URI of this backend; not yet open."""

    def describe(self) -> tuple[HypervisorStatus, ...]:
        """Return what is known of each hypervisor, at once."""

    def is_busy(self) -> bool:
        """Whether calls are still running that nobody waits for any more."""

    def close(self) -> None:
        """Let go of the hypervisors; unfinished calls end by themselves."""
