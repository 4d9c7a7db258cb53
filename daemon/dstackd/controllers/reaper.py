"""Machines that nobody needs are terminated. Law: seen orphaned in two snapshots in a row, and only with our exact tags."""

from __future__ import annotations

import structlog

from dstackd.core.instance import Instance, Snapshot
from dstackd.core.orphan import find_orphans
from dstackd.ports import Clock, Compute
from dstackd.store import machines as store
from dstackd.store.engine import Connection, Database

log = structlog.get_logger(__name__)


class Reaper:
    """Reads each snapshot that the machines loop takes."""

    def __init__(self, database: Database, *, compute: Compute, backend: str, clock: Clock) -> None:
        self._database = database
        self._compute = compute
        self._backend = backend
        self._clock = clock
        self._suspects: frozenset[str] = frozenset()

    async def reap(self, snapshot: Snapshot) -> None:
        """Terminate what was an orphan last time and still is. The table is read after the snapshot was taken."""
        now_ms = self._clock.now_ms()
        needed_ids, open_launch_ids = await self._database.read(
            lambda connection: store.needed(connection, now_ms=now_ms)
        )
        orphans = find_orphans(
            snapshot,
            needed_ids=needed_ids,
            open_launch_ids=open_launch_ids,
            now_ms=now_ms,
        )
        confirmed = [orphan for orphan in orphans if orphan.instance_id in self._suspects]
        self._suspects = frozenset(orphan.instance_id for orphan in orphans)
        if not confirmed:
            return
        await self._note(confirmed)
        for orphan in confirmed:
            log.warning(
                "orphan_terminated", instance_id=orphan.instance_id, launch=orphan.launch_id
            )
        await self._compute.terminate([orphan.instance_id for orphan in confirmed])

    async def _note(self, orphans: list[Instance]) -> None:
        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> None:
            for orphan in orphans:
                await store.adopt_orphan(connection, orphan, backend=self._backend, now_ms=now_ms)

        await self._database.write(work)
