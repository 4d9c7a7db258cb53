"""Which attempts' logs are wanted, and how much has arrived. Law: line counts go to the table rarely, lines never do."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_, select, update
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
            or_(ATTEMPT.c.ended_at_ms.is_(None), ATTEMPT.c.ended_at_ms > ended_after_ms),
        )
    )
    return [WantedLog(*row) for row in await connection.execute(statement)]


async def save_seen(
    connection: AsyncConnection, *, job_id: str, attempt: int, lines_seen: int
) -> None:
    """Write how many lines have arrived, and have the job looked at: it may have waited for them."""
    await connection.execute(
        update(ATTEMPT)
        .where(ATTEMPT.c.job_id == job_id, ATTEMPT.c.number == attempt)
        .values(log_lines_seen=lines_seen)
    )
    await connection.execute(
        update(JOB)
        .where(JOB.c.id == job_id, JOB.c.finished_at_ms.is_(None))
        .values(next_visit_at_ms=0, version=JOB.c.version + 1)
    )
