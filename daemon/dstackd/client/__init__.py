"""For applications in Python: jobs put into the queue in the application's own transaction.

Law: the table is the contract (migrations/CONTRACT.md), this only writes it for you. It never commits and never rolls back
what the caller has begun; it needs nothing but the standard library and the connection that it is given.

    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO report ...")
        job = enqueue(connection, {"commands": ["python report.py"]}, unique_key="report-2027-01")

A connection is one of: sqlite3, psycopg, psycopg2, pg8000 or another driver of the DB-API (PEP 249); Django's
`django.db.connection`; a Connection or Session of SQLAlchemy or SQLModel. Asynchronous ones (asyncpg, psycopg, aiosqlite, SQLAlchemy)
go to `dstackd.client.aio`, which has the same functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

from dstackd.client.connections import adapt
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


def enqueue(
    connection: object,
    spec: Spec,
    *,
    job_id: str | None = None,
    project: str = "main",
    priority: int = 0,
    unique_key: str | None = None,
    run_at: datetime | None = None,
) -> Enqueued:
    """Insert one job; it exists for the daemon once the caller commits.

    With `unique_key`, a job of the project that has the key already is answered instead. Raises SpecError for a spec that the
    daemon would reject, ValueError for a `run_at` without a time zone, and whatever the driver raises.
    """
    job = NewJob(
        spec,
        job_id=job_id,
        project=project,
        priority=priority,
        unique_key=unique_key,
        run_at=run_at,
    )
    return enqueue_many(connection, [job])[0]


def enqueue_many(connection: object, jobs: Iterable[NewJob]) -> list[Enqueued]:
    """Insert many jobs with one statement for each hundred; the answers are in their order. All specs are read before the first INSERT."""
    adapted = adapt(connection)
    return adapted.run(insert_jobs(list(jobs), dialect=adapted.dialect))


def cancel(connection: object, job_id: str) -> bool:
    """Ask for the job's end, in the caller's transaction; False when it is over already. Raises UnknownJob."""
    return adapt(connection).run(cancel_job(job_id))


def status(connection: object, job_id: str) -> JobStatus:
    """Where the job is, as the transaction sees it. Raises UnknownJob."""
    return adapt(connection).run(read_status(job_id))


def wait(connection: object, job_id: str, *, timeout_s: float | None = None) -> JobStatus:
    """The job's status once it is over; it is looked at twice a second at first, every 5 s later.

    The connection has to be outside a transaction: before a commit there is no job to wait for. Raises TimeoutError after
    `timeout_s` (None: never), UnknownJob, RuntimeError for a connection within a transaction.
    """
    adapted = adapt(connection)
    adapted.refuse_transaction()
    patience = Patience(timeout_s)
    while True:
        try:
            seen = adapted.run(read_status(job_id))
        finally:
            adapted.end_read()
        if seen.finished:
            return seen
        time.sleep(patience.pause_s(seen))
