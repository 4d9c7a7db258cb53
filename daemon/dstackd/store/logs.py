"""Which attempts' logs are wanted, and how much has arrived. Law: line counts go to the table rarely, lines never do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.tables import ATTEMPT, JOB, LAUNCH


@dataclass(frozen=True, slots=True)
class WantedLog:
    """The log of one attempt that may still grow. `lines_sent` None: the machine has not said yet.

    `asked_at_ms` is when its launch was committed: no line is older, however late EC2's answer was saved.
    """

    job_id: str
    attempt: int
    asked_at_ms: int
    lines_sent: int | None
    lines_seen: int


async def wanted_logs(connection: AsyncConnection, *, ended_after_ms: int) -> list[WantedLog]:
    """Attempts with a machine, and those that ended after `ended_after_ms` with lines missing."""
    is_short = func.coalesce(ATTEMPT.c.log_lines_seen < ATTEMPT.c.log_lines_sent, true())
    statement = (
        select(
            ATTEMPT.c.job_id,
            ATTEMPT.c.number,
            LAUNCH.c.created_at_ms,
            ATTEMPT.c.log_lines_sent,
            ATTEMPT.c.log_lines_seen,
        )
        .join(LAUNCH, LAUNCH.c.id == ATTEMPT.c.launch_id)
        .where(
            ATTEMPT.c.instance_id.is_not(None),
            or_(
                ATTEMPT.c.ended_at_ms.is_(None),
                and_(ATTEMPT.c.ended_at_ms > ended_after_ms, is_short),
            ),
        )
    )
    return [WantedLog(*row) for row in await connection.execute(statement)]


async def save_seen(connection: AsyncConnection, counts: Sequence[tuple[str, int, int]]) -> None:
    """Write how many lines have arrived, given as (job, attempt, lines), and have the jobs looked at: they may have
    waited for them.
    """
    if not counts:
        return
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values(log_lines_seen=bindparam("the_count")),
        [
            {"the_job": job_id, "the_number": number, "the_count": lines}
            for job_id, number, lines in counts
        ],
    )
    await connection.execute(
        update(JOB)
        .where(JOB.c.id == bindparam("the_job"), JOB.c.finished_at_ms.is_(None))
        .values(next_visit_at_ms=0, version=JOB.c.version + 1),
        [{"the_job": job_id} for job_id in sorted({job_id for job_id, _, _ in counts})],
    )
