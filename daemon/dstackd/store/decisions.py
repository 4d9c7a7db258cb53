"""Decisions about jobs with machines, written down. Law: one transaction for many; the actions are not done here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.decide import Decision
from dstackd.core.job import Attempt, Job
from dstackd.core.phase import Phase
from dstackd.store.machines import end_attempts, set_outcomes
from dstackd.store.moves import FAR_MS, JobChanges, Move, save_fresh_moves, visit_later


@dataclass(frozen=True, slots=True)
class Decided:
    """A job, its attempt, and what was decided about them."""

    job: Job
    attempt: Attempt
    decision: Decision

    def after(self, now_ms: int) -> tuple[Job, Attempt]:
        """Job and attempt as they are once the decision is saved."""
        job = replace(
            self.job,
            phase=self.decision.phase or self.job.phase,
            reason=self.decision.reason,
            message=self.decision.message,
            version=self.job.version + 1,
            phase_since_ms=now_ms,
            next_visit_at_ms=FAR_MS,
        )
        outcome = self.attempt.outcome or self.decision.outcome
        return job, replace(self.attempt, outcome=outcome)


async def save_decisions(
    connection: AsyncConnection, decided: Sequence[Decided], *, now_ms: int
) -> frozenset[str]:
    """Write what was decided; returns the ids of jobs that had moved on, about which nothing was written."""
    staying = [each for each in decided if each.decision.phase is None]
    woken = [
        (each.job.id, each.job.version) for each in staying if each.job.next_visit_at_ms != FAR_MS
    ]
    await visit_later(connection, woken, next_visit_at_ms=FAR_MS)
    moving = [each for each in decided if each.decision.phase is not None]
    stale = await save_fresh_moves(connection, [_move(each, now_ms) for each in moving])
    fresh = [each for each in moving if each.job.id not in stale]
    outcomes = [
        (each.job.id, each.attempt.number, each.decision.outcome)
        for each in fresh
        if each.decision.outcome is not None
    ]
    await set_outcomes(connection, outcomes)
    over = [(each.job.id, each.attempt.number) for each in fresh if _ends_attempt(each)]
    await end_attempts(connection, over, now_ms=now_ms)
    return stale


def _ends_attempt(each: Decided) -> bool:
    """The machine is gone, or has released the attempt and is another job's affair."""
    released = each.attempt.released_at_ms is not None
    return each.job.phase is Phase.TERMINATING or (
        released and each.job.phase is Phase.SEALING and each.decision.outcome is not None
    )


def _move(each: Decided, now_ms: int) -> Move:
    job, attempt, decision = each.job, each.attempt, each.decision
    changes = JobChanges()
    leaves_attempt = job.phase is Phase.TERMINATING or decision.phase is Phase.QUEUED
    if leaves_attempt and attempt.started_at_ms is None and not attempt.reused:
        changes["boot_failures"] = job.boot_failures + 1
    if decision.exit_code is not None:
        changes["exit_code"] = decision.exit_code
    return Move(
        job.id,
        job.version,
        job.phase,
        now_ms,
        phase=decision.phase,
        reason=decision.reason,
        message=decision.message,
        attempt=attempt.number,
        next_visit_at_ms=now_ms if decision.phase is Phase.QUEUED else FAR_MS,
        changes=changes,
    )
