"""Queued jobs become machines. Law: intent committed, document written, then RunInstances; an unknown outcome is replayed,
never launched again.

A throttle or silence leaves the intent open and the next pass repeats the identical call with the same client
token. A shortage blocks a part of the market for a while and sends the jobs to the next offering.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import structlog

from dstackd import protocol
from dstackd.catalogue import Catalogue
from dstackd.core.job import Job
from dstackd.core.launching import Launched, batches, first_open, group_by_shape
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.core.waiting import Wait, decide_queued, decide_without_capacity
from dstackd.errors import (
    CapacityShortage,
    CloudError,
    CloudUnavailable,
    InvalidRequest,
    LaunchOver,
    StaleRow,
    StoreBusy,
    Throttled,
    Unauthorized,
)
from dstackd.intent import LaunchTerms, document_for, request_for
from dstackd.market import MarketBlocks
from dstackd.ports import Bucket, Clock, Compute
from dstackd.store import jobs as job_store
from dstackd.store import launches as store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import FAR_MS, Move, save_fresh_moves, visit_later
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

REFUSED_BLOCK_S = 60.0
"""After a denial or a request that EC2 calls wrong: every launch waits this long, and says why."""
TROUBLE_RETRY_S = 10.0
REPLAY_S = 2.0
"""Before an intent without an answer is replayed."""


@dataclass(frozen=True, slots=True)
class LaunchBounds:
    """How much at once."""

    batch_max: int = 100
    concurrent_max: int = 5
    look_ahead: int = 1000


class Launches:
    """Plans, commits, calls, saves."""

    name = "launches"
    pass_max_s = 600.0
    interval_s = 5.0

    def __init__(
        self,
        database: Database,
        *,
        compute: Compute,
        bucket: Bucket,
        catalogue: Catalogue,
        prepare: Callable[[], Awaitable[LaunchTerms]],
        bounds: LaunchBounds,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._compute = compute
        self._bucket = bucket
        self._catalogue = catalogue
        self._prepare = prepare
        self._bounds = bounds
        self._clock = clock
        self._wakes = wakes
        self._blocks = MarketBlocks()

    async def step(self) -> float:
        """Replay what is open, then launch what waits. The error of a call is a job's waiting reason, not the loop's."""
        open_launches = await self._database.read(store.open_launches)
        open_launches += await self._commit_intents()
        async with anyio.create_task_group() as calls:
            limiter = anyio.CapacityLimiter(self._bounds.concurrent_max)
            for launch in open_launches:
                calls.start_soon(self._perform_limited, launch, limiter)
        unanswered = await self._database.read(store.open_launches)
        return REPLAY_S if unanswered else self.interval_s

    async def _commit_intents(self) -> list[store.Launch]:
        now_ms = self._clock.now_ms()

        async def read(connection: Connection) -> list[Job]:
            return await job_store.queued_jobs(
                connection, due_at_ms=now_ms, count_max=self._bounds.look_ahead
            )

        judged = [
            (job, decide_queued(job, now_ms=now_ms)) for job in await self._database.read(read)
        ]
        await self._save_waits([(job, wait) for job, wait in judged if wait is not None])
        ready = [job for job, wait in judged if wait is None]
        if not ready:
            return []
        try:
            terms = await self._prepare()
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in ready])
            return []
        launches: list[store.Launch] = []
        for group in group_by_shape(ready):
            launches += await self._commit_group(group, terms)
        return launches

    async def _commit_group(self, group: Sequence[Job], terms: LaunchTerms) -> list[store.Launch]:
        try:
            plan = await self._catalogue.plan(group[0].spec)
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in group])
            return []
        if not plan.offerings:
            wait = Wait(Phase.FAILED, Reason.NO_OFFERING, plan.why_none)
            await self._save_waits([(job, wait) for job in group])
            return []
        now_ms = self._clock.now_ms()
        offering = first_open(plan.offerings, self._blocks.current(now_ms), now_ms=now_ms)
        if offering is None:
            refusal = self._blocks.summary(plan.offerings, now_ms=now_ms)
            await self._save_waits(
                [(job, decide_without_capacity(job, refusal, now_ms=now_ms)) for job in group]
            )
            return []
        try:
            image = await self._compute.image(offering.architecture, gpu=offering.gpu)
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in group])
            return []
        terms = terms.with_image(image)
        return [
            launch
            for batch in batches(group, size_max=self._bounds.batch_max)
            if (launch := await self._commit(batch, offering, terms)) is not None
        ]

    async def _commit(
        self, batch: Sequence[Job], offering: Offering, terms: LaunchTerms
    ) -> store.Launch | None:
        now_ms = self._clock.now_ms()
        request = request_for(self._clock.new_id(), batch, offering, terms)
        document = document_for(request.launch_id, batch, terms)
        members = [store.Member(job.id, job.version, job.attempt + 1) for job in batch]

        async def work(connection: Connection) -> None:
            await store.commit_intent(
                connection,
                backend=terms.backend,
                request=request,
                document=document,
                offering=offering,
                members=members,
                now_ms=now_ms,
            )

        try:
            await self._database.write(work)
        except StaleRow:  # a cancel came in between; the next pass sees it
            self._wakes.launches.ring()
            return None
        return store.Launch(request.launch_id, request, document, now_ms)

    async def _perform_limited(self, launch: store.Launch, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            try:
                await self._perform(launch)
            except StoreBusy as error:  # the intent stays open: the next pass asks EC2 again
                log.warning("launch_not_saved", launch=launch.id, problem=str(error))

    async def _perform(self, launch: store.Launch) -> None:
        """Write the document, call, save the answer. Repeating any part of it is harmless."""
        try:
            await self._bucket.put(protocol.launch_key(launch.id), launch.document.encode())
            launched = await self._call(launch)
        except (Throttled, CloudUnavailable) as error:
            log.warning(
                "launch_unanswered", launch=launch.id, code=error.code, problem=error.message
            )
            return
        except CloudError as error:
            await self._refused(launch, error)
            return
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
            self._wakes.launches.ring()

    async def _call(self, launch: store.Launch) -> tuple[Launched, ...]:
        """RunInstances; when its machines have come and gone already, what EC2 still shows of them.

        That is how a daemon that was away between the call and the answer learns that its jobs have run.
        """
        try:
            return await self._compute.launch(launch.request)
        except LaunchOver:
            snapshot = await self._compute.snapshot()
            found = [i for i in snapshot.instances.values() if i.launch_id == launch.id]
            if not found:
                raise
            return tuple(
                Launched(i.instance_id, i.launch_index, i.spot_request_id, i.private_ip)
                for i in sorted(found, key=lambda i: i.launch_index)
            )

    async def _refused(self, launch: store.Launch, error: CloudError) -> None:
        now_ms = self._clock.now_ms()
        reason = _REASON.get(type(error), Reason.UNAUTHORIZED)
        if isinstance(error, CapacityShortage):
            self._blocks.add(launch.request, error, now_ms=now_ms)
        elif not isinstance(error, LaunchOver):
            self._blocks.add_refusal(error, block_s=REFUSED_BLOCK_S, now_ms=now_ms)
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
        self._wakes.launches.ring()

    async def _save_waits(self, waits: Sequence[tuple[Job, Wait]]) -> None:
        """Write waiting reasons and ends; an unchanged reason costs no event."""
        if not waits:
            return
        now_ms = self._clock.now_ms()
        same = [pair for pair in waits if _is_same(*pair)]
        moves = [_move(job, wait, now_ms) for job, wait in waits if not _is_same(job, wait)]

        async def work(connection: Connection) -> frozenset[str]:
            for job, wait in same:
                await visit_later(
                    connection, [(job.id, job.version)], next_visit_at_ms=_next_ms(wait, now_ms)
                )
            return await save_fresh_moves(connection, moves)

        if await self._database.write(work):
            self._wakes.launches.ring()
        if any(wait.phase is not None for _, wait in waits):
            self._wakes.intake.ring()  # it may have been an array's last element


def _is_same(job: Job, wait: Wait) -> bool:
    return wait.phase is None and (wait.reason, wait.message) == (job.reason, job.message)


def _next_ms(wait: Wait, now_ms: int) -> int:
    return FAR_MS if wait.retry_s is None else now_ms + int(wait.retry_s * 1000)


def _move(job: Job, wait: Wait, now_ms: int) -> Move:
    return Move(
        job.id,
        job.version,
        Phase.QUEUED,
        now_ms,
        phase=wait.phase,
        reason=wait.reason,
        message=wait.message,
        next_visit_at_ms=_next_ms(wait, now_ms),
    )


def _trouble(error: CloudError) -> Wait:
    """AWS cannot be asked, or says no, before anything was launched: the jobs wait and look again."""
    reason = Reason.UNAUTHORIZED if isinstance(error, Unauthorized) else Reason.CLOUD_UNAVAILABLE
    return Wait(None, reason, error.explained, retry_s=TROUBLE_RETRY_S)


_REASON: dict[type[CloudError], Reason] = {
    CapacityShortage: Reason.NO_CAPACITY,
    InvalidRequest: Reason.INVALID_LAUNCH,
    LaunchOver: Reason.MACHINE_LOST,
}
