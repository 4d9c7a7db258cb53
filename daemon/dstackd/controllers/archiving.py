"""Finished jobs leave the database for the bucket. Law: what is deleted was read back from the bucket, byte for byte, before.

The object's name comes from its content, so a pass that died between the write and the removal writes the same object
again; where it had removed a part, those jobs are in two objects, with the same lines.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, datetime
from functools import partial

import anyio.lowlevel
import anyio.to_thread
import structlog

from dstackd import protocol
from dstackd.errors import StorageFailed
from dstackd.ports import Bucket, Clock
from dstackd.store import archive as store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import IDS_MAX

log = structlog.get_logger(__name__)

_DAY_MS = 86_400_000
OBJECT_JOBS = IDS_MAX
"""Jobs of one object; about a megabyte before it is packed."""
REMOVED_JOBS = 100
"""Jobs of one transaction: some milliseconds in which nobody else writes."""
PASS_OBJECTS = 40
"""Of one pass: the first one after the key was set may find years."""


class Archiving:
    """Small steps, now and then."""

    name = "archiving"
    pass_max_s = 900.0

    def __init__(
        self, database: Database, *, bucket: Bucket, clock: Clock, interval_s: float, keep_days: int
    ) -> None:
        """`keep_days` 0: nothing is ever archived."""
        self._database = database
        self._bucket = bucket
        self._clock = clock
        self.interval_s = interval_s
        self._keep_days = keep_days

    async def step(self) -> float:
        """Archive what ended more than `keep_days` ago, a bounded number of objects."""
        if self._keep_days:
            for _ in range(PASS_OBJECTS):
                if not await self._archive():
                    break
        return self.interval_s

    async def _archive(self) -> bool:
        """Whether there was something."""
        before_ms = self._clock.now_ms() - self._keep_days * _DAY_MS
        records = await self._database.read_own(
            partial(store.long_over, before_ms=before_ms, count_max=OBJECT_JOBS)
        )
        if not records:
            return False
        body = await anyio.to_thread.run_sync(packed, records)
        key = archive_key(records[0]["job"]["finished_at_ms"], body)
        await self._bucket.put(key, body)
        if await self._bucket.get(key) != body:
            raise StorageFailed(
                f"{key} is not in the bucket as it was written; nothing was removed"
            )
        job_ids = [record["job"]["id"] for record in records]
        for start in range(0, len(job_ids), REMOVED_JOBS):
            await self._remove(job_ids[start : start + REMOVED_JOBS], before_ms)
        log.info("jobs_archived", jobs=len(job_ids), key=key)
        return True

    async def _remove(self, job_ids: list[str], before_ms: int) -> None:
        async def work(connection: Connection) -> None:
            await store.remove_jobs(connection, job_ids, before_ms=before_ms)

        await self._database.write(work)
        await anyio.lowlevel.checkpoint()


def packed(records: list[store.Record]) -> bytes:
    """One line of JSON a job, gzipped; the same records give the same bytes."""
    lines = (
        json.dumps(each, ensure_ascii=False, separators=(",", ":"), default=str) for each in records
    )
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(errors="replace"), mtime=0)


def archive_key(finished_at_ms: int, body: bytes) -> str:
    """The day on which the first of the jobs ended (UTC), and the content."""
    day = datetime.fromtimestamp(finished_at_ms / 1000, UTC)
    digest = hashlib.sha256(body).hexdigest()[:32]
    return f"{protocol.ARCHIVE_PREFIX}{day:%Y/%m/%d}/{finished_at_ms}-{digest}.jsonl.gz"
