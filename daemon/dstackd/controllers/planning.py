"""Queued jobs become launch intents. Law: nothing is asked of EC2 here but what exists; an intent is committed before any call.

Jobs whose machines would be alike share an intent. Whoever waits gets a reason in words and a time for the next look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import anyio
import structlog

from dstackd.catalogue import Catalogue
from dstackd.core.admission import select_jobs
from dstackd.core.avoidance import avoided
from dstackd.core.bounds import Bounds
from dstackd.core.budget import worst_case_usd
from dstackd.core.job import Job
from dstackd.core.launching import batches, group_by_shape, shape_of
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering, rotated
from dstackd.core.pairing import due, pair
from dstackd.core.phase import Phase, Reason
from dstackd.core.possible import possible_offerings
from dstackd.core.quota import vcpus_by_quota
from dstackd.core.reuse import IdleMachine
from dstackd.core.scheduling import Candidate
from dstackd.core.waiting import (
    Wait,
    decide_queued,
    decide_without_capacity,
    while_leaving,
)
from dstackd.errors import CloudError, StaleRow, Unauthorized
from dstackd.intent import LaunchTerms, document_for, request_for
from dstackd.market import MarketBlocks
from dstackd.ports import Clock, Compute
from dstackd.store import jobs as job_store
from dstackd.store import launches as store
from dstackd.store import reuse as reuse_store
from dstackd.store.engine import Connection, Database
from dstackd.store.live import live_by_type
from dstackd.store.moves import FAR_MS, Move, save_fresh_moves, visit_at
from dstackd.store.usage import read_usage
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

TROUBLE_RETRY_S = 10.0
ELSEWHERE_AFTER_S = 60.0
"""A job that its backend could not launch for this long may be launched by another one that can;"""
ELSEWHERE_EVERY_S = 10.0
"""and it looks for such jobs so often, while its own queue is short."""


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
        allowed: Bounds,
        limits: Limits,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._compute = compute
        self._catalogue = catalogue
        self._blocks = blocks
        self._prepare = prepare
        self._bounds = bounds
        self._allowed = allowed
        self._limits = limits
        self._clock = clock
        self._wakes = wakes
        self._elsewhere: frozenset[str] = frozenset()
        """Ids of jobs in this pass that are another backend's until they are launched: what they wait for is its word."""
        self._looked_elsewhere_s = clock.monotonic_s()
        self._warm = False
        self._turn = 0
        """Counts batches: successive ones begin with other spot pools."""

    async def step(self) -> float:
        """One pass over the queue. What AWS says against it is a job's waiting reason, not the loop's error."""
        if not self._warm:
            await self._warm_up()
        await self._gather()
        if await self._commit_intents():
            self._wakes.launches.ring()
            self._wakes.reusing.ring()
        return self.interval_s

    async def _warm_up(self) -> None:
        """Before the first job: what every launch needs, so that it does not wait seconds for it."""
        self._warm = True
        async with anyio.create_task_group() as group:
            group.start_soon(self._try, self._prepare)
            group.start_soon(self._try, self._catalogue.learn)

    async def _try(self, ask: Callable[[], Awaitable[object]]) -> None:
        try:
            await ask()
        except CloudError as error:  # a job that needs it will say so
            log.warning("not_ready_to_launch", code=error.code, problem=error.explained)

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

        idle = await self._database.read_own(partial(reuse_store.idle_machines, now_ms=now_ms))

        async def read(connection: Connection) -> list[Job]:
            return await job_store.queued_jobs(
                connection,
                # An idle machine is for any job that waits, whatever for.
                due_at_ms=FAR_MS if idle else now_ms,
                count_max=self._bounds.look_ahead,
                now_ms=now_ms,
                backend=self._database.backend,
            )

        queue = await self._database.read(read)
        queue += await self._from_elsewhere(len(queue), now_ms=now_ms)
        judged = [(job, decide_queued(job, now_ms=now_ms)) for job in queue]
        waits = [(job, wait) for job, wait in judged if wait is not None]
        await self._save_waits([each for each in waits if each[0].next_visit_at_ms <= now_ms])
        ready = [job for job, wait in judged if wait is None]
        if not ready:
            return 0
        if self._blocks.knows_limits(now_ms):
            live = await self._database.read_own(live_by_type)
            self._blocks.note_live(vcpus_by_quota(live, self._catalogue.vcpus()))
        try:
            terms = await self._prepare()
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in due(ready, now_ms=now_ms)])
            return 0
        reusing, rest = pair(
            ready,
            [machine for machine in idle if machine.backend == terms.backend],
            bounds=self._allowed,
            limits=self._limits,
            now_ms=now_ms,
        )
        groups = group_by_shape(due(rest, now_ms=now_ms))
        with suppress(CloudError):  # each group's own plan says what is wrong
            if groups:
                await self._catalogue.learn(group[0].spec for group in groups)
        candidates = reusing
        for group in groups:
            candidates += await self._candidates(group)
        return await self._commit_admitted(candidates, terms)

    async def _from_elsewhere(self, queued: int, *, now_ms: int) -> list[Job]:
        """Jobs that other backends could not launch for a while. They stay theirs until then: full ones would hand them to and fro."""
        self._elsewhere = frozenset()
        now_s, backend = self._clock.monotonic_s(), self._database.backend
        room = self._bounds.look_ahead - queued
        if backend is None or room <= 0 or now_s - self._looked_elsewhere_s < ELSEWHERE_EVERY_S:
            return []
        self._looked_elsewhere_s = now_s
        since_ms = now_ms - int(ELSEWHERE_AFTER_S * 1000)
        look = partial(job_store.waiting_elsewhere, since_ms=since_ms, count_max=room)
        found = await self._database.read(partial(look, backend=backend))
        self._elsewhere = frozenset(job.id for job in found)
        return found

    async def _candidates(self, group: Sequence[Job]) -> list[Candidate]:
        """The jobs of a shape with an offering that is open now; the others are told what they wait for."""
        try:
            plan = await self._catalogue.plan(group[0].spec, avoidance=avoided(group[0]))
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in group])
            return []
        if not plan.offerings:
            wait = Wait(Phase.FAILED, Reason.NO_OFFERING, plan.why_none)
            await self._save_waits([(job, wait) for job in group])
            return []
        found: list[Candidate] = []
        waits: list[tuple[Job, Wait]] = []
        for jobs in _alike_in_money(group):
            possible, never = possible_offerings(
                jobs[0],
                plan.offerings,
                spent_usd=jobs[0].spent_usd,
                bounds=self._allowed,
                limits=self._limits,
            )
            if never is not None:
                waits += [(job, never) for job in jobs]
                continue
            open_now, closed = self._choose(jobs, possible)
            found += open_now
            waits += closed
        await self._save_waits(waits)
        return found

    def _choose(
        self, jobs: Sequence[Job], possible: Sequence[Offering]
    ) -> tuple[list[Candidate], list[tuple[Job, Wait]]]:
        """Batch by batch the best open offering, successive batches beginning with other spot pools."""
        now_ms = self._clock.now_ms()
        found: list[Candidate] = []
        rest = list(jobs)
        while rest:
            wanted = min(len(rest), self._bounds.batch_max)
            order = rotated(possible, self._turn)
            choice = self._blocks.choose(order, wanted=wanted, now_ms=now_ms)
            if choice is None:
                refusal = self._blocks.summary(possible, now_ms=now_ms)
                return found, [
                    (job, decide_without_capacity(job, refusal, now_ms=now_ms)) for job in rest
                ]
            batch, rest = rest[: choice.count], rest[choice.count :]
            found += [Candidate(job, choice.offering, job.spent_usd) for job in batch]
            self._blocks.reserve(choice.offering, len(batch))
            self._turn += 1
        return found, []

    async def _commit_admitted(self, candidates: Sequence[Candidate], terms: LaunchTerms) -> int:
        """What the operator's bounds and budgets let through, by priority, fair share and age."""
        if not candidates:
            return 0
        now_ms = self._clock.now_ms()
        usage = await self._database.read_own(
            partial(read_usage, bounds=self._allowed, now_ms=now_ms)
        )
        selection = select_jobs(
            candidates, usage, bounds=self._allowed, limits=self._limits, now_ms=now_ms
        )
        await self._save_waits([(each.job, wait) for each, wait in selection.waits])
        groups: dict[tuple[object, str], list[Candidate]] = {}
        reused = 0
        for each in selection.admitted:
            if each.machine is not None:
                reused += await self._commit_reuse(each, each.machine, terms)
            else:
                groups.setdefault((shape_of(each.job), each.offering.key), []).append(each)
        return reused + sum([await self._commit_group(group, terms) for group in groups.values()])

    async def _commit_reuse(
        self, candidate: Candidate, machine: IdleMachine, terms: LaunchTerms
    ) -> bool:
        launch_id, now_ms = self._clock.new_id(), self._clock.now_ms()

        async def work(connection: Connection) -> None:
            await reuse_store.commit_reuse(
                connection,
                launch_id=launch_id,
                document=document_for(launch_id, [candidate.job], terms),
                machine=machine,
                member=self._member(candidate.job, machine.price_usd_h),
                now_ms=now_ms,
            )

        return await self._committed(work)

    async def _commit_group(self, group: Sequence[Candidate], terms: LaunchTerms) -> int:
        offering = group[0].offering
        jobs = [each.job for each in group]
        try:
            image = await self._compute.image(offering.architecture, gpu=offering.gpu)
        except CloudError as error:
            await self._save_waits([(job, _trouble(error)) for job in jobs])
            return 0
        terms = terms.with_image(image)
        size_max = self._bounds.batch_max
        done = [await self._commit(b, offering, terms) for b in batches(jobs, size_max=size_max)]
        return sum(done)

    async def _commit(self, batch: Sequence[Job], offering: Offering, terms: LaunchTerms) -> bool:
        now_ms = self._clock.now_ms()
        request = request_for(self._clock.new_id(), batch, offering, terms)
        document = document_for(request.launch_id, batch, terms)
        members = [self._member(job, offering.price_usd_h) for job in batch]

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

        return await self._committed(work)

    def _member(self, job: Job, price_usd_h: float) -> store.Member:
        worst_usd = worst_case_usd(job.spec, price_usd_h=price_usd_h, limits=self._limits)
        return store.Member(job.id, job.version, job.attempt + 1, worst_usd or 0.0)

    async def _committed(self, work: Callable[[Connection], Awaitable[None]]) -> bool:
        try:
            await self._database.write(work)
        except StaleRow:  # a cancel came in between, or an idle machine is not idle any more; the next pass sees it
            self._wakes.planning.ring()
            return False
        return True

    async def _save_waits(self, waits: Sequence[tuple[Job, Wait]]) -> None:
        """Write waiting reasons and ends; an unchanged reason costs no event."""
        waits = [each for each in waits if each[0].id not in self._elsewhere]
        if not waits:
            return
        waits = [(job, while_leaving(job, wait)) for job, wait in waits]
        now_ms = self._clock.now_ms()
        later = [
            (_next_ms(wait, now_ms), job.id, job.version)
            for job, wait in waits
            if _is_same(job, wait)
            and wait.retry_s != 0  # else it stays due: postponed, it would be overtaken
        ]
        moves = [_move(job, wait, now_ms) for job, wait in waits if not _is_same(job, wait)]

        async def work(connection: Connection) -> frozenset[str]:
            await visit_at(connection, later)
            return await save_fresh_moves(connection, moves)

        if await self._database.write(work):
            self._wakes.planning.ring()
        if any(wait.phase is not None for _, wait in waits):
            self._wakes.intake.ring()  # it may have been an array's last element


def _alike_in_money(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs by what their worst case depends on beside the offering."""
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        spec = job.spec
        bounds = (spec.max_duration_s, spec.stop_grace_s, spec.reuse_s)
        key = (spec.budget, *bounds, job.spent_usd)
        groups.setdefault(key, []).append(job)
    return list(groups.values())


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
