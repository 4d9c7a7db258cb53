"""Noticing what other processes commit. Law: a hint only; the loops look at the table by themselves now and then.

On SQLite a commit is seen through inotify on the directory, then a burst of looks at `PRAGMA data_version`: the
kernel's event comes with the write to the -wal file, the commit becomes visible one fsync later. A plain
look every FALLBACK_S covers what inotify does not see (a network file system, another operating system).
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import anyio

try:
    import inotify_simple  # type: ignore[import-untyped]  # it ships no types
except ImportError:  # not Linux
    inotify_simple = None

FALLBACK_S = 0.5
FALLBACK_BLIND_S = 0.05
"""Without inotify: 20 looks a second cost about 0.4 % of a core."""
BURST_S = (0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.003, 0.005, 0.005, 0.005, 0.01, 0.02)

PROBE = """SELECT EXISTS (SELECT 1 FROM job WHERE phase = 'submitted'),
    EXISTS (SELECT 1 FROM job WHERE finished_at_ms IS NULL AND next_visit_at_ms <= 0 AND phase <> 'submitted')
    OR EXISTS (SELECT 1 FROM schedule WHERE enabled = 1 AND next_run_at_ms IS NULL AND message = '')"""
"""`<= 0`, though none is less: after an ANALYZE with many jobs that wait for one moment SQLite takes `= 0` for a scan of them all."""


class CommitWatch:
    """Waits for commits to one SQLite file and says what they have left to do."""

    problem = ""
    """As in `pg_watch`: a plain look is quick enough here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        uri = f"file:{self._path.as_posix()}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        self._closing.callback(self._connection.close)
        self._notify = None
        if inotify_simple is not None:
            self._notify = self._closing.enter_context(inotify_simple.INotify(nonblocking=True))
            mask = inotify_simple.flags.MODIFY | inotify_simple.flags.CREATE
            self._notify.add_watch(self._path.parent, mask)
        self._version = self._data_version()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    async def changes(self) -> AsyncGenerator[tuple[bool, bool], None]:
        """(submissions wait, jobs want a look) after each batch of commits, ours included; forever."""
        yield self._probe()
        while True:
            await self._wait_for_commit()
            yield self._probe()

    async def _wait_for_commit(self) -> None:
        while True:
            if self._changed():
                return
            if await self._wait_for_write():
                for pause_s in BURST_S:
                    if self._changed():
                        return
                    await anyio.sleep(pause_s)

    async def _wait_for_write(self) -> bool:
        """Until the kernel reports a write beside the database, or the fallback's time has come."""
        if self._notify is None:
            await anyio.sleep(FALLBACK_BLIND_S)
            return False
        with anyio.move_on_after(FALLBACK_S) as scope:
            await anyio.wait_readable(self._notify.fileno())
        if scope.cancelled_caught:
            return False
        names = {event.name for event in self._notify.read(timeout=0)}
        return any(name.startswith(self._path.name) for name in names)

    def _changed(self) -> bool:
        version = self._data_version()
        changed = version != self._version
        self._version = version
        return changed

    def _data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _probe(self) -> tuple[bool, bool]:
        try:
            submitted, due = self._connection.execute(PROBE).fetchone()
        except sqlite3.OperationalError:  # locked for a moment: better one look too many
            return True, True
        return bool(submitted), bool(due)
