"""What is in use: machines, vCPUs, launches of the last minute, the day's money. Law: reads only; sums by project, never rows.

An attempt holds its machine from the committed intent until it is over, so a launch without an answer is
counted, and so is a machine that is about to go. What it reserves was written with its intent.
An idle machine is held by the project of the job that asked for it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.bounds import Bounds
from dstackd.core.budget import IDLE_MARGIN_S, day_start_ms
from dstackd.core.cost import BILLED_MIN_S
from dstackd.core.scheduling import NOTHING, Holding, Usage
from dstackd.spec.limits import REUSE_S_MAX
from dstackd.store.idle import HOUR_MS, idle_and_free, larger
from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE, THE_TIME, of_backend

MINUTE_MS = 60_000
_THE_DAY = bindparam("the_day", type_=BigInteger)
"""Milliseconds of the last midnight."""


async def read_usage(
    connection: AsyncConnection, *, bounds: Bounds, now_ms: int, backend: str | None = None
) -> Usage:
    """What is in use now, at a backend or (None) in all: a daemon's bounds hold for its backend. Money and the launch rate are read only where `bounds` has them.

    O(attempts that are not over), and with a daily budget also O(attempts that ended today).
    """
    money = bounds.has_daily_budget
    times = {"the_time": now_ms, "the_day": day_start_ms(now_ms)}
    held: dict[str, Holding] = {}
    for row in await connection.execute(_live(backend, money=money), times):
        held[row.project] = Holding(row.machines, row.vcpus, row.spent_usd, row.reserved_usd)
    for row in await connection.execute(_idle(backend, money=money), times):
        idle = Holding(row.machines, row.vcpus, row.spent_usd, row.reserved_usd)
        held[row.project] = held.get(row.project, NOTHING) + idle
    if money:
        for row in await connection.execute(_over_today(backend), times):
            spent = Holding(spent_usd=row.spent_usd)
            held[row.project] = held.get(row.project, NOTHING) + spent
    launched = 0
    if bounds.launches_per_minute:
        launched = (await connection.execute(_launched(backend), times)).scalar_one()
    return Usage(held, launched)


@cache
def _live(backend: str | None, *, money: bool) -> Select[Any]:
    """Attempts that are not over. Not `money`: it is left at 0."""
    spent_usd: ColumnElement[Any] = literal(0.0)
    reserved_usd: ColumnElement[Any] = literal(0.0)
    if money:
        billed_usd = _billed_usd()
        spent_usd = func.sum(_since_midnight(billed_usd))
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
        .where(ATTEMPT.c.ended_at_ms.is_(None), of_backend(ATTEMPT.c.backend, backend))
        .group_by(JOB.c.project)
    )
    if not money:
        return statement
    return statement.join(MACHINE, MACHINE.c.instance_id == ATTEMPT.c.instance_id, isouter=True)


@cache
def _idle(backend: str | None, *, money: bool) -> Select[Any]:
    """Idle machines: what they have cost since they are idle, and will have cost when they are gone at the latest."""
    spent_usd: ColumnElement[Any] = literal(0.0)
    reserved_usd: ColumnElement[Any] = literal(0.0)
    if money:
        since_ms = larger(MACHINE.c.idle_since_ms, _THE_DAY)
        left_ms = MACHINE.c.idle_until_ms + int(IDLE_MARGIN_S * 1000) - THE_TIME
        spent_usd = func.sum(MACHINE.c.price_usd_h * larger(THE_TIME - since_ms, 0) / HOUR_MS)
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
        .where(idle_and_free(), of_backend(MACHINE.c.backend, backend))
        .group_by(JOB.c.project)
    )


@cache
def _over_today(backend: str | None) -> Select[Any]:
    """Attempts that ended since midnight, or whose idle machine did: what they were billed, without the part before it."""
    return (
        select(JOB.c.project, func.sum(_since_midnight(ATTEMPT.c.cost_usd)).label("spent_usd"))
        .select_from(ATTEMPT)
        .join(JOB, JOB.c.id == ATTEMPT.c.job_id)
        .where(
            # The first condition is for the index: nothing waits longer.
            ATTEMPT.c.ended_at_ms >= _THE_DAY - int((REUSE_S_MAX + IDLE_MARGIN_S) * 1000),
            ATTEMPT.c.ended_at_ms + ATTEMPT.c.idle_ms >= _THE_DAY,
            of_backend(ATTEMPT.c.backend, backend),
        )
        .group_by(JOB.c.project)
    )


@cache
def _launched(backend: str | None) -> Select[Any]:
    """Attempts, not what was asked for: those of machines that EC2 did not give are deleted."""
    return (
        select(func.count())
        .select_from(LAUNCH)
        .join(ATTEMPT, ATTEMPT.c.launch_id == LAUNCH.c.id)
        .where(
            LAUNCH.c.created_at_ms > THE_TIME - MINUTE_MS,
            LAUNCH.c.reuses.is_(None),
            of_backend(LAUNCH.c.backend, backend),
        )
    )


def _billed_usd() -> ColumnElement[Any]:
    """`core.cost.machine_cost_usd` of an attempt that is not over, as the end of the attempt will count it."""
    until_ms = func.coalesce(ATTEMPT.c.released_at_ms, MACHINE.c.gone_at_ms, THE_TIME)
    age_ms = larger(until_ms - MACHINE.c.launched_at_ms, BILLED_MIN_S * 1000)
    before_ms = larger(ATTEMPT.c.launched_at_ms - MACHINE.c.launched_at_ms, BILLED_MIN_S * 1000)
    billed_ms = case((ATTEMPT.c.reused == 1, larger(age_ms - before_ms, 0)), else_=age_ms)
    own_usd = ATTEMPT.c.price_usd_h * billed_ms / HOUR_MS
    return ATTEMPT.c.cost_usd + case((ATTEMPT.c.launched_at_ms.is_(None), 0.0), else_=own_usd)


def _since_midnight(billed_usd: ColumnElement[Any]) -> ColumnElement[Any]:
    """A bill without what was due at midnight: the same before and after the attempt's end, which changes no sum."""
    before_ms = larger(_THE_DAY - func.coalesce(ATTEMPT.c.launched_at_ms, _THE_DAY), 0)
    return larger(billed_usd - ATTEMPT.c.price_usd_h * before_ms / HOUR_MS, 0.0)
