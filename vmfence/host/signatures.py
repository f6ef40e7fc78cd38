"""The memory of accepted signatures: an exact repeat of a signed packet is refused for good.

Honest clients never repeat the same bytes (each copy has new random bytes), so a repeat is a recording played back.
Kept on disk over restarts: of power actions for as long as their key is in use, of the rest for 30 days or a million,
whichever is more (DESIGN 5).  Used from one thread at a time; every call blocks for the disk.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import time
from collections import OrderedDict
from typing import Any

from vmfence.errors import VmfenceError

log = logging.getLogger(__name__)

FILE_NAME = "signatures.sqlite"
REST_KEPT_S = 30 * 86400
REST_KEPT_COUNT = 1_000_000
_VOLATILE_MAX = 200_000
# How long another process may hold the file before signatures are remembered in memory alone.
LOCKED_S = 0.2
_BATCH = 500
_DIGEST_BYTES = 16
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accepted (
    digest BLOB PRIMARY KEY, key BLOB NOT NULL, is_power INTEGER NOT NULL, at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accepted_rest ON accepted (at) WHERE is_power = 0;
"""


class SignatureMemory:
    """Remembers signatures in *folder*, which is made (mode 0700) when it does not exist.

    Raises VmfenceError when the folder cannot be used.  A disk that fails later does not stop fencing: signatures are
    then remembered in this process alone, and the log says so.  *trouble*: why that is so now, "" while it is not.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, FILE_NAME)
        self._volatile: OrderedDict[bytes, None] = OrderedDict()
        self.trouble = ""
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._database = self._open()
        except (OSError, sqlite3.Error) as error:
            raise VmfenceError(
                f"cannot keep accepted signatures in {folder}",
                str(error),
                "set state_dir to a folder that can be written",
            ) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not os.path.exists(self._path):
                raise
            aside = f"{self._path}.damaged-{int(time.time())}"
            os.rename(self._path, aside)
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._path + suffix, aside + suffix)
            log.error("the memory of accepted signatures is damaged (%s); kept as %s, begun anew", error, aside)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        database = sqlite3.connect(self._path, timeout=LOCKED_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
            database.execute("SELECT count(*) FROM (SELECT 1 FROM accepted LIMIT 1)").fetchone()
        except sqlite3.Error:
            database.close()
            raise
        return database

    def accept(self, signature: bytes, key_id: str, is_power: bool, now: float) -> bool:
        """Remember a signature made with the key of fingerprint *key_id* at *now* (seconds of the wall clock).

        Return whether it was new.  For a power action the return means that it is on the disk.
        """
        digest = signature[:_DIGEST_BYTES]
        if digest in self._volatile:
            return False
        try:
            if is_power:
                self._database.execute("PRAGMA synchronous = FULL")
            row = (digest, bytes.fromhex(key_id)[:_DIGEST_BYTES], int(is_power), int(now))
            added = self._database.execute("INSERT OR IGNORE INTO accepted VALUES (?, ?, ?, ?)", row).rowcount == 1
            if is_power:
                self._database.execute("PRAGMA synchronous = NORMAL")
            if added and self.trouble:
                self.trouble = ""
                log.warning("accepted signatures are kept on disk again")
            return added
        except sqlite3.Error as error:
            return self._accept_volatile(digest, error)

    def _accept_volatile(self, digest: bytes, error: sqlite3.Error) -> bool:
        is_new, self.trouble = not self.trouble, str(error) or type(error).__name__
        if is_new:
            log.error("cannot keep accepted signatures in %s: %s; a restart forgets new ones", self._path, error)
        with contextlib.suppress(sqlite3.Error):
            if self._database.execute("SELECT 1 FROM accepted WHERE digest = ?", (digest,)).fetchone():
                return False
        self._volatile[digest] = None
        if len(self._volatile) > _VOLATILE_MAX:
            self._volatile.popitem(last=False)
        return True

    def expire(self, key_ids: set[str], now: float) -> None:
        """Forget what may be forgotten at *now*.

        Power actions of keys that are not in *key_ids* after 30 days, the rest beyond its time and number.  May run
        beside accept() in a thread of its own: it has its own connection and holds the file only for moments.
        """
        keys = [bytes.fromhex(key_id)[:_DIGEST_BYTES] for key_id in sorted(key_ids)]
        # Not at once: a key that was taken out by mistake and put back must not make old recordings new.
        unused = f"is_power = 1 AND at < ? AND key NOT IN ({','.join('?' * len(keys))})"
        old = int(now) - REST_KEPT_S
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=LOCKED_S, isolation_level=None)) as database:
                _forget(database, unused, [old, *keys])
                count = database.execute("SELECT count(*) FROM accepted WHERE is_power = 0").fetchone()[0]
                _forget(database, "is_power = 0 AND at < ? ORDER BY at", [old], count - REST_KEPT_COUNT)
        except sqlite3.Error as error:
            log.error("cannot tidy %s: %s", self._path, error)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()


def _forget(database: sqlite3.Connection, condition: str, values: list[Any], at_most: float = math.inf) -> None:
    """Delete the rows that meet *condition*, *at_most* so many, in batches that hold nobody up."""
    while at_most > 0:
        some = f"SELECT digest FROM accepted WHERE {condition} LIMIT {int(min(_BATCH, at_most))}"
        count = database.execute(f"DELETE FROM accepted WHERE digest IN ({some})", values).rowcount
        if not count:
            return
        at_most -= count
