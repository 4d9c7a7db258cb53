"""The client for asynchronous connections. Law: the same functions, with the same meaning, as in `dstackd.client`.

A connection is one of: asyncpg's Connection (or one that its pool lent), psycopg's AsyncConnection, aiosqlite's Connection, an
AsyncConnection or AsyncSession of SQLAlchemy or SQLModel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

from dstackd.client.async_connections import adapt
from dstackd.client.jobs import (
    Enqueued,
    JobStatus,
    NewJob,
    Patience,
    Spec,
    UnknownJob,
)
from dstackd.client.steps import cancel_job, insert_jobs, read_status

__all__ = [
    "Enqueued",
    "JobStatus",
    "NewJob",
    "Spec",
    "UnknownJob",
    "cancel",
    "enqueue",
    "enqueue_many",
    "status",
    "wait",
]


async def enqueue(
    connection: object,
    spec: Spec,
    *,
    job_id: str | None = None,
    project: str = "main",
    priority: int = 0,
    unique_key: str | None = None,
    run_at: datetime | None = None,
) -> Enqueued:
    """See `dstackd.client.enqueue`."""
    job = NewJob(
        spec,
        job_id=job_id,
        project=project,
        priority=priority,
        unique_key=unique_key,
        run_at=run_at,
    )
    return (await enqueue_many(connection, [job]))[0]


async def enqueue_many(connection: object, jobs: Iterable[NewJob]) -> list[Enqueued]:
    """See `dstackd.client.enqueue_many`."""
    adapted = adapt(connection)
    return await adapted.run(insert_jobs(list(jobs), dialect=adapted.dialect))


async def cancel(connection: object, job_id: str) -> bool:
    """See `dstackd.client.cancel`."""
    return await adapt(connection).run(cancel_job(job_id))


async def status(connection: object, job_id: str) -> JobStatus:
    """See `dstackd.client.status`."""
    return await adapt(connection).run(read_status(job_id))


async def wait(connection: object, job_id: str, *, timeout_s: float | None = None) -> JobStatus:
    """See `dstackd.client.wait`."""
    adapted = adapt(connection)
    adapted.refuse_transaction()
    patience = Patience(timeout_s)
    while True:
        try:
            seen = await adapted.run(read_status(job_id))
        finally:
            await adapted.end_read()
        if seen.finished:
            return seen
        await asyncio.sleep(patience.pause_s(seen))
