"""What the planner would say of one queued job now. Law: its own functions on what is in the table and in memory; commits nothing,
reserves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dstackd.core.avoidance import avoided
from dstackd.core.job import Job
from dstackd.core.launching import group_by_shape
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.core.possible import possible_offerings
from dstackd.core.queue_view import Others, Planned, QueueView, queue_view
from dstackd.core.scheduling import Candidate
from dstackd.core.waiting import Wait, decide_queued, decide_without_capacity
from dstackd.http.context import Insight
from dstackd.store import jobs as job_store
from dstackd.store import reuse as reuse_store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import FAR_MS
from dstackd.store.usage import read_usage

SHAPES_MAX = 20
"""Kinds of machines for which other jobs' places are worked out: a plan of one takes milliseconds."""


class QueueInsight:
    """Asks for one job."""

    def __init__(
        self, database: Database, insight: Insight, *, limits: Limits, now_ms: int
    ) -> None:
        self._database = database
        self._insight = insight
        self._limits = limits
        self._now_ms = now_ms

    async def view(self, job: Job) -> QueueView:
        """Raises CloudError when the region cannot be asked and nothing is remembered of it."""
        now_ms, insight = self._now_ms, self._insight

        async def read(connection: Connection) -> list[Job]:
            return await job_store.queued_jobs(
                connection, due_at_ms=FAR_MS, count_max=insight.look_ahead, now_ms=now_ms
            )

        queued = await self._database.read(read)
        # With what only the queue's own reading knows of it, unless too many come first.
        mine = next((each for each in queued if each.id == job.id), job)
        plan = await insight.catalogue.plan(mine.spec, avoidance=avoided(mine))
        return queue_view(
            mine,
            Planned(
                plan.offerings,
                closed=lambda offering: insight.blocks.closed(offering, now_ms=now_ms),
                why_none=plan.why_none,
            ),
            await self._others(mine, queued),
            await self._database.read(partial(reuse_store.idle_machines, now_ms=now_ms)),
            await self._database.read(partial(read_usage, bounds=insight.bounds, now_ms=now_ms)),
            refused=lambda offerings: self._refused(mine, offerings),
            bounds=insight.bounds,
            limits=self._limits,
            now_ms=now_ms,
        )

    def _refused(self, job: Job, offerings: Sequence[Offering]) -> Wait:
        refusal = self._insight.blocks.summary(offerings, now_ms=self._now_ms)
        return decide_without_capacity(job, refusal, now_ms=self._now_ms)

    async def _others(self, mine: Job, queued: Sequence[Job]) -> Others:
        """The jobs beside it with an offering that is open now; the others are in nobody's way."""
        ready = [
            each
            for each in queued
            if each.id != mine.id and decide_queued(each, now_ms=self._now_ms) is None
        ]
        groups = group_by_shape([mine, *ready])
        candidates: list[Candidate] = []
        for group in groups[:SHAPES_MAX]:
            candidates += await self._candidates([each for each in group if each.id != mine.id])
        complete = len(groups) <= SHAPES_MAX and len(queued) < self._insight.look_ahead
        return Others(tuple(candidates), complete)

    async def _candidates(self, group: Sequence[Job]) -> list[Candidate]:
        if not group:
            return []
        insight = self._insight
        plan = await insight.catalogue.plan(group[0].spec, avoidance=avoided(group[0]))
        found = []
        for job in group:
            possible, _ = possible_offerings(
                job,
                plan.offerings,
                spent_usd=job.spent_usd,
                bounds=insight.bounds,
                limits=self._limits,
            )
            choice = insight.blocks.choose(possible, wanted=1, now_ms=self._now_ms)
            if choice is not None:
                found.append(Candidate(job, choice.offering, job.spent_usd))
        return found
