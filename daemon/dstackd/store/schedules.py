"""Schedules as rows. Law: a schedule moves on and its job is inserted in one transaction, guarded by the schedule's version; the job's
unique key keeps it from being there twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, or_, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.tables import JOB, SCHEDULE


@dataclass(frozen=True, slots=True)
class Schedule:
    """One row. `next_run_at_ms` None: nobody has judged it since it was written, or it is bad (`message`)."""

    name: str
    cron: str
    timezone: str
    spec: str
    project: str
    priority: int
    overlap: str
    catch_up: str
    created_at_ms: int
    next_run_at_ms: int | None
    last_run_at_ms: int | None
    last_job_id: str | None
    message: str
    version: int


_COLUMNS = [SCHEDULE.c[name] for name in Schedule.__slots__]
_ENABLED = SCHEDULE.c.enabled == 1


async def due_schedules(
    connection: AsyncConnection, *, now_ms: int, bad_ones: bool, count_max: int
) -> list[Schedule]:
    """Whose time has come, and who was written since the last look; `bad_ones`: also those that were found bad."""
    unjudged = and_(
        SCHEDULE.c.next_run_at_ms.is_(None), true() if bad_ones else SCHEDULE.c.message == ""
    )
    statement = (
        select(*_COLUMNS)
        .where(_ENABLED, or_(SCHEDULE.c.next_run_at_ms <= now_ms, unjudged))
        .order_by(SCHEDULE.c.next_run_at_ms, SCHEDULE.c.name)
        .limit(count_max)
    )
    return [Schedule(*row) for row in await connection.execute(statement)]


async def next_run_ms(connection: AsyncConnection) -> int | None:
    """When the next schedule is due; None: none is."""
    statement = select(func.min(SCHEDULE.c.next_run_at_ms)).where(_ENABLED)
    next_ms: int | None = (await connection.execute(statement)).scalar_one_or_none()
    return next_ms


async def move_on(
    connection: AsyncConnection,
    schedule: Schedule,
    *,
    next_run_at_ms: int | None,
    message: str,
    **ran: Any,  # noqa: ANN401 - columns
) -> bool:
    """Write when the schedule is due again; `ran`: `last_run_at_ms` and `last_job_id`. False: the row has moved on, and nothing is written."""
    result = await connection.execute(
        update(SCHEDULE)
        .where(SCHEDULE.c.name == schedule.name, SCHEDULE.c.version == schedule.version)
        .values(next_run_at_ms=next_run_at_ms, message=message, version=schedule.version + 1, **ran)
    )
    return result.rowcount == 1


async def insert_scheduled(connection: AsyncConnection, schedule: Schedule, *, key: str) -> str:
    """The job of this time, as any application would insert it; its id, also where it was there already."""
    given = {
        "spec": schedule.spec,
        "project": schedule.project,
        "priority": schedule.priority,
        "unique_key": key,
    }
    statement = text(
        "INSERT INTO job (spec, project, priority, unique_key) VALUES (:spec, :project, :priority, :unique_key) "
        "ON CONFLICT DO NOTHING RETURNING id"
    )
    job_id = (await connection.execute(statement, given)).scalar_one_or_none()
    if job_id is None:
        there = select(JOB.c.id).where(JOB.c.project == schedule.project, JOB.c.unique_key == key)
        job_id = (await connection.execute(there)).scalar_one()
    return str(job_id)


async def is_open(connection: AsyncConnection, job_id: str) -> bool:
    """Whether there is such a job and it is not over."""
    statement = select(JOB.c.id).where(JOB.c.id == job_id, JOB.c.finished_at_ms.is_(None))
    return (await connection.execute(statement)).scalar_one_or_none() is not None


async def list_schedules(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Every schedule by name, with where its last job is (`last_job_phase`: null where there is none any more)."""
    statement = (
        select(SCHEDULE, JOB.c.phase.label("last_job_phase"))
        .join(JOB, JOB.c.id == SCHEDULE.c.last_job_id, isouter=True)
        .order_by(SCHEDULE.c.name)
    )
    return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - SQLAlchemy's documented name
