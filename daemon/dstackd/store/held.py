"""Queued jobs that are not to be launched yet. Law: read by the index job_held, so that nothing else pays for them, however many
they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.spec.model import JobSpec
from dstackd.store.dependencies import HELD
from dstackd.store.jobs import read_spec
from dstackd.store.tables import JOB, of_backend


@dataclass(frozen=True, slots=True)
class HeldJob:
    """What the decision to hold it on needs, beside what it needs itself; its spec is not read."""

    id: str
    version: int
    cancel_requested: bool
    run_at_ms: int | None
    reason: str | None


async def held_jobs(
    connection: AsyncConnection, *, due_at_ms: int, count_max: int, backend: str | None = None
) -> list[HeldJob]:
    """Held jobs to be visited by `due_at_ms`, the most overdue first."""
    statement = (
        select(JOB.c.id, JOB.c.version, JOB.c.cancel_requested, JOB.c.run_at_ms, JOB.c.reason)
        .where(HELD, JOB.c.next_visit_at_ms <= due_at_ms, of_backend(JOB.c.backend, backend))
        .order_by(JOB.c.next_visit_at_ms)
        .limit(count_max)
    )
    rows = await connection.execute(statement)
    return [HeldJob(row[0], row[1], bool(row[2]), *row[3:]) for row in rows]


async def held_arrays(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, JobSpec]:
    """Those of the jobs that are arrays, with their specs."""
    statement = select(JOB.c.id, JOB.c.spec).where(JOB.c.id.in_(job_ids))
    specs = {row.id: read_spec(row.spec) for row in await connection.execute(statement)}
    return {
        job_id: spec
        for job_id, spec in specs.items()
        if isinstance(spec, JobSpec) and spec.array is not None
    }


async def next_held_visit(connection: AsyncConnection, *, backend: str | None = None) -> int | None:
    """When the next held job is to be looked at, in milliseconds; None: there is none."""
    statement = (
        select(JOB.c.next_visit_at_ms)
        .where(HELD, of_backend(JOB.c.backend, backend))
        .order_by(JOB.c.next_visit_at_ms)
        .limit(1)
    )
    return (await connection.execute(statement)).scalar_one_or_none()
