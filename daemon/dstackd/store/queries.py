"""What people and monitoring read, and a submitter's insert. Law: JSON-ready dictionaries with columns by their own names,
or frozen records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, literal, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.errors import StorageFailed
from dstackd.store.idle import idle_and_free
from dstackd.store.reaping import long_leaving
from dstackd.store.tables import ATTEMPT, EVENT, JOB, MACHINE

DEFAULT_PROJECT = "main"
"""The column's default."""
DATABASE_ERRORS = (SQLAlchemyError, OSError, StorageFailed)
"""What a read raises when the database is broken, gone or locked (OSError: PostgreSQL's host does not answer)."""

_HIDDEN = frozenset({"version", "next_visit_at_ms", "inputs_digest", "held", "run_at"})
JOB_COLUMNS = [column for column in JOB.c if column.name not in _HIDDEN]
"""What of a job is shown."""
LISTED_COLUMNS = [column for column in JOB_COLUMNS if column.name != "spec"]
"""The same in a list."""


async def list_jobs(
    connection: AsyncConnection, *, active_only: bool, count_max: int, before_seq: int | None = None
) -> list[dict[str, Any]]:
    """Jobs, newest first, without their specs; `before_seq` continues an earlier page."""
    statement = (
        select(*LISTED_COLUMNS, ATTEMPT.c.market, ATTEMPT.c.instance_type, ATTEMPT.c.instance_id)
        .join(
            ATTEMPT,
            (ATTEMPT.c.job_id == JOB.c.id) & (ATTEMPT.c.number == JOB.c.attempt),
            isouter=True,
        )
        .order_by(JOB.c.seq.desc())
        .limit(count_max)
    )
    if active_only:
        statement = statement.where(JOB.c.finished_at_ms.is_(None))
    if before_seq is not None:
        statement = statement.where(JOB.c.seq < before_seq)
    return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - SQLAlchemy's documented name


async def find_job(connection: AsyncConnection, name: str) -> list[dict[str, Any]]:
    """The job with this id; else those whose id begins with it, at most two.

    An array's elements have ids that begin with the array's, so they count only where no other job matches.
    """
    begins = JOB.c.id.startswith(name, autoescape=True)
    for condition in (
        JOB.c.id == name,
        begins & JOB.c.array_parent.is_(None),
        begins & JOB.c.array_parent.is_not(None),
    ):
        rows = await connection.execute(
            select(*JOB_COLUMNS).where(condition).order_by(JOB.c.seq).limit(2)
        )
        if found := [dict(row._mapping) for row in rows]:  # noqa: SLF001 - as above
            return found
    return []


async def job_attempts(connection: AsyncConnection, job_id: str) -> list[dict[str, Any]]:
    """The job's attempts, oldest first; with `idle_since_ms` and `idle_until_ms` where the machine waits for another job."""
    waits = (MACHINE.c.idle_job_id == ATTEMPT.c.job_id) & (
        MACHINE.c.idle_attempt == ATTEMPT.c.number
    )
    statement = (
        select(ATTEMPT, MACHINE.c.idle_since_ms, MACHINE.c.idle_until_ms)
        .join(MACHINE, (MACHINE.c.instance_id == ATTEMPT.c.instance_id) & waits, isouter=True)
        .where(ATTEMPT.c.job_id == job_id)
        .order_by(ATTEMPT.c.number)
    )
    return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - as above


async def job_events(connection: AsyncConnection, job_id: str) -> list[dict[str, Any]]:
    """The job's history, oldest first."""
    statement = select(EVENT).where(EVENT.c.job_id == job_id).order_by(EVENT.c.id)
    return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - as above


async def array_elements(connection: AsyncConnection, job_id: str) -> list[str]:
    """Ids of an array's elements, in order."""
    statement = select(JOB.c.id).where(JOB.c.array_parent == job_id).order_by(JOB.c.array_index)
    return list((await connection.execute(statement)).scalars())


async def insert_job(
    connection: AsyncConnection,
    *,
    job_id: str,
    spec: str,
    project: str | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    run_at: str | None = None,
) -> tuple[str, bool]:
    """Insert one job exactly as a foreign application would; returns its id, and whether it is new: where the project has a
    job with this `unique_key` already, it is that one's. `run_at`: a time as ISO 8601 with its offset.

    `job_id` is fresh: asked again, after a commit whose answer was lost, it is the row of the first time that is found.
    """
    values = {"id": job_id, "spec": spec, "project": project, "priority": priority}
    values |= {"unique_key": unique_key, "run_at": run_at}
    given = {name: value for name, value in values.items() if value is not None}
    on_postgres = connection.dialect.name == "postgresql"
    typed = {"run_at": "CAST(CAST(:run_at AS text) AS timestamptz)"} if on_postgres else {}
    names, places = ", ".join(given), ", ".join(typed.get(name, f":{name}") for name in given)
    # The columns are the literals above: the same plain INSERT that CONTRACT.md shows, defaults by the database.
    insert = f"INSERT INTO job ({names}) VALUES ({places}) ON CONFLICT DO NOTHING RETURNING id"  # noqa: S608
    if (new := (await connection.execute(text(insert), given)).scalar_one_or_none()) is not None:
        return str(new), True
    own = select(JOB.c.id).where(JOB.c.id == job_id)
    if (await connection.execute(own)).scalar_one_or_none() is not None:
        return job_id, True
    kept = select(JOB.c.id).where(
        JOB.c.project == (project or DEFAULT_PROJECT), JOB.c.unique_key == unique_key
    )
    return str((await connection.execute(kept)).scalar_one()), False


async def counts(connection: AsyncConnection, *, now_ms: int) -> dict[str, Any]:
    """Figures for monitoring: jobs by phase (unfinished and finished), oldest waiting job, live machines."""
    phases = await connection.execute(select(JOB.c.phase, func.count()).group_by(JOB.c.phase))
    waiting = await connection.execute(
        select(func.min(JOB.c.submitted_at_ms)).where(JOB.c.phase.in_(("submitted", "queued")))
    )
    machines = await connection.execute(
        select(MACHINE.c.state, MACHINE.c.market, func.count())
        .where(MACHINE.c.gone_at_ms.is_(None))
        .group_by(MACHINE.c.state, MACHINE.c.market)
    )
    idle = await connection.execute(
        select(func.count()).select_from(MACHINE).where(idle_and_free())
    )
    stuck = await connection.execute(
        select(func.count()).select_from(MACHINE).where(long_leaving(now_ms))
    )
    usd_h = await connection.execute(
        select(func.coalesce(func.sum(MACHINE.c.price_usd_h), 0.0)).where(
            MACHINE.c.gone_at_ms.is_(None), MACHINE.c.state != "shutting-down"
        )
    )
    return {
        "jobs": {row[0]: row[1] for row in phases},
        "oldest_waiting_at_ms": waiting.scalar_one_or_none(),
        "machines": [(state, market, count) for state, market, count in machines],
        "idle_machines": idle.scalar_one(),
        "stuck_machines": stuck.scalar_one(),
        "usd_h": float(usd_h.scalar_one()),
    }


async def answers(connection: AsyncConnection) -> bool:
    """True, or an error of DATABASE_ERRORS; costs next to nothing."""
    await connection.execute(select(literal(1)).select_from(JOB).limit(1))
    return True


async def list_machines(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Machines that were not seen gone yet, oldest first, each with the job and attempt that it runs (or null: it is idle,
    until `idle_until_ms` at the latest, or nobody needs it).
    """
    statement = (
        select(MACHINE, ATTEMPT.c.job_id, ATTEMPT.c.number.label("attempt"))
        .join(
            ATTEMPT,
            (ATTEMPT.c.instance_id == MACHINE.c.instance_id)
            & ATTEMPT.c.released_at_ms.is_(None)
            & ATTEMPT.c.ended_at_ms.is_(None),
            isouter=True,
        )
        .where(MACHINE.c.gone_at_ms.is_(None))
        .order_by(MACHINE.c.launched_at_ms, MACHINE.c.instance_id)
    )
    return [dict(row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001 - as above


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """What a reader of one attempt's log must know. `lines_sent` None: the machine has not said how many it wrote.
    `verdict` is empty until there is one (`core.log_verdict`). `lines_seen`: how many have arrived, at whichever daemon.
    """

    number: int
    started: bool
    ended: bool
    lines_sent: int | None
    verdict: str = ""
    lines_seen: int = 0
    launched_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class LogProgress:
    """How far a job is, for those who follow its log; `attempts` are in order."""

    phase: str
    reason: str | None
    message: str
    exit_code: int | None
    finished: bool
    attempts: tuple[AttemptProgress, ...]


async def log_progress(
    connection: AsyncConnection, *, job_ids: Sequence[str]
) -> dict[str, LogProgress]:
    """Progress by job id; one query whatever the number of followers."""
    statement = (
        select(
            *(JOB.c.id, JOB.c.phase, JOB.c.reason, JOB.c.message, JOB.c.exit_code),
            *(JOB.c.finished_at_ms, ATTEMPT.c.number, ATTEMPT.c.started_at_ms),
            *(ATTEMPT.c.ended_at_ms, ATTEMPT.c.log_lines_sent, ATTEMPT.c.log_verdict),
            *(ATTEMPT.c.log_lines_seen, ATTEMPT.c.launched_at_ms),
        )
        .join(ATTEMPT, ATTEMPT.c.job_id == JOB.c.id, isouter=True)
        .where(JOB.c.id.in_(job_ids))
        .order_by(JOB.c.seq, ATTEMPT.c.number)
    )
    jobs: dict[str, tuple[Any, list[AttemptProgress]]] = {}
    for row in await connection.execute(statement):
        _, attempts = jobs.setdefault(row.id, (row, []))
        if row.number is not None:
            started, ended = row.started_at_ms is not None, row.ended_at_ms is not None
            sent, verdict = row.log_lines_sent, row.log_verdict
            seen, launched_at_ms = row.log_lines_seen, row.launched_at_ms or 0
            attempts.append(
                AttemptProgress(row.number, started, ended, sent, verdict, seen, launched_at_ms)
            )
    return {
        job_id: LogProgress(
            phase=row.phase,
            reason=row.reason,
            message=row.message,
            exit_code=row.exit_code,
            finished=row.finished_at_ms is not None,
            attempts=tuple(attempts),
        )
        for job_id, (row, attempts) in jobs.items()
    }
