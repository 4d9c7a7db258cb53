"""Intents to use a machine again become its next job. Law: document written, then the claim, then the answer saved; the bucket
decides, once, between the daemon and a machine that has waited long enough.

The claim is a write that only the first one makes. Whether it was ours is in the object itself, so a lost answer or a crash
repeats it and reads the same: nobody's memory counts.
"""

from __future__ import annotations

import anyio
import structlog

from dstackd import protocol
from dstackd.errors import CloudError, OperatingError, PreconditionFailed
from dstackd.ports import Bucket, Clock
from dstackd.store import reuse as store
from dstackd.store.engine import Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

REPLAY_S = 2.0
"""Before an intent without an answer is replayed."""


class Reusing:
    """Claims and saves."""

    name = "reusing"
    pass_max_s = 600.0
    interval_s = 5.0

    def __init__(
        self,
        database: Database,
        *,
        bucket: Bucket,
        concurrent_max: int,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._concurrent_max = concurrent_max
        self._clock = clock
        self._wakes = wakes

    async def step(self) -> float:
        """Perform every open intent; what gets no answer waits for a later pass."""
        reuses = await self._database.read_own(store.open_reuses)
        limiter = anyio.CapacityLimiter(self._concurrent_max)
        async with anyio.create_task_group() as calls:
            for reuse in reuses:
                calls.start_soon(self._perform_limited, reuse, limiter)
        return REPLAY_S if reuses else self.interval_s

    async def _perform_limited(self, reuse: store.Reuse, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            try:
                await self._perform(reuse)
            except CloudError as error:
                log.warning(
                    "claim_unanswered", launch=reuse.id, code=error.code, problem=error.message
                )
            except (
                OperatingError
            ) as error:  # the intent stays open: the next pass reads the answer again
                log.warning("claim_not_saved", launch=reuse.id, problem=str(error))

    async def _perform(self, reuse: store.Reuse) -> None:
        """Repeating any part of it is harmless. Raises CloudError when the bucket has not answered."""
        await self._bucket.put(protocol.launch_key(reuse.id), reuse.document.encode())
        taken = await self._claim(reuse)
        now_ms = self._clock.now_ms()
        save = store.save_taken if taken else store.save_refused
        await self._database.write(lambda connection: save(connection, reuse, now_ms=now_ms))
        log.info(
            "machine_used_again" if taken else "machine_left", launch=reuse.id, **_named(reuse)
        )
        if not taken:
            self._wakes.planning.ring()
            return
        for bell in (self._wakes.machines, self._wakes.inbox, self._wakes.logs):
            bell.ring()

    async def _claim(self, reuse: store.Reuse) -> bool:
        """Whether the machine is ours. An object that is there may be our own, of a call whose answer was lost."""
        key = protocol.reuse_key(reuse.instance_id, reuse.number)
        claim = protocol.reuse_claim(reuse.id, index=0)
        try:
            await self._bucket.put(key, claim, only_if_new=True)
        except PreconditionFailed:
            return protocol.read_reuse_claim(await self._bucket.get(key)) == (reuse.id, 0)
        return True


def _named(reuse: store.Reuse) -> dict[str, object]:
    return {"instance_id": reuse.instance_id, "number": reuse.number}
