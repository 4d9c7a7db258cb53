"""Saving many jobs at once. Law: a save is guarded by the row's version, moves along TRANSITIONS, and leaves one event.

A thousand jobs that move together cost a handful of statements: one SELECT for the guard, one UPDATE for each set of
columns, one INSERT for the events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.phase import TERMINAL, TRANSITIONS, Phase, Reason
from dstackd.errors import StaleRow, require
from dstackd.store.tables import EVENT, JOB

FAR_MS = 9_007_199_254_740_991
"""`next_visit_at_ms` of a job that only an event can move on."""

IDS_MAX = 500
"""Ids of one IN list: SQLite's older builds stop at 999 variables."""


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
    changes: JobChanges = field(default_factory=JobChanges)


async def save_moves(connection: AsyncConnection, moves: Sequence[Move]) -> None:
    """Write the moves and their events. Raises StaleRow, with nothing written, when a row has moved on meanwhile."""
    stale = await stale_ids(connection, moves)
    if stale:
        message = f"{len(stale)} job(s) have moved on, {min(stale)} among them"
        raise StaleRow(message)
    await _write(connection, moves)


async def save_fresh_moves(connection: AsyncConnection, moves: Sequence[Move]) -> frozenset[str]:
    """Write the moves of the rows that are still at their version; returns the ids of the others."""
    stale = await stale_ids(connection, moves)
    await _write(connection, [move for move in moves if move.job_id not in stale])
    return stale


async def stale_ids(connection: AsyncConnection, moves: Sequence[Move]) -> frozenset[str]:
    """Ids of the rows that are not at the version that their move starts from."""
    versions: dict[str, int] = {}
    ids = [move.job_id for move in moves]
    for start in range(0, len(ids), IDS_MAX):
        statement = (
            select(JOB.c.id, JOB.c.version)
            .where(JOB.c.id.in_(ids[start : start + IDS_MAX]))
            .with_for_update()
        )
        versions |= {row.id: row.version for row in await connection.execute(statement)}
    return frozenset(move.job_id for move in moves if versions.get(move.job_id) != move.version)


async def _write(connection: AsyncConnection, moves: Sequence[Move]) -> None:
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for move in moves:
        values = _values(move)
        by_columns.setdefault(tuple(sorted(values)), []).append(values | {"the_id": move.job_id})
    for columns, rows in by_columns.items():
        statement = (
            update(JOB)
            .where(JOB.c.id == bindparam("the_id"))
            .values({name: bindparam(name) for name in columns})
        )
        await connection.execute(statement, rows)
    await add_events(connection, (_event(move) for move in moves))


def _values(move: Move) -> dict[str, Any]:
    values: dict[str, Any] = {
        **move.changes,
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
    return values


def _event(move: Move) -> dict[str, Any]:
    return {
        "at_ms": move.now_ms,
        "job_id": move.job_id,
        "attempt": move.attempt,
        "kind": "phase" if move.phase is not None else "waiting",
        "phase_from": move.phase_from,
        "phase_to": move.phase,
        "reason": move.reason,
        "message": move.message,
        "detail": json.dumps(move.detail),
    }


_EVENT_DEFAULTS: dict[str, Any] = {
    "job_id": None,
    "attempt": None,
    "phase_from": None,
    "phase_to": None,
    "reason": None,
    "message": "",
    "detail": "{}",
}


async def add_events(connection: AsyncConnection, events: Iterable[dict[str, Any]]) -> None:
    """Append to the history; each event has at least `at_ms` and `kind`."""
    rows = [_EVENT_DEFAULTS | event for event in events]
    if rows:
        await connection.execute(insert(EVENT), rows)


async def visit_now(connection: AsyncConnection, job_ids: Iterable[str]) -> None:
    """Have those of the jobs that are not over looked at; their version rises, so that nobody saves over what has just
    been learnt. No event.
    """
    rows = [{"the_id": job_id} for job_id in sorted(set(job_ids))]
    if rows:
        await connection.execute(
            update(JOB)
            .where(JOB.c.id == bindparam("the_id"), JOB.c.finished_at_ms.is_(None))
            .values(next_visit_at_ms=0, version=JOB.c.version + 1),
            rows,
        )


async def visit_later(
    connection: AsyncConnection, visits: Iterable[tuple[str, int]], *, next_visit_at_ms: int
) -> None:
    """Postpone the next look at jobs, given as (id, version); no event, and no version change: nothing was decided.

    Guarded by the version, so that a wake-up which came in between is not slept through: whatever wakes a job (a
    report, lines, a cancel) raises its version.
    """
    rows = [{"the_id": job_id, "the_version": version} for job_id, version in visits]
    if rows:
        await connection.execute(
            update(JOB)
            .where(JOB.c.id == bindparam("the_id"), JOB.c.version == bindparam("the_version"))
            .values(next_visit_at_ms=next_visit_at_ms),
            rows,
        )
