"""Attempts that their jobs have left while their machines go. Law: such an attempt has an outcome and no end.

The current attempt of a terminating job looks the same; that one is its job's own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import ScalarSelect, Select, and_, case, func, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.budget import GOING_S
from dstackd.core.cost import BILLED_MIN_S
from dstackd.core.job import Attempt
from dstackd.store.attempts import attempt_columns, attempt_of
from dstackd.store.idle import HOUR_MS, larger
from dstackd.store.machines import end_attempts
from dstackd.store.moves import add_events, visit_now
from dstackd.store.tables import ATTEMPT, JOB, MACHINE, THE_TIME, of_backend

_LEFT = ATTEMPT.alias("left_attempt")
"""Made once: an alias costs SQLAlchemy a millisecond."""
_LEFT_BY_THE_JOB = and_(
    _LEFT.c.job_id == JOB.c.id, _LEFT.c.ended_at_ms.is_(None), _LEFT.c.outcome.is_not(None)
)


async def leaving_attempts(
    connection: AsyncConnection, *, backend: str | None = None
) -> list[Attempt]:
    """All of them at a backend. O(attempts that are not over)."""
    return [attempt_of(row) for row in await connection.execute(_leaving_attempts(backend))]


@cache
def _leaving_attempts(backend: str | None) -> Select[Any]:
    of_the_job = and_(JOB.c.phase == "terminating", JOB.c.attempt == ATTEMPT.c.number)
    return (
        select(*attempt_columns())
        .join(JOB, JOB.c.id == ATTEMPT.c.job_id)
        .where(
            ATTEMPT.c.ended_at_ms.is_(None),
            ATTEMPT.c.outcome.is_not(None),
            ATTEMPT.c.released_at_ms.is_(None),  # else the machine may run another job
            not_(of_the_job),
            of_backend(ATTEMPT.c.backend, backend),
        )
    )


async def save_left(
    connection: AsyncConnection, attempts: Sequence[Attempt], *, now_ms: int
) -> None:
    """These machines are gone: close the attempts, and have their jobs looked at, whose cost is known now."""
    await end_attempts(connection, [(each.job_id, each.number) for each in attempts], now_ms=now_ms)
    await visit_now(connection, (each.job_id for each in attempts))
    events = (
        {
            "at_ms": now_ms,
            "job_id": each.job_id,
            "attempt": each.number,
            "kind": "machine_gone",
            "message": each.instance_id,
        }
        for each in attempts
    )
    await add_events(connection, events)


def leaving_count(*, beside_current: bool = False) -> ScalarSelect[Any]:
    """How many a job of the enclosing query has; `beside_current`: other than its current attempt."""
    statement = select(func.count()).where(_LEFT_BY_THE_JOB)
    if beside_current:
        statement = statement.where(_LEFT.c.number != JOB.c.attempt)
    return statement.correlate(JOB).scalar_subquery()


def leaving_usd() -> ScalarSelect[Any]:
    """At THE_TIME: what those of a queued job cost if EC2 shows them gone as late as our estimates allow for; NULL: there are none."""
    began_ms = case((_LEFT.c.reused == 1, _LEFT.c.launched_at_ms), else_=MACHINE.c.launched_at_ms)
    billed_ms = larger(THE_TIME + GOING_S * 1000 - began_ms, BILLED_MIN_S * 1000)
    return (
        select(func.sum(_LEFT.c.price_usd_h * billed_ms / HOUR_MS))
        .where(_LEFT_BY_THE_JOB, MACHINE.c.instance_id == _LEFT.c.instance_id)
        .correlate(JOB)
        .scalar_subquery()
    )
