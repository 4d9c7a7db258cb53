"""What has been over for long, and its removal. Law: a job goes with its attempts and its events or not at all; whatever somebody may still ask
for stays: an array until its last element is gone, a job that one that is not over needs, a job on whose account a machine waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.tables import ATTEMPT, DEPENDENCY, EVENT, JOB, MACHINE, of_backend

Record = dict[str, Any]
"""`{"job": {…}, "attempts": [{…}], "events": [{…}]}` with columns by their own names."""


async def long_over(
    connection: AsyncConnection, *, before_ms: int, count_max: int, backend: str | None = None
) -> list[Record]:
    """The jobs of the backend that ended first, and before `before_ms`; and those that never came to have a backend. At most
    `count_max`, which is at most IDS_MAX.
    """
    old = (
        select(JOB.c.id, JOB.c.finished_at_ms, JOB.c.seq)
        .where(
            JOB.c.finished_at_ms.is_not(None),
            JOB.c.finished_at_ms < before_ms,
            or_(of_backend(JOB.c.backend, backend), JOB.c.backend.is_(None)),
        )
        .order_by(JOB.c.finished_at_ms, JOB.c.seq)
        .limit(count_max)
    )
    after = (0, 0)
    while True:
        begin = (JOB.c.finished_at_ms >= after[0], tuple_(JOB.c.finished_at_ms, JOB.c.seq) > after)
        seen = (await connection.execute(old.where(*begin))).all()
        if not seen:
            return []
        if records := await _records(connection, [row.id for row in seen], before_ms=before_ms):
            return records
        after = (seen[-1].finished_at_ms, seen[-1].seq)  # all of these are wanted


async def _records(
    connection: AsyncConnection, ids: Sequence[str], *, before_ms: int
) -> list[Record]:
    """Of those of the jobs that nobody wants."""
    statement = (
        select(JOB)
        .where(JOB.c.id.in_(ids), ~_is_wanted(before_ms))
        .order_by(JOB.c.finished_at_ms, JOB.c.seq)
    )
    jobs = [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - SQLAlchemy's documented name
    unwanted = [job["id"] for job in jobs]
    attempts = await _of_jobs(connection, ATTEMPT, unwanted, order=ATTEMPT.c.number)
    events = await _of_jobs(connection, EVENT, unwanted, order=EVENT.c.id)
    return [
        {"job": job, "attempts": attempts.get(job["id"], []), "events": events.get(job["id"], [])}
        for job in jobs
    ]


def _is_wanted(before_ms: int) -> ColumnElement[bool]:
    other, parent, element = JOB.alias(), JOB.alias(), JOB.alias()
    needed = (
        DEPENDENCY.c.on_job_id == JOB.c.id,
        other.c.id == DEPENDENCY.c.job_id,
        other.c.finished_at_ms.is_(None),
    )
    parent_is_young = (
        parent.c.id == JOB.c.array_parent,
        or_(parent.c.finished_at_ms.is_(None), parent.c.finished_at_ms >= before_ms),
    )
    pays_a_machine = (MACHINE.c.idle_since_ms.is_not(None), MACHINE.c.idle_job_id == JOB.c.id)
    is_followed = (ATTEMPT.c.job_id == JOB.c.id, ATTEMPT.c.ended_at_ms.is_(None))
    has_elements = (element.c.array_parent == JOB.c.id,)
    return or_(*map(_any, (needed, parent_is_young, pays_a_machine, is_followed, has_elements)))


def _any(conditions: tuple[ColumnElement[bool], ...]) -> ColumnElement[bool]:
    """As EXISTS, job by job: PostgreSQL would turn that into a join with all there is, for the few that are asked for."""
    found: Select[Any] = select(literal_column("1")).where(*conditions).limit(1)
    return found.correlate(JOB).scalar_subquery().is_not(None)


async def _of_jobs(
    connection: AsyncConnection, table: Table, ids: Sequence[str], *, order: ColumnElement[Any]
) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    rows = select(table).where(table.c.job_id.in_(ids)).order_by(order)
    for row in await connection.execute(rows):
        found.setdefault(row.job_id, []).append(dict(row._mapping))  # noqa: SLF001 - as above
    return found


async def remove_jobs(
    connection: AsyncConnection, job_ids: Sequence[str], *, before_ms: int
) -> None:
    """Remove finished jobs with their attempts and events; what they needed goes with them (ON DELETE CASCADE).

    One that a new job has come to need since it was read stays, and is archived again when nobody needs it.
    """
    asked = select(JOB.c.id).where(
        JOB.c.id.in_(job_ids), JOB.c.finished_at_ms.is_not(None), ~_is_wanted(before_ms)
    )
    over = list((await connection.execute(asked)).scalars())
    for table, column in ((EVENT, EVENT.c.job_id), (ATTEMPT, ATTEMPT.c.job_id), (JOB, JOB.c.id)):
        await connection.execute(delete(table).where(column.in_(over)))
