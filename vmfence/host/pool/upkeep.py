"""What a host of a pool keeps up beside: what it knows of its guests, the record on the disk, the list of nodes, and
which fencing of a host is of an earlier life of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Iterable, Mapping
from typing import Callable, Protocol

from vmfence.errors import BackendError
from vmfence.host.backends.base import Backend, Watch
from vmfence.host.disk import Disk, DiskSlow
from vmfence.host.pool import fenced, record
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.hands import Hands, Here, entry_of
from vmfence.host.pool.messages import Entry
from vmfence.host.pool.tasks import Tasks

log = logging.getLogger(__name__)

READ_S = 12.0
_READ_EVERY_S, _AGAIN_S = 30.0, 1.0
_PAUSE_S = 0.05
_SAVE_EVERY_S = 3.0
_NODES_EVERY_S, _NODES_AGAIN_S = 60.0, 5.0
_FENCES_AGAIN_S = 5.0
Nodes = dict[int, str]


class Told(Protocol):
    """Who takes what was found out; called in the event loop."""

    def guests_read(self, guests: Iterable[Entry]) -> None:
        """These are all guests of this host."""

    def sight_changed(self, is_blind: bool) -> None:
        """The guests of this host cannot be read, all or some; or they can again."""

    def fences_noted(self, newest: Mapping[int, float]) -> None:
        """These hosts were fenced last at these times of the fencer's clock."""


class NodeList:
    """The list of nodes of the cluster.  Pure.

    What is known of a host that is away goes when it is taken out of the list, so that counts when it was read twice.
    """

    def __init__(self) -> None:
        self._last: Nodes | None = None
        self.is_settled = False

    def take(self, read: Nodes | None, known: Mapping[int, str]) -> Nodes | None:
        """Return what the list is to be after it was *read*, where so far the hosts *known* were; None: not known."""
        self.is_settled = read is not None and self._last is not None and read.keys() == self._last.keys()
        self._last = read
        return read if read is None or self.is_settled else {**known, **read}


class Upkeep:
    """The upkeep of one host.  Create it in the event loop; nothing happens before open()."""

    def __init__(
        self,
        here: Here,
        folder: str,
        directory: Directory,
        hands: Hands,
        told: Told,
        read_nodes: Callable[[], Awaitable[Nodes | None]],
    ) -> None:
        self._here, self._folder, self._directory, self._told = here, folder, directory, told
        self._hands, self._read_nodes, self._tasks = hands, read_nodes, Tasks()
        self._nodes = NodeList()
        self._watch: Watch | None = None
        self._disk = Disk("pool")
        self._saved = directory.changes
        self._must_read, self._must_note = asyncio.Event(), asyncio.Event()
        self._unnoted: set[int] = set()
        self._is_whole = True
        self._guests_trouble = ""
        self._record_trouble = ""

    def open(self) -> None:
        """Begin, once."""
        if not self._tasks.is_keeping():
            self.follow(self._here.backend)
            self._tasks.keep(self._keep_guests, self._keep_record, self._keep_nodes, self._keep_fences)

    def follow(self, backend: Backend) -> None:
        """Follow the guests of *backend* from now on."""
        if self._watch is not None:
            self._watch.close()
        self._watch = backend.watch(None)
        self._watch.changed = self._watch.heard = self._must_read.set
        self._must_read.set()

    def close(self) -> None:
        """Write the record and stop.  To be called while the hosts that are here are still known as such."""
        self._tasks.close()
        if self._watch is not None:
            self._watch.close()
        taken = record.take(self._directory)

        def save_last() -> None:
            try:
                record.save(self._folder, taken)
            except OSError as error:
                log.error("what the other hosts have is not remembered: %s", error)

        self._disk.close(save_last if self._directory.changes != self._saved else lambda: None)

    @property
    def trouble(self) -> str:
        """What is not well: the record cannot be written, or guests not be read."""
        return "; ".join(filter(None, (self._guests_trouble, self._record_trouble)))

    def read_guests(self) -> None:
        """Read the guests of this host soon."""
        self._must_read.set()

    def save(self) -> None:
        """Write the record at once."""
        self._tasks.run(self._save())

    def take_nodes(self, read: Nodes | None) -> None:
        """Take the list of nodes as it was read when the group was joined."""
        self._directory.set_configured(self._nodes.take(read, self._known_nodes()))

    def note_fences(self, nodes: Iterable[int]) -> None:
        """Find out when *nodes* were fenced last, as soon as that can be told."""
        self._unnoted |= set(nodes)
        self._must_note.set()

    async def _keep_guests(self) -> None:
        """Read the guests of this host when something happens to them, and now and then."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._must_read.wait(), _READ_EVERY_S)
            await asyncio.sleep(_PAUSE_S)  # events come in bursts
            self._must_read.clear()
            try:
                guests = await self._read_guests()
            except BackendError as error:
                log.warning("the pool is not told of this host's guests: %s", error)
                self._guests_trouble = f"the other hosts are not told of this one's guests: {error}"
                self._told.sight_changed(True)
                await asyncio.sleep(_AGAIN_S)
                self._must_read.set()
                continue
            self._guests_trouble = ""
            self._told.guests_read(guests.values())
            self._told.sight_changed(not self._is_whole)

    async def _read_guests(self) -> dict[str, Entry]:
        """Return the guests of this host by UUID.  Raises BackendError."""
        backend = self._here.backend
        if self._watch is not None and self._watch.trouble():
            await self._watch.open()
        entries = {guest.uuid: entry_of(guest) for guest in await backend.guests(time.monotonic() + READ_S)}
        self._is_whole = all(status.is_answering for status in backend.describe())
        if not self._is_whole:
            # What a silent hypervisor has is not gone.
            mine = self._directory.hosts.get(self._directory.me)
            entries = {**(mine.guests if mine else {}), **entries}
        return entries

    async def _keep_record(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            if self._directory.changes != self._saved:
                await self._save()

    async def _save(self) -> None:
        changes = self._directory.changes
        try:
            await self._disk.run(record.save, self._folder, record.take(self._directory))
        except (OSError, DiskSlow) as error:
            trouble = f"what the other hosts have is not remembered across a restart: {error}"
            if trouble != self._record_trouble:
                log.error("%s", trouble)
            self._record_trouble = trouble
        else:
            self._saved, self._record_trouble = changes, ""

    async def _keep_nodes(self) -> None:
        """Follow the list of nodes in Corosync's configuration."""
        while True:
            await asyncio.sleep(_NODES_EVERY_S if self._nodes.is_settled else _NODES_AGAIN_S)
            read = await self._read_nodes()
            nodes = self._nodes.take(read, self._known_nodes())
            if nodes is not None:  # else what was known still holds
                self._directory.set_configured(nodes)

    def _known_nodes(self) -> Nodes:
        return {**dict.fromkeys(self._directory.hosts, ""), **(self._directory.configured or {})}

    async def _keep_fences(self) -> None:
        """Find out when hosts were fenced last: Pacemaker may start after them."""
        while True:
            await self._must_note.wait()
            self._must_note.clear()
            nodes, self._unnoted = self._unnoted, set()
            newest, names = await self._hands.newest_fencings(), self._directory.configured
            nodes -= self._unnoted  # of one that has come again meanwhile, this may be too old
            if newest is not None and names is not None:
                named = {node: names[node] for node in nodes if names.get(node)}
                self._told.fences_noted({node: newest.get(name, fenced.NEVER) for node, name in named.items()})
            elif nodes:
                await asyncio.sleep(_FENCES_AGAIN_S)
                self.note_fences(nodes)
