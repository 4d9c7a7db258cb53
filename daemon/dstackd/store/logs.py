"""Which attempts' logs are wanted, how much has arrived, and the verdict. Law: line counts go to the table rarely, lines never do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.log_verdict import is_settled, log_verdict
from dstackd.core.open_log import WantedLog
from dstackd.store.moves import IDS_MAX, add_events, visit_now
from dstackd.store.tables import ATTEMPT, LAUNCH, THE_TIME, of_backend

VERDICT_KIND = "log_verdict"
"""Kind of the events that say so."""


async def wanted_logs(
    connection: AsyncConnection, *, ended_after_ms: int, backend: str | None = None
) -> list[WantedLog]:
    """Attempts with a machine, and those that ended after `ended_after_ms` with lines missing."""
    rows = await connection.execute(_wanted_logs(backend), {"the_time": ended_after_ms})
    return [WantedLog(*row) for row in rows]


@cache
def _wanted_logs(backend: str | None) -> Select[Any]:
    is_short = func.coalesce(ATTEMPT.c.log_lines_seen < ATTEMPT.c.log_lines_sent, true())
    return (
        select(
            ATTEMPT.c.job_id,
            ATTEMPT.c.number,
            LAUNCH.c.created_at_ms,
            ATTEMPT.c.log_lines_sent,
            ATTEMPT.c.log_lines_seen,
            ATTEMPT.c.ended_at_ms.is_not(None),
        )
        .join(LAUNCH, LAUNCH.c.id == ATTEMPT.c.launch_id)
        .where(
            ATTEMPT.c.launched_at_ms.is_not(None),
            of_backend(ATTEMPT.c.backend, backend),
            or_(
                ATTEMPT.c.ended_at_ms.is_(None),
                and_(ATTEMPT.c.ended_at_ms > THE_TIME, is_short),
            ),
        )
    )


async def save_seen(
    connection: AsyncConnection, counts: Sequence[tuple[str, int, int]], *, now_ms: int
) -> None:
    """Write how many lines have arrived, given as (job, attempt, lines), and what follows for the verdicts; have the
    jobs looked at: they may have waited for them. Fewer than before are no news: others have arrived at another host's file.
    """
    if not counts:
        return
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"),
            ATTEMPT.c.number == bindparam("the_number"),
            ATTEMPT.c.log_lines_seen < bindparam("the_count"),
        )
        .values(log_lines_seen=bindparam("the_count")),
        [
            {"the_job": job_id, "the_number": number, "the_count": lines}
            for job_id, number, lines in counts
        ],
    )
    await visit_now(connection, (job_id for job_id, _, _ in counts))
    await save_verdicts(connection, [(job, number) for job, number, _ in counts], now_ms=now_ms)


async def save_verdicts(
    connection: AsyncConnection, attempts: Iterable[tuple[str, int]], *, now_ms: int
) -> None:
    """Say of those that have ended, or have all their lines, whether their logs are complete. A verdict may change as long
    as late lines come; one that is as it was costs nothing, and no event.
    """
    wanted = set(attempts)
    job_ids = sorted({job_id for job_id, _ in wanted})
    changed: list[tuple[Row[Any], str]] = []
    for start in range(0, len(job_ids), IDS_MAX):
        statement = select(*_JUDGED).where(ATTEMPT.c.job_id.in_(job_ids[start : start + IDS_MAX]))
        for row in await connection.execute(statement):
            verdict = _verdict(row) if (row.job_id, row.number) in wanted else row.log_verdict
            if verdict != row.log_verdict:
                changed.append((row, verdict))
    if not changed:
        return
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values(log_verdict=bindparam("the_verdict")),
        [
            {"the_job": row.job_id, "the_number": row.number, "the_verdict": verdict}
            for row, verdict in changed
        ],
    )
    events = (
        {
            "at_ms": now_ms,
            "job_id": row.job_id,
            "attempt": row.number,
            "kind": VERDICT_KIND,
            "message": verdict,
        }
        for row, verdict in changed
    )
    await add_events(connection, events)


_JUDGED = [
    ATTEMPT.c[name]
    for name in (
        *("job_id", "number", "started_at_ms", "exited_at_ms", "done_at_ms", "ended_at_ms"),
        *("log_lines_sent", "log_lines_seen", "log_lines_over_quota", "log_lines_lost"),
        "log_verdict",
    )
]


def _verdict(row: Row[Any]) -> str:
    """The verdict now; the one that was, where there is none to give."""
    ran = any(at is not None for at in (row.started_at_ms, row.exited_at_ms, row.done_at_ms))
    settled = is_settled(sent=row.log_lines_sent, seen=row.log_lines_seen)
    if not ran or (row.ended_at_ms is None and not settled):
        return str(row.log_verdict)
    return log_verdict(
        sent=row.log_lines_sent,
        seen=row.log_lines_seen,
        over_quota=row.log_lines_over_quota or 0,
        lost=row.log_lines_lost or 0,
    )
