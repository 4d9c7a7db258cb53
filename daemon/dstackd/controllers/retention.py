"""What is not needed any more is removed. Law: only what belongs to launches and machines of ours that are certainly over.

Launch documents hold the jobs' environment, so they go as soon as every attempt of the launch has ended. What no daemon removes,
because none runs or because nobody knows when it is needed last, the bucket's own lifecycle rules do: they are looked after here.
"""

from __future__ import annotations

from functools import partial

import anyio.to_thread
import structlog

from dstackd import protocol
from dstackd.core.lifecycle import our_rules
from dstackd.errors import InvalidRequest, Unauthorized
from dstackd.log_files import LogFiles
from dstackd.ports import Bucket, Clock
from dstackd.store import retention as store
from dstackd.store.engine import Connection, Database
from dstackd.vitals import Vitals

log = structlog.get_logger(__name__)

_DAY_MS = 86_400_000
RULES_EVERY_S = 86_400.0
"""Somebody else's tool may have set the bucket's rules to its own."""


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
        vitals: Vitals,
        interval_s: float,
        job_logs_days: int,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._files = files
        self._clock = clock
        self._vitals = vitals
        self.interval_s = interval_s
        self._job_logs_days = job_logs_days
        self._cleaned_until_ms = 0
        self._rules_at_s: float | None = None

    async def step(self) -> float:
        """Remove documents, control objects and heartbeats of what ended since the last pass, and old log files; look after
        the bucket's rules.
        """
        now_ms = self._clock.now_ms()
        leftovers = await self._database.read_own(
            partial(store.leftovers, since_ms=self._cleaned_until_ms)
        )
        keys = [protocol.launch_key(launch_id) for launch_id in leftovers.launch_ids]
        for instance_id in leftovers.instance_ids:
            keys += [protocol.control_key(instance_id), protocol.heartbeat_key(instance_id)]
        keys += [protocol.reuse_key(*decision) for decision in leftovers.reuses]
        if keys:
            await self._bucket.delete(keys)
            log.info("bucket_tidied", objects=len(keys))
        self._cleaned_until_ms = leftovers.until_ms
        await self._remove_old_logs(now_ms)
        await self._ensure_rules()
        return self.interval_s

    async def _ensure_rules(self) -> None:
        """Once a day, also where it is refused: then uploads that broke off cost money, and nothing else is wrong."""
        now_s = self._clock.monotonic_s()
        if self._rules_at_s is not None and now_s - self._rules_at_s < RULES_EVERY_S:
            return
        try:
            await self._bucket.ensure_rules(our_rules())
        except (Unauthorized, InvalidRequest) as error:
            problem = f"{error}; {error.advice}" if error.advice else str(error)
            self._vitals.bucket_rules_problem = problem
            log.warning("lifecycle_rules_missing", problem=problem)
        else:
            self._vitals.bucket_rules_problem = ""
        self._rules_at_s = now_s

    async def _remove_old_logs(self, now_ms: int) -> None:
        before_ms = now_ms - self._job_logs_days * _DAY_MS

        kept = await anyio.to_thread.run_sync(self._files.job_ids)
        if not kept:
            return

        async def read(connection: Connection) -> set[str]:
            return await store.finished_before(connection, kept, before_ms=before_ms)

        for job_id in await self._database.read(read):
            await anyio.to_thread.run_sync(self._files.remove, job_id)
