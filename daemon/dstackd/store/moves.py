"""Saving many jobs at once. Law: a save is guarded by the row's version, moves along TRANSITIONS, and leaves one event; the end of a job
wakes those that need it.

A thousand jobs that move together cost a handful of statements: one SELECT for the guard, one UPDATE for each set of
columns, one INSERT for the events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from sqlalchemy import bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.phase import TERMINAL, TRANSITIONS, Phase, Reason
from dstackd.errors import InvariantError, StaleRow
from dstackd.store.bulk import insert_rows, sqlite_versions, update_rows
from dstackd.store.dependencies import wake_dependents
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
    held: int
    inputs_digest: str
    backend: str


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
    """Write the moves and their events. Raises StaleRow when a row has moved on meanwhile: the transaction must end with it."""
    stale = await save_fresh_moves(connection, moves)
    if stale:
        message = f"{len(stale)} job(s) have moved on, {min(stale)} among them"
        raise StaleRow(message)


async def save_fresh_moves(connection: AsyncConnection, moves: Sequence[Move]) -> frozenset[str]:
    """Write the moves of the rows that are still at their version; returns the ids of the others."""
    fresh = await _update(connection, await _not_stale(connection, moves))
    await add_events(connection, [_event(move) for move in fresh])
    await wake_dependents(connection, [each.job_id for each in fresh if each.phase in TERMINAL])
    return frozenset(move.job_id for move in moves) - {move.job_id for move in fresh}


async def _not_stale(connection: AsyncConnection, moves: Sequence[Move]) -> Sequence[Move]:
    """On PostgreSQL the update itself says which rows it found."""
    if connection.dialect.name != "sqlite" or not moves:
        return moves
    found = await sqlite_versions(connection, JOB, [move.job_id for move in moves])
    return [move for move in moves if found.get(move.job_id) == move.version]


async def _update(connection: AsyncConnection, moves: Sequence[Move]) -> Sequence[Move]:
    """The moves whose rows were at their version."""
    by_columns: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for move in moves:
        values = _values(move)
        by_columns.setdefault(tuple(values), []).append(
            (*values.values(), move.job_id, move.version)
        )
    done: set[str] = set()
    for columns, rows in by_columns.items():
        found = await update_rows(connection, JOB, columns, rows, key=("id", "version"))
        done.update([row[-2] for row in rows] if found is None else found)
    return [move for move in moves if move.job_id in done]


def _values(move: Move) -> dict[str, Any]:
    values: dict[str, Any] = {
        **move.changes,
        "version": move.version + 1,
        "reason": _plain(move.reason),
        "message": move.message,
        "next_visit_at_ms": move.next_visit_at_ms,
    }
    if move.phase is not None:
        if move.phase not in TRANSITIONS[move.phase_from]:
            message = f"job {move.job_id}: {move.phase_from} -> {move.phase} is not a legal move"
            raise InvariantError(message)
        values["phase"], values["phase_since_ms"] = move.phase.value, move.now_ms
        if move.phase in TERMINAL:
            values["finished_at_ms"] = move.now_ms
    return values


def _plain(word: Reason | Phase | None) -> str | None:
    """SQLite's driver looks for an adapter of every value whose type is not one of its own: a microsecond and more."""
    return None if word is None else word.value


def _event(move: Move) -> dict[str, Any]:
    return {
        "at_ms": move.now_ms,
        "job_id": move.job_id,
        "attempt": move.attempt,
        "kind": "phase" if move.phase is not None else "waiting",
        "phase_from": move.phase_from.value,
        "phase_to": _plain(move.phase),
        "reason": _plain(move.reason),
        "message": move.message,
        "detail": json.dumps(move.detail) if move.detail else "{}",
    }


_EVENT_DEFAULTS: dict[str, Any] = {
    "at_ms": None,
    "job_id": None,
    "attempt": None,
    "kind": None,
    "phase_from": None,
    "phase_to": None,
    "reason": None,
    "message": "",
    "detail": "{}",
}
_EVENT_COLUMNS = tuple(_EVENT_DEFAULTS)


async def add_events(connection: AsyncConnection, events: Iterable[dict[str, Any]]) -> None:
    """Append to the history; each event has at least `at_ms` and `kind`."""
    rows = [tuple((_EVENT_DEFAULTS | event).values()) for event in events]
    await insert_rows(connection, EVENT, _EVENT_COLUMNS, rows)


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
    await visit_at(connection, ((next_visit_at_ms, *visit) for visit in visits))


async def visit_at(connection: AsyncConnection, visits: Iterable[tuple[int, str, int]]) -> None:
    """The same, each at a time of its own: (next visit, id, version)."""
    rows = list(visits)
    await update_rows(connection, JOB, ("next_visit_at_ms",), rows, key=("id", "version"))
