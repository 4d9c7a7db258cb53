"""What is in use: machines, vCPUs, launches of the last minute, the day's money. Law: reads only; sums by project, never rows.

An attempt holds its machine from the committed intent until it is over, so a launch without an answer is
counted, and so is a machine that is about to go. What it reserves was written with its intent.
An idle machine is held by the project of the job that asked for it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.bounds import Bounds
from dstackd.core.budget import IDLE_MARGIN_S, day_start_ms
from dstackd.core.cost import BILLED_MIN_S
from dstackd.core.scheduling import NOTHING, Holding, Usage
from dstackd.spec.limits import REUSE_S_MAX
from dstackd.store.idle import HOUR_MS, idle_and_free, larger
from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE

MINUTE_MS = 60_000


async def read_usage(connection: AsyncConnection, *, bounds: Bounds, now_ms: int) -> Usage:
    """What is in use now. Money and the launch rate are read only where `bounds` has them.

    O(attempts that are not over), and with a daily budget also O(attempts that ended today).
    """
    day_ms = day_start_ms(now_ms) if bounds.has_daily_budget else None
    held: dict[str, Holding] = {}
    for row in await connection.execute(_live(now_ms, day_ms)):
        held[row.project] = Holding(row.machines, row.vcpus, row.spent_usd, row.reserved_usd)
    for row in await connection.execute(_idle(now_ms, day_ms)):
        idle = Holding(row.machines, row.vcpus, row.spent_usd, row.reserved_usd)
        held[row.project] = held.get(row.project, NOTHING) + idle
    if day_ms is not None:
        for row in await connection.execute(_over_today(day_ms)):
            spent = Holding(spent_usd=row.spent_usd)
            held[row.project] = held.get(row.project, NOTHING) + spent
    launched = 0
    if bounds.launches_per_minute:
        launched = (await connection.execute(_launched(now_ms - MINUTE_MS))).scalar_one()
    return Usage(held, launched)


def _live(now_ms: int, day_ms: int | None) -> Select[Any]:
    """Attempts that are not over. `day_ms` None: their money is left at 0."""
    spent_usd: ColumnElement[Any] = literal(0.0)
    reserved_usd: ColumnElement[Any] = literal(0.0)
    if day_ms is not None:
        billed_usd = _billed_usd(now_ms)
        spent_usd = func.sum(_since(day_ms, billed_usd))
        reserved_usd = func.sum(
            case(
                (MACHINE.c.gone_at_ms.is_not(None) | ATTEMPT.c.released_at_ms.is_not(None), 0.0),
                else_=larger(ATTEMPT.c.reserved_usd - billed_usd, 0.0),
            )
        )
    statement = (
        select(
            JOB.c.project,
            func.count().filter(ATTEMPT.c.released_at_ms.is_(None)).label("machines"),
            func.sum(case((ATTEMPT.c.released_at_ms.is_(None), ATTEMPT.c.vcpus), else_=0)).label(
                "vcpus"
            ),
            spent_usd.label("spent_usd"),
            reserved_usd.label("reserved_usd"),
        )
        .select_from(ATTEMPT)
        .join(JOB, JOB.c.id == ATTEMPT.c.job_id)
        .where(ATTEMPT.c.ended_at_ms.is_(None))
        .group_by(JOB.c.project)
    )
    if day_ms is None:
        return statement
    return statement.join(MACHINE, MACHINE.c.instance_id == ATTEMPT.c.instance_id, isouter=True)


def _idle(now_ms: int, day_ms: int | None) -> Select[Any]:
    """Idle machines: what they have cost since they are idle, and will have cost when they are gone at the latest."""
    spent_usd: ColumnElement[Any] = literal(0.0)
    reserved_usd: ColumnElement[Any] = literal(0.0)
    if day_ms is not None:
        since_ms = larger(MACHINE.c.idle_since_ms, day_ms)
        left_ms = MACHINE.c.idle_until_ms + int(IDLE_MARGIN_S * 1000) - now_ms
        spent_usd = func.sum(MACHINE.c.price_usd_h * larger(now_ms - since_ms, 0) / HOUR_MS)
        reserved_usd = func.sum(MACHINE.c.price_usd_h * larger(left_ms, 0) / HOUR_MS)
    return (
        select(
            JOB.c.project,
            func.count().label("machines"),
            func.sum(ATTEMPT.c.vcpus).label("vcpus"),
            spent_usd.label("spent_usd"),
            reserved_usd.label("reserved_usd"),
        )
        .select_from(MACHINE)
        .join(JOB, JOB.c.id == MACHINE.c.idle_job_id)
        .join(
            ATTEMPT, (ATTEMPT.c.job_id == JOB.c.id) & (ATTEMPT.c.number == MACHINE.c.idle_attempt)
        )
        .where(idle_and_free())
        .group_by(JOB.c.project)
    )


def _over_today(day_ms: int) -> Select[Any]:
    """Attempts that ended since midnight, or whose idle machine did: what they were billed, without the part before it."""
    return (
        select(JOB.c.project, func.sum(_since(day_ms, ATTEMPT.c.cost_usd)).label("spent_usd"))
        .select_from(ATTEMPT)
        .join(JOB, JOB.c.id == ATTEMPT.c.job_id)
        .where(
            # The first condition is for the index: nothing waits longer.
            ATTEMPT.c.ended_at_ms >= day_ms - int((REUSE_S_MAX + IDLE_MARGIN_S) * 1000),
            ATTEMPT.c.ended_at_ms + ATTEMPT.c.idle_ms >= day_ms,
        )
        .group_by(JOB.c.project)
    )


def _launched(since_ms: int) -> Select[Any]:
    """Attempts, not what was asked for: those of machines that EC2 did not give are deleted."""
    return (
        select(func.count())
        .select_from(LAUNCH)
        .join(ATTEMPT, ATTEMPT.c.launch_id == LAUNCH.c.id)
        .where(LAUNCH.c.created_at_ms > since_ms, LAUNCH.c.reuses.is_(None))
    )


def _billed_usd(now_ms: int) -> ColumnElement[Any]:
    """`core.cost.machine_cost_usd` of an attempt that is not over, as the end of the attempt will count it."""
    until_ms = func.coalesce(ATTEMPT.c.released_at_ms, MACHINE.c.gone_at_ms, now_ms)
    billed_ms = larger(until_ms - ATTEMPT.c.launched_at_ms, BILLED_MIN_S * 1000)
    age_ms = larger(until_ms - MACHINE.c.launched_at_ms, BILLED_MIN_S * 1000)
    before_ms = larger(ATTEMPT.c.launched_at_ms - MACHINE.c.launched_at_ms, BILLED_MIN_S * 1000)
    billed_ms = case((ATTEMPT.c.reused == 1, larger(age_ms - before_ms, 0)), else_=billed_ms)
    own_usd = ATTEMPT.c.price_usd_h * billed_ms / HOUR_MS
    return ATTEMPT.c.cost_usd + case((ATTEMPT.c.launched_at_ms.is_(None), 0.0), else_=own_usd)


def _since(day_ms: int, billed_usd: ColumnElement[Any]) -> ColumnElement[Any]:
    """A bill without what was due at midnight: the same before and after the attempt's end, which changes no sum."""
    before_ms = larger(day_ms - func.coalesce(ATTEMPT.c.launched_at_ms, day_ms), 0)
    return larger(billed_usd - ATTEMPT.c.price_usd_h * before_ms / HOUR_MS, 0.0)
