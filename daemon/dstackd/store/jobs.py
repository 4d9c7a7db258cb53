"""Reading and saving jobs. Law: a save is guarded by the row's version, moves along TRANSITIONS, and leaves one event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from sqlalchemy import Row, Select, and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.instance import Market
from dstackd.core.job import Attempt, Job
from dstackd.core.phase import TERMINAL, TRANSITIONS, Outcome, Phase, Reason
from dstackd.errors import StaleRow, require
from dstackd.spec.errors import SpecError
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec_json
from dstackd.store.tables import ATTEMPT, EVENT, JOB

FAR_MS = 9_007_199_254_740_991
"""`next_visit_at_ms` of a job that only an event can move on."""


class JobChanges(TypedDict, total=False):
    """Columns of `job` that a save may set beside the phase."""

    name: str
    exit_code: int | None
    attempt: int
    ran_attempts: int
    boot_failures: int
    cost_usd: float
    inputs_digest: str


@dataclass(frozen=True, slots=True)
class Move:
    """One guarded save of one job. `phase` None keeps the phase (a new waiting reason, a next visit)."""

    job_id: str
    version: int
    phase_from: Phase
    now_ms: int
    phase: Phase | None = None
    reason: Reason | None = None
    message: str = ""
    attempt: int | None = None
    next_visit_at_ms: int = FAR_MS
    detail: dict[str, Any] = field(default_factory=dict)


async def save_move(connection: AsyncConnection, move: Move, **changes: Unpack[JobChanges]) -> None:
    """Write the move and its event. Raises StaleRow when the row has moved on meanwhile."""
    values: dict[str, Any] = {
        **changes,
        "version": move.version + 1,
        "reason": move.reason,
        "message": move.message,
        "next_visit_at_ms": move.next_visit_at_ms,
    }
    if move.phase is not None:
        require(
            move.phase in TRANSITIONS[move.phase_from],
            f"job {move.job_id}: {move.phase_from} -> {move.phase} is not a legal move",
        )
        values |= {"phase": move.phase, "phase_since_ms": move.now_ms}
        if move.phase in TERMINAL:
            values["finished_at_ms"] = move.now_ms
    result = await connection.execute(
        update(JOB).where(JOB.c.id == move.job_id, JOB.c.version == move.version).values(values)
    )
    if result.rowcount != 1:
        message = f"job {move.job_id} is no longer at version {move.version}"
        raise StaleRow(message)
    await add_event(
        connection,
        at_ms=move.now_ms,
        job_id=move.job_id,
        attempt=move.attempt,
        kind="phase" if move.phase is not None else "waiting",
        phase_from=move.phase_from,
        phase_to=move.phase,
        reason=move.reason,
        message=move.message,
        detail=json.dumps(move.detail),
    )


async def visit_later(
    connection: AsyncConnection, job_id: str, version: int, *, next_visit_at_ms: int
) -> None:
    """Postpone the next look at a job; no event, and no version change, since nothing was decided.

    Guarded by the version, so that a wake-up which came in between is not slept through.
    """
    await connection.execute(
        update(JOB)
        .where(JOB.c.id == job_id, JOB.c.version == version)
        .values(next_visit_at_ms=next_visit_at_ms)
    )


class EventFields(TypedDict, total=False):
    """Columns of `event`."""

    job_id: str | None
    attempt: int | None
    phase_from: str | None
    phase_to: str | None
    reason: str | None
    message: str
    detail: str


async def add_event(
    connection: AsyncConnection, *, at_ms: int, kind: str, **fields: Unpack[EventFields]
) -> None:
    """Append to the history."""
    values = {"message": "", "detail": "{}", **fields, "at_ms": at_ms, "kind": kind}
    await connection.execute(insert(EVENT).values(values))


@dataclass(frozen=True, slots=True)
class Submission:
    """A row as a submitter left it: the spec is text that nobody has judged yet."""

    id: str
    spec: str
    version: int
    cancel_requested: bool
    array_index: int | None


async def submissions(connection: AsyncConnection, *, count_max: int) -> list[Submission]:
    """The oldest rows that nobody has accepted or rejected."""
    columns = (JOB.c.id, JOB.c.spec, JOB.c.version, JOB.c.cancel_requested, JOB.c.array_index)
    statement = (
        select(*columns).where(JOB.c.phase == "submitted").order_by(JOB.c.seq).limit(count_max)
    )
    rows = await connection.execute(statement)
    return [Submission(*row[:3], bool(row[3]), row[4]) for row in rows]


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
    await connection.execute(
        insert(JOB),
        [
            {
                "id": f"{parent_id}-{index}",
                "spec": element_spec,
                "project": row.project,
                "priority": row.priority,
                "array_parent": parent_id,
                "array_index": index,
            }
            for index in range(count)
        ],
    )


async def elements_cost_usd(connection: AsyncConnection, parent_id: str) -> float:
    """What the elements of an array have cost together."""
    total = await connection.execute(
        select(func.coalesce(func.sum(JOB.c.cost_usd), 0.0)).where(JOB.c.array_parent == parent_id)
    )
    return float(total.scalar_one())


async def queued_jobs(connection: AsyncConnection, *, due_at_ms: int, count_max: int) -> list[Job]:
    """Queued jobs to be visited by `due_at_ms`: highest priority first, then oldest."""
    statement = (
        select(JOB)
        .where(JOB.c.phase == "queued", JOB.c.next_visit_at_ms <= due_at_ms)
        .order_by(JOB.c.priority.desc(), JOB.c.seq)
        .limit(count_max)
    )
    return [job_of(row) for row in await connection.execute(statement)]


async def jobs_to_stage(connection: AsyncConnection) -> list[Job]:
    """Queued jobs whose inputs are not in the bucket yet."""
    statement = (
        select(JOB).where(JOB.c.phase == "queued", JOB.c.inputs_digest == "[]").order_by(JOB.c.seq)
    )
    jobs = [job_of(row) for row in await connection.execute(statement)]
    return [job for job in jobs if job.spec.inputs]


async def jobs_with_machines(
    connection: AsyncConnection, *, due_at_ms: int | None = None
) -> list[tuple[Job, Attempt]]:
    """Jobs whose current attempt has a machine; `due_at_ms`: only those to be visited by then."""
    statement: Select[Any] = (
        select(JOB, *(column.label(f"attempt_{column.name}") for column in ATTEMPT.c))
        .join(ATTEMPT, and_(ATTEMPT.c.job_id == JOB.c.id, ATTEMPT.c.number == JOB.c.attempt))
        .where(
            JOB.c.finished_at_ms.is_(None),
            JOB.c.phase.in_(("booting", "running", "sealing", "terminating")),
            ATTEMPT.c.instance_id.is_not(None),
        )
    )
    if due_at_ms is not None:
        statement = statement.where(JOB.c.next_visit_at_ms <= due_at_ms)
    return [(job_of(row), attempt_of(row)) for row in await connection.execute(statement)]


async def open_arrays(connection: AsyncConnection) -> list[tuple[Job, tuple[ArrayElement, ...]]]:
    """Arrays that are not over, each with its elements' phases and exit codes."""
    child = JOB.alias()
    statement = (
        select(
            JOB,
            child.c.id.label("child_id"),
            child.c.phase.label("child_phase"),
            child.c.exit_code.label("child_exit_code"),
            child.c.cancel_requested.label("child_cancel_requested"),
        )
        .join(child, child.c.array_parent == JOB.c.id)
        .where(JOB.c.finished_at_ms.is_(None))
        .order_by(JOB.c.seq, child.c.seq)
    )
    arrays: dict[str, tuple[Job, list[ArrayElement]]] = {}
    for row in await connection.execute(statement):
        _, elements = arrays.setdefault(row.id, (job_of(row), []))
        elements.append(
            ArrayElement(
                row.child_id,
                Phase(row.child_phase),
                row.child_exit_code,
                cancel_requested=bool(row.child_cancel_requested),
            )
        )
    return [(job, tuple(elements)) for job, elements in arrays.values()]


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
    spec_problem = ""
    try:
        spec = parse_spec_json(row.spec)
    except SpecError as error:
        spec, spec_problem = JobSpec(commands=()), str(error)
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
        message=row.message,
        next_visit_at_ms=row.next_visit_at_ms,
        inputs_digest=tuple(json.loads(row.inputs_digest)),
    )


def attempt_of(row: Row[Any]) -> Attempt:
    """The frozen form of `attempt` columns labelled `attempt_...`."""
    return Attempt(
        job_id=row.attempt_job_id,
        number=row.attempt_number,
        launch_id=row.attempt_launch_id,
        launch_index=row.attempt_launch_index,
        instance_id=row.attempt_instance_id,
        market=Market(row.attempt_market),
        price_usd_h=row.attempt_price_usd_h,
        launched_at_ms=row.attempt_launched_at_ms,
        outcome=None if row.attempt_outcome is None else Outcome(row.attempt_outcome),
        exit_code=row.attempt_exit_code,
        booted_at_ms=row.attempt_booted_at_ms,
        started_at_ms=row.attempt_started_at_ms,
        notice_at_ms=row.attempt_notice_at_ms,
        exited_at_ms=row.attempt_exited_at_ms,
        exit_cause=row.attempt_exit_cause,
        sealed_at_ms=row.attempt_sealed_at_ms,
        seal_verdict=row.attempt_seal_verdict,
        done_at_ms=row.attempt_done_at_ms,
        failed_stage=row.attempt_failed_stage,
        failed_message=row.attempt_failed_message,
        stop_requested_at_ms=row.attempt_stop_requested_at_ms,
        terminate_requested_at_ms=row.attempt_terminate_requested_at_ms,
        log_lines_sent=row.attempt_log_lines_sent,
        log_lines_seen=row.attempt_log_lines_seen,
    )
