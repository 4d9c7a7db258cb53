"""Queued jobs become launch intents. Law: nothing is asked of EC2 here but what exists; an intent is committed before any call.

Jobs whose machines would be alike share an intent. Whoever waits gets a reason in words and a time for the next look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from dstackd.catalogue import Catalogue
from dstackd.core.job import Job
from dstackd.core.launching import batches, first_open, group_by_shape
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.core.waiting import Wait, decide_queued, decide_without_capacity
from dstackd.errors import CloudError, StaleRow, Unauthorized
from dstackd.intent import LaunchTerms, document_for, request_for
from dstackd.market import MarketBlocks
from dstackd.ports import Clock, Compute
from dstackd.store import jobs as job_store
from dstackd.store import launches as store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import FAR_MS, Move, save_fresh_moves, visit_later
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

TROUBLE_RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class PlanningBounds:
    """How much at once."""

    batch_max: int = 100
    look_ahead: int = 1000
    quiet_s: float = 0.05
    """A pass begins once no more jobs have come for this long, so that jobs that come together are launched together;"""
    gather_max_s: float = 1.0
    """but this long after the first at the latest."""


class Planning:
    """Judges, plans, commits."""

    name = "planning"
    pass_max_s = 600.0
    interval_s = 5.0

    def __init__(
        self,
        database: Database,
        *,
        compute: Compute,
        catalogue: Catalogue,
        blocks: MarketBlocks,
        prepare: Callable[[], Awaitable[LaunchTerms]],
        bounds: PlanningBounds,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._compute = compute
        self._catalogue = catalogue
        self._blocks = blocks
        self._prepare = prepare
        self._bounds = bounds
        self._clock = clock
        self._wakes = wakes

    async def step(self) -> float:
        """One pass over the queue. What AWS says against it is a job's waiting reason, not the loop's error."""
        await self._gather()
        if await self._commit_intents():
            self._wakes.launches.ring()
        return self.interval_s

    async def _gather(self) -> None:
        began_s = self._clock.monotonic_s()
        while (
            self._bounds.quiet_s and self._clock.monotonic_s() - began_s < self._bounds.gather_max_s
        ):
            if not await self._wakes.planning.wait(self._bounds.quiet_s):
                return

    async def _commit_intents(self) -> int:
        """How many intents were committed."""
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
            return 0
        try:
            terms = await self._prepare()
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in ready])
            return 0
        return sum([await self._commit_group(group, terms) for group in group_by_shape(ready)])

    async def _commit_group(self, group: Sequence[Job], terms: LaunchTerms) -> int:
        try:
            plan = await self._catalogue.plan(group[0].spec)
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in group])
            return 0
        if not plan.offerings:
            wait = Wait(Phase.FAILED, Reason.NO_OFFERING, plan.why_none)
            await self._save_waits([(job, wait) for job in group])
            return 0
        now_ms = self._clock.now_ms()
        offering = first_open(plan.offerings, self._blocks.current(now_ms), now_ms=now_ms)
        if offering is None:
            refusal = self._blocks.summary(plan.offerings, now_ms=now_ms)
            await self._save_waits(
                [(job, decide_without_capacity(job, refusal, now_ms=now_ms)) for job in group]
            )
            return 0
        try:
            image = await self._compute.image(offering.architecture, gpu=offering.gpu)
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in group])
            return 0
        terms = terms.with_image(image)
        size_max = self._bounds.batch_max
        done = [await self._commit(b, offering, terms) for b in batches(group, size_max=size_max)]
        return sum(done)

    async def _commit(self, batch: Sequence[Job], offering: Offering, terms: LaunchTerms) -> bool:
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
            self._wakes.planning.ring()
            return False
        return True

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
            self._wakes.planning.ring()
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
