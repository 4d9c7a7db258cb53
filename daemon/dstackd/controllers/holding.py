"""Lets go the jobs whose time has come and whose needs are met, and ends those whose needs cannot be met any more. Law: it looks at a
held job when it is due and not before; what is let go is the planner's.

A job is held by intake, or by whoever changes `run_at` of a queued one (a trigger). The end of a job makes those that need it due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from dstackd.arrays import array_problem, expand, expanded_text
from dstackd.core.dependency import Need, decide_needs, why_never
from dstackd.core.holding import Hold, decide_hold
from dstackd.core.phase import Phase, Reason
from dstackd.ports import Clock
from dstackd.spec.model import DependencyEnd, JobSpec
from dstackd.store.dependencies import doomed_by, forget_needs, needs_of
from dstackd.store.engine import Connection, Database
from dstackd.store.held import HeldJob, held_arrays, held_jobs, next_held_visit
from dstackd.store.moves import FAR_MS, JobChanges, Move, save_fresh_moves, visit_later
from dstackd.wake import Wakes

PASS_MAX = 500
"""Rows of one transaction."""
EVERYWHERE_EVERY_S = 60.0
"""How often the held jobs of other backends are looked at: theirs may have no daemon any more, and a job that nobody lets go cannot
be launched elsewhere either.
"""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A held job, and what holds it on, or the need that cannot be met; None: nothing holds it."""

    job: HeldJob
    verdict: Hold | Need | None
    is_met: bool = False
    """It had needs, and they are met."""

    @property
    def waits_on(self) -> bool:
        """For other jobs, as its row says: an end that was not the last one costs no event."""
        is_told = self.job.reason == Reason.DEPENDENCY
        return (
            is_told and isinstance(self.verdict, Hold) and self.verdict.reason is Reason.DEPENDENCY
        )


class Holding:
    """Visits held jobs at their time."""

    name = "holding"
    pass_max_s = 60.0

    def __init__(
        self, database: Database, *, clock: Clock, wakes: Wakes, interval_s: float
    ) -> None:
        self._database = database
        self._clock = clock
        self._wakes = wakes
        self._everywhere_at_s = 0.0
        self.interval_s = interval_s

    async def step(self) -> float:
        """Release, end or postpone what is due; then sleep until the next is."""
        while await self._visit(self._database.backend):
            pass
        now_s = self._clock.monotonic_s()
        if self._database.backend is not None and now_s >= self._everywhere_at_s:
            self._everywhere_at_s = now_s + EVERYWHERE_EVERY_S
            while await self._visit(None):
                pass
        next_ms = await self._database.read_own(next_held_visit)
        if next_ms is None:
            return self.interval_s
        # At least a millisecond: a stale save is tried again by then.
        return min(self.interval_s, max(next_ms - self._clock.now_ms(), 1) / 1000)

    async def _visit(self, backend: str | None) -> bool:
        """Whether there may be more of them."""
        now_ms = self._clock.now_ms()
        due = partial(held_jobs, due_at_ms=now_ms, count_max=1, backend=backend)
        if not await self._database.read(due):  # an empty look takes no lock
            return False
        more = await self._database.write(partial(self._judge, now_ms=now_ms, backend=backend))
        self._wakes.inputs.ring()
        self._wakes.planning.ring()
        self._wakes.intake.ring()  # an array's elements have come, or its last one has ended
        return more

    async def _judge(self, connection: Connection, *, now_ms: int, backend: str | None) -> bool:
        due = await held_jobs(connection, due_at_ms=now_ms, count_max=PASS_MAX, backend=backend)
        needs = await needs_of(connection, [job.id for job in due])
        judged = [_judged(job, needs.get(job.id, ()), now_ms) for job in due]
        still = [(each.job.id, each.job.version) for each in judged if each.waits_on]
        await visit_later(connection, still, next_visit_at_ms=FAR_MS)
        ends = await self._ends(connection, judged, now_ms, backend)
        rest = [each for each in judged if not (each.waits_on or isinstance(each.verdict, Need))]
        arrays = await held_arrays(connection, [each.job.id for each in rest if each.is_met])
        moves = [_move(each, now_ms) for each in rest if each.job.id not in arrays]
        stale = set(await save_fresh_moves(connection, [*ends, *moves]))
        for each in rest:
            spec = arrays.get(each.job.id)
            if spec is not None and not await _expand(connection, each.job, spec, now_ms):
                stale.add(each.job.id)
        over = {each.job.id for each in rest if each.is_met or each.verdict is None}
        over |= {move.job_id for move in ends}
        await forget_needs(connection, sorted(over - stale))
        return len(due) == PASS_MAX or bool(ends)

    async def _ends(
        self,
        connection: Connection,
        judged: Sequence[_Judged],
        now_ms: int,
        backend: str | None,
    ) -> list[Move]:
        """Of those whose needs cannot be met, and of all that wait for them in turn, as far as one pass goes."""
        failed = [
            (each.job.id, each.job.version, each.verdict)
            for each in judged
            if isinstance(each.verdict, Need)
        ]
        behind = await doomed_by(
            connection,
            [job_id for job_id, _, _ in failed],
            count_max=PASS_MAX,
            backend=backend,
        )
        first = {job_id for job_id, _, _ in failed}
        failed += [
            (each.job_id, each.version, Need(each.via, DependencyEnd.SUCCESS, Phase.CANCELLED))
            for each in behind
            if each.job_id not in first
        ]
        return [_end(job_id, version, need, now_ms) for job_id, version, need in failed]


def _judged(job: HeldJob, needs: Sequence[Need], now_ms: int) -> _Judged:
    if job.cancel_requested:
        return _Judged(job, None)
    verdict = decide_needs(needs)
    if verdict is not None:
        return _Judged(job, verdict)
    hold = decide_hold(run_at_ms=job.run_at_ms, cancel_requested=False, now_ms=now_ms)
    return _Judged(job, hold, is_met=bool(needs))


async def _expand(connection: Connection, job: HeldJob, spec: JobSpec, now_ms: int) -> bool:
    """The array has waited as one row; its elements wait for their time by themselves. False: the row has moved on."""
    move = Move(job.id, job.version, Phase.QUEUED, now_ms, changes=JobChanges(held=0))
    count = spec.array or 0
    problem = await array_problem(connection, job.id, count)
    if problem is not None:
        text = problem.sentence
        move = replace(move, phase=Phase.FAILED, reason=Reason.BAD_SPEC, message=text)
    else:
        text = expanded_text(job.id, count)
        move = replace(move, phase=Phase.RUNNING, reason=Reason.ARRAY_EXPANDED, message=text)
    if await save_fresh_moves(connection, [move]):
        return False
    if problem is None:
        await expand(connection, job.id, spec)
    return True


def _end(job_id: str, version: int, need: Need, now_ms: int) -> Move:
    return Move(
        job_id,
        version,
        Phase.QUEUED,
        now_ms,
        phase=Phase.CANCELLED,
        reason=Reason.DEPENDENCY_FAILED,
        message=why_never(need),
        changes=JobChanges(held=0),
    )


def _move(each: _Judged, now_ms: int) -> Move:
    hold = each.verdict if isinstance(each.verdict, Hold) else None
    move = Move(each.job.id, each.job.version, Phase.QUEUED, now_ms)
    if hold is None:
        return replace(
            move,
            reason=Reason.ACCEPTED,
            message="waits for its launch",
            next_visit_at_ms=now_ms,
            changes=JobChanges(held=0),
        )
    return replace(
        move,
        reason=hold.reason,
        message=hold.message,
        next_visit_at_ms=FAR_MS if hold.until_ms is None else hold.until_ms,
        changes=JobChanges(held=1),
    )
