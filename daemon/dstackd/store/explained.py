"""What an explanation of one job needs beside its rows. Law: reads only, of one job; O(1) but for an array's count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.dependency import Need
from dstackd.core.job import Attempt, Job
from dstackd.core.phase import HAS_MACHINE
from dstackd.store.attempts import attempt_columns, attempt_of
from dstackd.store.dependencies import needs_of
from dstackd.store.jobs import job_of
from dstackd.store.leaving import leaving_count
from dstackd.store.tables import ATTEMPT, EVENT, JOB, LAUNCH, MACHINE


@dataclass(frozen=True, slots=True)
class OpenIntent:
    """The launch of the current attempt, while its answer is not saved. `reuses`: the idle machine that gets the job."""

    count: int
    instance_type: str
    market: str
    zone: str
    created_at_ms: int
    reuses: str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """One job as the decisions see it."""

    job: Job
    attempt: Attempt | None
    """The current one; None: none has a machine."""
    machine_gone: bool
    """Its machine was seen gone, or was absent twice."""
    intent: OpenIntent | None
    elements: dict[str, int]
    reason_since_ms: int | None
    needs: tuple[Need, ...]
    """Of a held job."""


async def read_subject(connection: AsyncConnection, job_id: str) -> Subject | None:
    """The job, or None when somebody has deleted it meanwhile."""
    statement = select(
        JOB,
        leaving_count().label("leaving"),
        leaving_count(beside_current=True).label("leaving_beside"),
    ).where(JOB.c.id == job_id)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    job = job_of(row)
    return Subject(
        job=replace(job, leaving=row.leaving_beside if job.phase in HAS_MACHINE else row.leaving),
        attempt=await _attempt(connection, job),
        machine_gone=await _machine_gone(connection, job),
        intent=await _intent(connection, job),
        elements=await _elements(connection, job_id),
        reason_since_ms=await _reason_since_ms(connection, job),
        needs=tuple((await needs_of(connection, [job_id])).get(job_id, ())),
    )


async def _attempt(connection: AsyncConnection, job: Job) -> Attempt | None:
    statement = select(*attempt_columns()).where(
        ATTEMPT.c.job_id == job.id,
        ATTEMPT.c.number == job.attempt,
        ATTEMPT.c.instance_id.is_not(None),
        ATTEMPT.c.launched_at_ms.is_not(None),
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else attempt_of(row)


async def _machine_gone(connection: AsyncConnection, job: Job) -> bool:
    statement = (
        select(MACHINE.c.gone_at_ms)
        .join(ATTEMPT, ATTEMPT.c.instance_id == MACHINE.c.instance_id)
        .where(ATTEMPT.c.job_id == job.id, ATTEMPT.c.number == job.attempt)
    )
    return (await connection.execute(statement)).scalar_one_or_none() is not None


async def _intent(connection: AsyncConnection, job: Job) -> OpenIntent | None:
    statement = (
        select(
            LAUNCH.c.count,
            *(ATTEMPT.c.instance_type, ATTEMPT.c.market, ATTEMPT.c.zone),
            *(LAUNCH.c.created_at_ms, LAUNCH.c.reuses),
        )
        .join(ATTEMPT, ATTEMPT.c.launch_id == LAUNCH.c.id)
        .where(
            ATTEMPT.c.job_id == job.id,
            ATTEMPT.c.number == job.attempt,
            LAUNCH.c.state == "intended",
        )
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else OpenIntent(*row)


async def _elements(connection: AsyncConnection, job_id: str) -> dict[str, int]:
    statement = (
        select(JOB.c.phase, func.count()).where(JOB.c.array_parent == job_id).group_by(JOB.c.phase)
    )
    return {row[0]: row[1] for row in await connection.execute(statement)}


async def _reason_since_ms(connection: AsyncConnection, job: Job) -> int | None:
    """When the run of events with this reason began; the words may have changed meanwhile."""
    if job.reason is None:
        return None
    last_other: Any = (
        select(func.coalesce(func.max(EVENT.c.id), 0))
        .where(EVENT.c.job_id == job.id, EVENT.c.reason.is_not(None), EVENT.c.reason != job.reason)
        .scalar_subquery()
    )
    statement = select(func.min(EVENT.c.at_ms)).where(
        EVENT.c.job_id == job.id, EVENT.c.reason == job.reason, EVENT.c.id > last_other
    )
    since_ms: int | None = (await connection.execute(statement)).scalar_one_or_none()
    return since_ms
