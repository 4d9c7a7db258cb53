"""What our machines are, by type and market. Law: reads only; an attempt counts from its committed intent until its machine is gone."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.tables import ATTEMPT


async def live_by_type(connection: AsyncConnection) -> list[tuple[str, str, int]]:
    """(instance type, market, how many) of the attempts that are not over: what draws on the account's quotas."""
    statement = (
        select(ATTEMPT.c.instance_type, ATTEMPT.c.market, func.count())
        .where(ATTEMPT.c.ended_at_ms.is_(None))
        .group_by(ATTEMPT.c.instance_type, ATTEMPT.c.market)
    )
    return [(row[0], row[1], row[2]) for row in await connection.execute(statement)]
