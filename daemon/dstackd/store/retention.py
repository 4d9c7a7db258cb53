"""What is certainly over. Law: read only."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Launches and machines that ended after `since_ms` and up to `until_ms`."""

    launch_ids: tuple[str, ...]
    instance_ids: tuple[str, ...]
    reuses: tuple[tuple[str, int], ...]
    """(instance id, number) of each decision about an idle machine that nobody reads any more."""
    until_ms: int


async def leftovers(connection: AsyncConnection, *, since_ms: int) -> Leftovers:
    """Launches with all attempts ended (or none), and machines seen gone."""
    live = select(ATTEMPT.c.launch_id).where(ATTEMPT.c.ended_at_ms.is_(None))
    last = (
        select(ATTEMPT.c.launch_id, func.max(ATTEMPT.c.ended_at_ms).label("ended_at_ms"))
        .group_by(ATTEMPT.c.launch_id)
        .subquery()
    )
    over_ms = func.coalesce(last.c.ended_at_ms, LAUNCH.c.answered_at_ms)
    launches = (
        await connection.execute(
            select(LAUNCH.c.id, over_ms, LAUNCH.c.reuses, LAUNCH.c.reuse_number)
            .join(last, last.c.launch_id == LAUNCH.c.id, isouter=True)
            .where(LAUNCH.c.state != "intended", LAUNCH.c.id.not_in(live), over_ms > since_ms)
        )
    ).all()
    machines = (
        await connection.execute(
            select(MACHINE.c.instance_id, MACHINE.c.gone_at_ms, MACHINE.c.idle_number).where(
                MACHINE.c.gone_at_ms > since_ms
            )
        )
    ).all()
    times = [row[1] for row in (*launches, *machines)]
    return Leftovers(
        tuple(row[0] for row in launches),
        tuple(row[0] for row in machines),
        (
            # Its last decision may be that it left, of which no launch tells.
            *((row.instance_id, row.idle_number) for row in machines if row.idle_number),
            *((row.reuses, row.reuse_number) for row in launches if row.reuses is not None),
        ),
        max(times, default=since_ms),
    )


async def jobs_finished_before(connection: AsyncConnection, *, before_ms: int) -> list[str]:
    """Ids of the jobs that ended before `before_ms`."""
    return list(
        (
            await connection.execute(select(JOB.c.id).where(JOB.c.finished_at_ms < before_ms))
        ).scalars()
    )
