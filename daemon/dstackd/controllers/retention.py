"""What is not needed any more is removed. Law: only what belongs to launches and machines of ours that are certainly over.

Launch documents hold the jobs' environment, so they go as soon as every attempt of the launch has ended.
"""

from __future__ import annotations

import anyio.to_thread
import structlog

from dstackd import protocol
from dstackd.log_files import LogFiles
from dstackd.ports import Bucket, Clock
from dstackd.store import retention as store
from dstackd.store.engine import Connection, Database

log = structlog.get_logger(__name__)

_DAY_MS = 86_400_000


class Retention:
    """Small deletions, now and then."""

    name = "retention"
    pass_max_s = 900.0

    def __init__(
        self,
        database: Database,
        *,
        bucket: Bucket,
        files: LogFiles,
        clock: Clock,
        interval_s: float,
        job_logs_days: int,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._files = files
        self._clock = clock
        self.interval_s = interval_s
        self._job_logs_days = job_logs_days
        self._cleaned_until_ms = 0

    async def step(self) -> float:
        """Remove documents, control objects and heartbeats of what ended since the last pass, and old log files."""
        now_ms = self._clock.now_ms()

        async def read(connection: Connection) -> store.Leftovers:
            return await store.leftovers(connection, since_ms=self._cleaned_until_ms)

        leftovers = await self._database.read(read)
        keys = [protocol.launch_key(launch_id) for launch_id in leftovers.launch_ids]
        for instance_id in leftovers.instance_ids:
            keys += [protocol.control_key(instance_id), protocol.heartbeat_key(instance_id)]
        if keys:
            await self._bucket.delete(keys)
            log.info("bucket_tidied", objects=len(keys))
        self._cleaned_until_ms = leftovers.until_ms
        await self._remove_old_logs(now_ms)
        return self.interval_s

    async def _remove_old_logs(self, now_ms: int) -> None:
        before_ms = now_ms - self._job_logs_days * _DAY_MS

        async def read(connection: Connection) -> list[str]:
            return await store.jobs_finished_before(connection, before_ms=before_ms)

        kept = await anyio.to_thread.run_sync(self._files.job_ids)
        if kept:
            old = set(await self._database.read(read))
            for job_id in kept & old:
                await anyio.to_thread.run_sync(self._files.remove, job_id)
