"""Reading jobs, and the few writes that are no moves. Law: what comes out is frozen and parsed; a spec is parsed once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.avoidance import pool
from dstackd.core.job import Attempt, Job
from dstackd.core.phase import HAS_MACHINE, Phase, Reason
from dstackd.spec.errors import SpecError
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec_json
from dstackd.store.attempts import attempt_columns, attempt_of
from dstackd.store.idle import idle_usd
from dstackd.store.leaving import leaving_count, leaving_usd
from dstackd.store.moves import IDS_MAX
from dstackd.store.queue_heads import queue_heads
from dstackd.store.tables import ATTEMPT, JOB, THE_TIME, of_backend

SPECS_KEPT = 20_000
"""Parsed specs in memory: a live job is read on every pass, and its text never changes."""

REFUSED = (DBAPIError,)
"""What a write raises when the database refuses a row (an outage and a lock are other errors: `Database.write`)."""
UNSTAGED = "null"
"""`inputs_digest` of an accepted job whose inputs of the control host are not in the bucket; `[]`: it has none, or was not accepted."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A row as a submitter left it: the spec is text that nobody has judged yet."""

    id: str
    spec: str
    version: int
    cancel_requested: bool
    array_index: int | None
    run_at_ms: int | None


_SUBMISSIONS = (
    select(
        *(JOB.c.id, JOB.c.spec, JOB.c.version, JOB.c.cancel_requested),
        *(JOB.c.array_index, JOB.c.run_at_ms),
    )
    .where(JOB.c.phase == "submitted")
    .order_by(JOB.c.seq)
    .limit(bindparam("the_count"))
)


async def submissions(connection: AsyncConnection, *, count_max: int) -> list[Submission]:
    """The oldest rows that nobody has accepted or rejected."""
    rows = await connection.execute(_SUBMISSIONS, {"the_count": count_max})
    return [Submission(*row[:3], bool(row[3]), *row[4:]) for row in rows]


def element_id(parent_id: str, index: int) -> str:
    """The id of one job of an array."""
    return f"{parent_id}-{index}"


async def add_array_elements(
    connection: AsyncConnection, *, parent_id: str, element_spec: str, count: int
) -> None:
    """Insert the elements of an array, as submissions of their own."""
    parent = JOB.alias()
    row = (
        await connection.execute(
            select(parent.c.project, parent.c.priority).where(parent.c.id == parent_id)
        )
    ).one()
    # Copied within the database: PostgreSQL's column is no text, and SQLite's is.
    run_at = select(parent.c.run_at).where(parent.c.id == parent_id).scalar_subquery()
    await connection.execute(
        insert(JOB).values(run_at=run_at),
        [
            {
                "id": element_id(parent_id, index),
                "spec": element_spec,
                "project": row.project,
                "priority": row.priority,
                "array_parent": parent_id,
                "array_index": index,
            }
            for index in range(count)
        ],
    )


async def first_taken(connection: AsyncConnection, ids: Sequence[str]) -> str | None:
    """One of `ids` that a job has already, or None."""
    for start in range(0, len(ids), IDS_MAX):
        statement = select(JOB.c.id).where(JOB.c.id.in_(ids[start : start + IDS_MAX])).limit(1)
        if (found := (await connection.execute(statement)).scalar_one_or_none()) is not None:
            return str(found)
    return None


async def elements_cost_usd(connection: AsyncConnection, parent_id: str) -> float:
    """What the elements of an array have cost together."""
    total = await connection.execute(
        select(func.coalesce(func.sum(JOB.c.cost_usd), 0.0)).where(JOB.c.array_parent == parent_id)
    )
    return float(total.scalar_one())


async def queued_jobs(
    connection: AsyncConnection,
    *,
    due_at_ms: int,
    count_max: int,
    now_ms: int | None = None,
    backend: str | None = None,
) -> list[Job]:
    """Queued jobs to be visited by `due_at_ms`: highest priority first, then oldest; with what EC2 took from them.
    `now_ms` None: now is when they are due.

    Of more than `count_max`, those whose turn it is among the projects of a priority (`queue_heads`).
    """
    times = {"the_due": due_at_ms, "the_time": due_at_ms if now_ms is None else now_ms}
    rows = await connection.execute(_queued_jobs(backend), times | {"the_count": count_max})
    return [_queued_job(row) for row in rows]


@cache
def _queued_jobs(backend: str | None) -> Select[Any]:
    due_at_ms = bindparam("the_due", type_=BigInteger)
    heads = queue_heads(due_at_ms=due_at_ms, count_max=bindparam("the_count"), backend=backend)
    return (
        select(
            JOB,
            _if_tried(_interruptions()).label("interruptions"),
            _if_tried(leaving_count()).label("leaving"),
            _if_tried(leaving_usd()).label("leaving_usd"),
            _if_tried(idle_usd()).label("idle_usd"),
            ATTEMPT.c.outcome.label("last_outcome"),
            ATTEMPT.c.instance_type.label("last_type"),
            ATTEMPT.c.zone.label("last_zone"),
            ATTEMPT.c.market.label("last_market"),
            ATTEMPT.c.reused.label("last_reused"),
            ATTEMPT.c.started_at_ms.label("last_started_at_ms"),
        )
        .join(heads, heads.c.seq == JOB.c.seq)
        .outerjoin(ATTEMPT, and_(ATTEMPT.c.job_id == JOB.c.id, ATTEMPT.c.number == JOB.c.attempt))
        .order_by(JOB.c.priority.desc(), JOB.c.seq)
    )


def _interruptions() -> ScalarSelect[Any]:
    past = ATTEMPT.alias()
    return (
        select(func.count())
        .where(past.c.job_id == JOB.c.id, past.c.outcome == "interrupted")
        .scalar_subquery()
    )


def _if_tried(found: ScalarSelect[Any]) -> ColumnElement[Any]:
    """A job without attempts has none of this: most of the queue is not asked."""
    return case((JOB.c.attempt > 0, found), else_=0)


async def waiting_elsewhere(
    connection: AsyncConnection, *, backend: str, since_ms: int, count_max: int
) -> list[Job]:
    """Jobs that another backend has taken and not launched since `since_ms`, and that nothing ties to it: none of their
    attempts has begun, and none of their inputs is in its bucket.
    """
    statement = (
        select(JOB)
        .where(
            JOB.c.phase == "queued",
            JOB.c.held == 0,
            JOB.c.backend != backend,
            JOB.c.phase_since_ms <= since_ms,
            JOB.c.attempt == 0,
            JOB.c.inputs_digest == "[]",
            JOB.c.cancel_requested == 0,
        )
        .order_by(JOB.c.priority.desc(), JOB.c.seq)
        .limit(count_max)
    )
    return [job_of(row) for row in await connection.execute(statement)]


def _queued_job(row: Row[Any]) -> Job:
    if row.attempt == 0:
        return job_of(row)
    job = replace(
        job_of(row),
        leaving=row.leaving,
        leaving_usd=(row.leaving_usd or 0.0) + (row.idle_usd or 0.0),
        needs_own_machine=bool(row.last_reused) and row.last_started_at_ms is None,
    )
    if not row.interruptions:
        return job
    taken = row.last_outcome == "interrupted"
    reclaimed = pool(row.last_type, row.last_zone, row.last_market) if taken else ""
    return replace(job, interruptions=row.interruptions, reclaimed=reclaimed)


async def jobs_to_stage(connection: AsyncConnection, *, backend: str | None = None) -> list[Job]:
    """Queued jobs whose inputs are not in the bucket yet."""
    return [job_of(row) for row in await connection.execute(_jobs_to_stage(backend))]


@cache
def _jobs_to_stage(backend: str | None) -> Select[Any]:
    return (
        select(JOB)
        .where(
            JOB.c.finished_at_ms.is_(None),
            JOB.c.inputs_digest != "[]",  # as the index has it
            JOB.c.inputs_digest == UNSTAGED,
            JOB.c.phase == "queued",
            of_backend(JOB.c.backend, backend),
        )
        .order_by(JOB.c.priority.desc(), JOB.c.seq)
    )


_WITH_MACHINE = tuple(sorted(HAS_MACHINE))


async def ids_with_machines(
    connection: AsyncConnection, *, due_at_ms: int | None = None, backend: str | None = None
) -> list[str]:
    """Ids of the jobs that have a machine of the backend; `due_at_ms`: only those to be visited by then."""
    statement = _ids_with_machines(backend, due_only=due_at_ms is not None)
    return list((await connection.execute(statement, {"the_time": due_at_ms})).scalars())


@cache
def _ids_with_machines(backend: str | None, *, due_only: bool) -> Select[str]:
    statement = select(JOB.c.id).where(
        JOB.c.finished_at_ms.is_(None),
        JOB.c.phase.in_(_WITH_MACHINE),
        of_backend(JOB.c.backend, backend),
    )
    return statement.where(JOB.c.next_visit_at_ms <= THE_TIME) if due_only else statement


async def jobs_with_machines(
    connection: AsyncConnection, job_ids: Sequence[str]
) -> list[tuple[Job, Attempt]]:
    """Those of the jobs whose current attempt has a machine, with that attempt."""
    rows = await connection.execute(_JOBS_WITH_MACHINES, {"the_ids": list(job_ids)})
    return [(replace(job_of(row), leaving=row.leaving), attempt_of(row)) for row in rows]


_JOBS_WITH_MACHINES: Select[Any] = (
    select(JOB, leaving_count(beside_current=True).label("leaving"), *attempt_columns())
    .join(ATTEMPT, and_(ATTEMPT.c.job_id == JOB.c.id, ATTEMPT.c.number == JOB.c.attempt))
    .where(
        JOB.c.id.in_(bindparam("the_ids", expanding=True)),
        JOB.c.phase.in_(_WITH_MACHINE),
        ATTEMPT.c.instance_id.is_not(None),
    )
)


async def open_arrays(
    connection: AsyncConnection, *, backend: str | None = None
) -> list[tuple[Job, tuple[ArrayElement, ...]]]:
    """Arrays that are not over, each with its elements' phases and exit codes."""
    arrays: dict[str, tuple[Job, list[ArrayElement]]] = {}
    for row in await connection.execute(_open_arrays(backend)):
        _, elements = arrays.setdefault(row.id, (job_of(row), []))
        if row.child_id is None:  # somebody has deleted them
            continue
        elements.append(
            ArrayElement(
                row.child_id,
                Phase(row.child_phase),
                row.child_exit_code,
                cancel_requested=bool(row.child_cancel_requested),
            )
        )
    return [(job, tuple(elements)) for job, elements in arrays.values()]


@cache
def _open_arrays(backend: str | None) -> Select[Any]:
    child = JOB.alias()
    return (
        select(
            JOB,
            child.c.id.label("child_id"),
            child.c.phase.label("child_phase"),
            child.c.exit_code.label("child_exit_code"),
            child.c.cancel_requested.label("child_cancel_requested"),
        )
        .outerjoin(child, child.c.array_parent == JOB.c.id)
        .where(
            JOB.c.finished_at_ms.is_(None),
            JOB.c.reason == Reason.ARRAY_EXPANDED,
            JOB.c.phase == "running",
            of_backend(JOB.c.backend, backend),
        )
        .order_by(JOB.c.seq, child.c.seq)
    )


@dataclass(frozen=True, slots=True)
class ArrayElement:
    """One job of an array, as its parent sees it."""

    id: str
    phase: Phase
    exit_code: int | None
    cancel_requested: bool = False


async def request_cancel(connection: AsyncConnection, job_ids: Sequence[str]) -> int:
    """Set cancel_requested on jobs that are not over; returns how many. A trigger wakes the daemon."""
    result = await connection.execute(
        update(JOB)
        .where(JOB.c.id.in_(job_ids), JOB.c.finished_at_ms.is_(None), JOB.c.cancel_requested == 0)
        .values(cancel_requested=1)
    )
    return result.rowcount


def job_of(row: Row[Any]) -> Job:
    """The frozen, parsed form of a `job` row.

    A spec that this version cannot read (an older one accepted it, or somebody wrote around the triggers) must not
    stop the other rows of the pass: it is told in `spec_problem`.
    """
    spec, spec_problem = read_spec(row.spec), ""
    if isinstance(spec, SpecError):
        spec, spec_problem = JobSpec(commands=()), str(spec)
    return Job(
        id=row.id,
        seq=row.seq,
        spec=spec,
        spec_problem=spec_problem,
        phase=Phase(row.phase),
        reason=None if row.reason is None else Reason(row.reason),
        version=row.version,
        priority=row.priority,
        project=row.project,
        attempt=row.attempt,
        ran_attempts=row.ran_attempts,
        boot_failures=row.boot_failures,
        cancel_requested=bool(row.cancel_requested),
        submitted_at_ms=row.submitted_at_ms,
        phase_since_ms=row.phase_since_ms,
        array_index=row.array_index,
        cost_usd=row.cost_usd,
        message=row.message,
        next_visit_at_ms=row.next_visit_at_ms,
        inputs_digest=_digests(row.inputs_digest),
        run_at_ms=row.run_at_ms,
        held=bool(row.held),
    )


@lru_cache(maxsize=SPECS_KEPT)
def read_spec(written: str) -> JobSpec | SpecError:
    """The spec of a row, parsed once however often it is read."""
    try:
        return parse_spec_json(written)
    except SpecError as error:
        return error


def _digests(written: str) -> tuple[str, ...]:
    return () if written in {"[]", UNSTAGED} else tuple(json.loads(written))
