"""Launch intents become machines. Law: document written, then RunInstances, then the answer saved; an unknown outcome is
replayed, never launched again.

A throttle or silence leaves the intent open and a later pass repeats the identical call with the same client token. A
shortage blocks a part of the market for a while and sends the jobs back to the queue, for the next offering.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import structlog

from dstackd import protocol
from dstackd.core.launching import Launched
from dstackd.core.observe import VISIBILITY_GRACE_MS
from dstackd.core.phase import Reason
from dstackd.errors import (
    CapacityShortage,
    CloudError,
    CloudUnavailable,
    InvalidRequest,
    LaunchOver,
    OperatingError,
    Throttled,
)
from dstackd.market import MarketBlocks
from dstackd.ports import Bucket, Clock, Compute
from dstackd.store import launches as store
from dstackd.store.engine import Connection, Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

REFUSED_BLOCK_S = 60.0
"""After a denial or a request that EC2 calls wrong: every launch waits this long, and says why."""
PASS_S = 60.0
"""A pass takes up new intents for this long: passes have to end for the loop to count as alive."""
REPLAY_S = 2.0
"""Before an intent without an answer is replayed."""


class Launches:
    """Calls and saves."""

    name = "launches"
    pass_max_s = 600.0
    interval_s = 5.0

    def __init__(
        self,
        database: Database,
        *,
        compute: Compute,
        bucket: Bucket,
        blocks: MarketBlocks,
        concurrent_max: int,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._compute = compute
        self._bucket = bucket
        self._blocks = blocks
        self._concurrent_max = concurrent_max
        self._is_first_pass = True
        self._sent_s: dict[str, float] = {}
        """Intents whose call may have gone out, and whose answer did not come -> when that was last so, by the monotonic clock."""
        self._under_way = 0
        """Calls of the pass that have not ended."""
        self._clock = clock
        self._wakes = wakes

    async def step(self) -> float:
        """Perform every open intent, and those that come meanwhile; what gets no answer waits for a later pass."""
        self._under_way = 0
        tried: set[str] = set()
        until_s = self._clock.monotonic_s() + PASS_S
        limiter = anyio.CapacityLimiter(self._concurrent_max)
        if self._is_first_pass:  # an earlier process may have sent what is open
            open_ids = [launch.id for launch in await self._open()]
            self._sent_s = dict.fromkeys(open_ids, self._clock.monotonic_s())
            self._is_first_pass = False
        async with anyio.create_task_group() as calls:
            while self._clock.monotonic_s() < until_s:
                for launch in await self._open():
                    if launch.id not in tried:
                        tried.add(launch.id)
                        self._under_way += 1
                        calls.start_soon(self._perform_limited, launch, limiter)
                if not self._under_way:
                    break
                await self._wakes.launches.wait(self.interval_s)
        if not tried:
            self._sent_s.clear()
            return self.interval_s
        left_ids = {launch.id for launch in await self._open()}
        self._sent_s = {each: at_s for each, at_s in self._sent_s.items() if each in left_ids}
        return REPLAY_S if left_ids else self.interval_s

    async def _open(self) -> list[store.Launch]:
        return await self._database.read_own(store.open_launches)

    async def _perform_limited(self, launch: store.Launch, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            try:
                await self._perform(launch)
            except OperatingError as error:  # the intent stays open: the next pass asks EC2 again
                log.warning("launch_not_saved", launch=launch.id, problem=str(error))
        self._under_way -= 1
        self._wakes.launches.ring()

    async def _perform(self, launch: store.Launch) -> None:
        """Write the document, call, save the answer. Repeating any part of it is harmless."""
        try:
            await self._bucket.put(protocol.launch_key(launch.id), launch.document.encode())
            launched = await self._compute.launch(launch.request)
        except (Throttled, CloudUnavailable) as error:
            self._sent_s[launch.id] = self._clock.monotonic_s()
            log.warning(
                "launch_unanswered", launch=launch.id, code=error.code, problem=error.message
            )
            return
        except CapacityShortage as error:
            await self._refused(launch, error)
            return
        except CloudError as error:
            found = await self._read_back(launch, error)
            if not found:
                return
            launched = found
        await self._save(launch, launched)

    async def _save(self, launch: store.Launch, launched: Sequence[Launched]) -> None:
        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> None:
            await store.save_answer(connection, launch, launched, now_ms=now_ms)

        await self._database.write(work)
        log.info(
            "machines_launched",
            launch=launch.id,
            asked=launch.request.count,
            given=len(launched),
            instance_type=launch.request.instance_type,
            market=launch.request.market,
            zone=launch.request.zone,
        )
        self._blocks.forget(launch.request)
        self._wakes.machines.ring()
        self._wakes.inbox.ring()
        self._wakes.logs.ring()
        if len(launched) < launch.request.count:
            self._wakes.planning.ring()

    async def _read_back(
        self, launch: store.Launch, error: CloudError
    ) -> tuple[Launched, ...] | None:
        """EC2 says no: the machines that an earlier call with this token has got all the same, if any.

        A call whose answer was lost may have launched, and what repeats it may be refused for another reason: the
        machines have come and gone, the credentials have changed, the parameters are made by a newer version. So an
        intent is closed only when EC2 shows nothing of it, and has had the time to show what the last such call has launched.
        """
        try:
            snapshot = await self._compute.snapshot()
        except CloudError:
            log.warning(
                "launch_unanswered", launch=launch.id, code=error.code, problem=error.message
            )
            return None
        found = [each for each in snapshot.instances.values() if each.launch_id == launch.id]
        if found:
            return tuple(
                Launched(
                    each.instance_id,
                    each.launch_index,
                    each.launched_at_ms,
                    each.spot_request_id,
                    each.private_ip,
                )
                for each in sorted(found, key=lambda each: each.launch_index)
            )
        sent_s = self._sent_s.get(launch.id)
        if sent_s is not None and self._clock.monotonic_s() - sent_s < VISIBILITY_GRACE_MS / 1000:
            return None
        await self._refused(launch, error)
        return None

    async def _refused(self, launch: store.Launch, error: CloudError) -> None:
        if launch.id in self._sent_s:
            # A call of an earlier process that stalls may yet arrive. Its machines must not find jobs that go elsewhere.
            await self._bucket.delete([protocol.launch_key(launch.id)])
        now_ms = self._clock.now_ms()
        reason = _REASON.get(type(error), Reason.UNAUTHORIZED)
        if isinstance(error, CapacityShortage):
            self._blocks.add(launch.request, error, now_ms=now_ms)
        elif not isinstance(
            error, LaunchOver
        ):  # its machines were there: nothing is wrong with the offering
            self._blocks.add_refusal(launch.request, error, block_s=REFUSED_BLOCK_S, now_ms=now_ms)
        log.warning("launch_refused", launch=launch.id, code=error.code, problem=error.message)

        async def work(connection: Connection) -> None:
            await store.save_failure(
                connection,
                launch,
                code=error.code,
                reason=reason,
                message=error.explained,
                now_ms=now_ms,
            )

        await self._database.write(work)
        self._wakes.planning.ring()


_REASON: dict[type[CloudError], Reason] = {
    CapacityShortage: Reason.NO_CAPACITY,
    InvalidRequest: Reason.INVALID_LAUNCH,
    LaunchOver: Reason.MACHINE_LOST,
}
