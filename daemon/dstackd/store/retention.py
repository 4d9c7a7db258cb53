"""What is certainly over. Law: read only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.moves import IDS_MAX
from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE, THE_TIME, of_backend


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Launches and machines that ended after `since_ms` and up to `until_ms`."""

    launch_ids: tuple[str, ...]
    instance_ids: tuple[str, ...]
    reuses: tuple[tuple[str, int], ...]
    """(instance id, number) of each decision about an idle machine that nobody reads any more."""
    until_ms: int


async def leftovers(
    connection: AsyncConnection, *, since_ms: int, backend: str | None = None
) -> Leftovers:
    """Launches with all attempts ended (or none), and machines seen gone."""
    since = {"the_time": since_ms}
    launches = (await connection.execute(_launches_over(backend), since)).all()
    machines = (await connection.execute(_machines_gone(backend), since)).all()
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


@cache
def _launches_over(backend: str | None) -> Select[Any]:
    live = select(ATTEMPT.c.launch_id).where(ATTEMPT.c.ended_at_ms.is_(None))
    last = (
        select(ATTEMPT.c.launch_id, func.max(ATTEMPT.c.ended_at_ms).label("ended_at_ms"))
        .group_by(ATTEMPT.c.launch_id)
        .subquery()
    )
    over_ms = func.coalesce(last.c.ended_at_ms, LAUNCH.c.answered_at_ms)
    return (
        select(LAUNCH.c.id, over_ms, LAUNCH.c.reuses, LAUNCH.c.reuse_number)
        .join(last, last.c.launch_id == LAUNCH.c.id, isouter=True)
        .where(
            LAUNCH.c.state != "intended",
            LAUNCH.c.id.not_in(live),
            over_ms > THE_TIME,
            of_backend(LAUNCH.c.backend, backend),
        )
    )


@cache
def _machines_gone(backend: str | None) -> Select[Any]:
    return select(MACHINE.c.instance_id, MACHINE.c.gone_at_ms, MACHINE.c.idle_number).where(
        MACHINE.c.gone_at_ms > THE_TIME, of_backend(MACHINE.c.backend, backend)
    )


async def finished_before(
    connection: AsyncConnection, job_ids: Collection[str], *, before_ms: int
) -> set[str]:
    """Those of the jobs that ended before `before_ms`."""
    ids, found = sorted(job_ids), set[str]()
    for start in range(0, len(ids), IDS_MAX):
        chunk = ids[start : start + IDS_MAX]
        old = select(JOB.c.id).where(JOB.c.id.in_(chunk), JOB.c.finished_at_ms < before_ms)
        found.update((await connection.execute(old)).scalars())
    return found
