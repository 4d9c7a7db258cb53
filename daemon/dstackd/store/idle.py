"""Machines that wait for another job. Law: a machine waits on its own word only, and what it waits is paid for once.

It is paid by the job that asked for it, from its machine's release until the machine is taken or gone. Who takes it is
`store.reuse`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    ScalarSelect,
    bindparam,
    case,
    exists,
    func,
    not_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.budget import IDLE_MARGIN_S
from dstackd.core.cost import share_usd
from dstackd.store.moves import IDS_MAX, add_events
from dstackd.store.tables import ATTEMPT, JOB, MACHINE

HOUR_MS = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Release:
    """A machine's word that it is done with an attempt and waits, as `number`-th decision, for `seconds`."""

    job_id: str
    attempt: int
    instance_id: str
    number: int
    seconds: int


async def release(connection: AsyncConnection, releases: Sequence[Release], *, now_ms: int) -> None:
    """The machines are idle and the attempts have none any more, unless it was decided meanwhile that the machine goes.

    An attempt with an outcome has been judged already, and its machine was asked to terminate.
    """
    for each in releases:
        # The lock comes before the look: whoever judges the job locks its row first, too.
        await connection.execute(select(JOB.c.id).where(JOB.c.id == each.job_id).with_for_update())
        its = (ATTEMPT.c.job_id == each.job_id) & (ATTEMPT.c.number == each.attempt)
        held = exists().where(
            its,
            ATTEMPT.c.instance_id == each.instance_id,
            ATTEMPT.c.exited_at_ms.is_not(None),
            ATTEMPT.c.notice_at_ms.is_(None),
            ATTEMPT.c.outcome.is_(None),
            ATTEMPT.c.ended_at_ms.is_(None),
            ATTEMPT.c.terminate_requested_at_ms.is_(None),
        )
        # Also of a machine that has gone meanwhile: it has written this decision into the bucket.
        counted = await connection.execute(
            update(MACHINE)
            .where(MACHINE.c.instance_id == each.instance_id, MACHINE.c.idle_number < each.number)
            .values(idle_number=each.number)
        )
        if not counted.rowcount:
            continue
        # Its job has run here, so its last wait is over, though the answer to that claim may still be lost.
        await settle_idle(connection, [each.instance_id], until_ms=now_ms)
        offered = await connection.execute(
            update(MACHINE)
            .where(
                MACHINE.c.instance_id == each.instance_id,
                MACHINE.c.gone_at_ms.is_(None),
                held,
            )
            .values(
                idle_since_ms=now_ms,
                idle_until_ms=now_ms + each.seconds * 1000,
                idle_job_id=each.job_id,
                idle_attempt=each.attempt,
            )
        )
        if offered.rowcount:
            await connection.execute(update(ATTEMPT).where(its).values(released_at_ms=now_ms))


async def withdraw(
    connection: AsyncConnection, instance_ids: Iterable[str], *, now_ms: int
) -> None:
    """These machines take no job any more: EC2 wants them back, or they have failed."""
    await connection.execute(
        update(MACHINE)
        .where(MACHINE.c.instance_id.in_(tuple(instance_ids)), MACHINE.c.idle_until_ms > now_ms)
        .values(idle_until_ms=now_ms)
    )


async def settle_idle(
    connection: AsyncConnection,
    instance_ids: Sequence[str],
    *,
    until_ms: int,
    number: int | None = None,
) -> None:
    """Charge what these machines have waited to the jobs that asked for it. Settling twice changes nothing.

    `number`: only the wait that was this decision; a later one goes on.
    """
    its_number = true() if number is None else MACHINE.c.idle_number == number
    rows: list[Row[Any]] = []
    for start in range(0, len(instance_ids), IDS_MAX):
        statement = select(*_BILLED).where(
            MACHINE.c.instance_id.in_(instance_ids[start : start + IDS_MAX]),
            MACHINE.c.idle_since_ms.is_not(None),
            its_number,
        )
        rows += await connection.execute(statement)
    if not rows:
        return
    charges = [_charge(row, until_ms) for row in rows]
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values(
            cost_usd=ATTEMPT.c.cost_usd + bindparam("the_cost"),
            idle_ms=ATTEMPT.c.idle_ms + bindparam("the_time"),
        ),
        charges,
    )
    await charge_jobs(connection, charges)
    await connection.execute(
        update(MACHINE)
        .where(MACHINE.c.instance_id == bindparam("the_instance"))
        .values(idle_since_ms=None, idle_until_ms=None, idle_job_id=None, idle_attempt=None),
        [{"the_instance": row.instance_id} for row in rows],
    )
    await add_events(connection, [_waited(each, until_ms) for each in charges])


async def charge_jobs(connection: AsyncConnection, charges: Sequence[Mapping[str, Any]]) -> None:
    """Add what an attempt of theirs has cost (`the_cost`, USD) to jobs (`the_job`)."""
    await connection.execute(
        update(JOB)
        .where(JOB.c.id == bindparam("the_job"))
        .values(cost_usd=JOB.c.cost_usd + bindparam("the_cost")),
        [{name: each[name] for name in ("the_job", "the_cost")} for each in charges],
    )


_BILLED = [
    MACHINE.c[name]
    for name in (
        *("instance_id", "price_usd_h", "launched_at_ms"),
        *("idle_since_ms", "idle_job_id", "idle_attempt"),
    )
]


def _charge(row: Row[Any], until_ms: int) -> dict[str, Any]:
    cost_usd = share_usd(
        row.price_usd_h,
        launched_ms=row.launched_at_ms,
        from_ms=row.idle_since_ms,
        until_ms=until_ms,
    )
    return {
        "the_job": row.idle_job_id,
        "the_number": row.idle_attempt,
        "the_cost": cost_usd,
        "the_time": max(until_ms - row.idle_since_ms, 0),
    }


def _waited(charge: dict[str, Any], now_ms: int) -> dict[str, Any]:
    seconds, cost_usd = charge["the_time"] / 1000, charge["the_cost"]
    return {
        "at_ms": now_ms,
        "job_id": charge["the_job"],
        "attempt": charge["the_number"],
        "kind": "machine_waited",
        "message": f"its machine was idle for {seconds:.0f} s (${cost_usd:.4f})",
    }


def idle_and_free() -> ColumnElement[bool]:
    """Machines that wait and that no attempt holds: a claim gives the machine to an attempt before it is answered."""
    holder = ATTEMPT.alias()
    held = (
        exists()
        .where(
            holder.c.instance_id == MACHINE.c.instance_id,
            holder.c.ended_at_ms.is_(None),
            holder.c.released_at_ms.is_(None),
        )
        .correlate(MACHINE)
    )
    return MACHINE.c.idle_since_ms.is_not(None) & MACHINE.c.gone_at_ms.is_(None) & not_(held)


def idle_usd() -> ScalarSelect[Any]:
    """What idle machines may come to cost a job of the enclosing query, from their release to their end; NULL: none are."""
    until_ms = func.coalesce(MACHINE.c.idle_until_ms, MACHINE.c.idle_since_ms)
    longest_ms = until_ms + int(IDLE_MARGIN_S * 1000) - MACHINE.c.idle_since_ms
    return (
        select(func.sum(MACHINE.c.price_usd_h * longest_ms / HOUR_MS))
        .where(MACHINE.c.idle_since_ms.is_not(None), MACHINE.c.idle_job_id == JOB.c.id)
        .correlate(JOB)
        .scalar_subquery()
    )


def larger(one: ColumnElement[Any], other: float | ColumnElement[Any]) -> ColumnElement[Any]:
    """The larger of two; SQLite and PostgreSQL have no function of the same name for it."""
    return case((one > other, one), else_=other)
