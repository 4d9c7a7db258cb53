"""What our machines are, by type and market. Law: reads only; an attempt counts from its committed intent until its
machine is gone or idle, and an idle machine for itself.
"""

from __future__ import annotations

from sqlalchemy import func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.idle import idle_and_free
from dstackd.store.tables import ATTEMPT, MACHINE, of_backend


async def live_by_type(
    connection: AsyncConnection, *, backend: str | None = None
) -> list[tuple[str, str, int]]:
    """(instance type, market, how many) of what draws on the quotas of the backend's account."""
    held = select(ATTEMPT.c.instance_type, ATTEMPT.c.market).where(
        ATTEMPT.c.ended_at_ms.is_(None),
        ATTEMPT.c.released_at_ms.is_(None),
        of_backend(ATTEMPT.c.backend, backend),
    )
    idle = select(MACHINE.c.instance_type, MACHINE.c.market).where(
        idle_and_free(), of_backend(MACHINE.c.backend, backend)
    )
    live = union_all(held, idle).subquery()
    statement = select(live.c.instance_type, live.c.market, func.count()).group_by(
        live.c.instance_type, live.c.market
    )
    return [(row[0], row[1], row[2]) for row in await connection.execute(statement)]
