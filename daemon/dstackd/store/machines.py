"""Machines and the end of attempts. Law: a machine row follows EC2; it never decides anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.cost import machine_cost_usd
from dstackd.core.instance import Instance, InstanceState
from dstackd.core.phase import Outcome
from dstackd.store.jobs import add_event
from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE


@dataclass(frozen=True, slots=True)
class LiveMachine:
    """A machine that was not seen gone yet."""

    instance_id: str
    state: str
    state_reason: str
    launched_at_ms: int


async def live_machines(connection: AsyncConnection) -> list[LiveMachine]:
    """Machines that were not seen gone yet."""
    statement = select(
        MACHINE.c.instance_id, MACHINE.c.state, MACHINE.c.state_reason, MACHINE.c.launched_at_ms
    ).where(MACHINE.c.gone_at_ms.is_(None))
    return [LiveMachine(*row) for row in await connection.execute(statement)]


async def needed(connection: AsyncConnection) -> tuple[frozenset[str], frozenset[str]]:
    """(instance ids of attempts that are not over, ids of launches without a saved answer)."""
    ids = await connection.execute(
        select(ATTEMPT.c.instance_id).where(
            ATTEMPT.c.ended_at_ms.is_(None), ATTEMPT.c.instance_id.is_not(None)
        )
    )
    launches = await connection.execute(select(LAUNCH.c.id).where(LAUNCH.c.state == "intended"))
    return frozenset(ids.scalars()), frozenset(launches.scalars())


async def anything_live(connection: AsyncConnection) -> bool:
    """Whether a machine of ours may exist or may have left word: one not seen gone, an attempt that is not over (its
    machine may have gone already, with its last word in the bucket), or a launch without an answer.
    """
    machine = exists().where(MACHINE.c.gone_at_ms.is_(None))
    attempt = exists().where(ATTEMPT.c.ended_at_ms.is_(None))
    launch = exists().where(LAUNCH.c.state == "intended")
    return bool((await connection.execute(select(or_(machine, attempt, launch)))).scalar_one())


async def save_states(
    connection: AsyncConnection, instances: Iterable[Instance], *, now_ms: int
) -> None:
    """Write the states that have changed; a machine that is terminated is gone."""
    for instance in instances:
        values: dict[str, Any] = {"state": instance.state, "state_reason": instance.state_reason}
        if instance.state is InstanceState.TERMINATED:
            values["gone_at_ms"] = now_ms
        await connection.execute(
            update(MACHINE).where(MACHINE.c.instance_id == instance.instance_id).values(values)
        )


async def save_absent(
    connection: AsyncConnection, instance_ids: Iterable[str], *, now_ms: int
) -> None:
    """Machines that EC2 does not list any more are gone."""
    await connection.execute(
        update(MACHINE)
        .where(MACHINE.c.instance_id.in_(tuple(instance_ids)), MACHINE.c.gone_at_ms.is_(None))
        .values(state="terminated", gone_at_ms=now_ms)
    )


async def adopt_orphan(
    connection: AsyncConnection, instance: Instance, *, backend: str, now_ms: int
) -> None:
    """Give a machine that the table does not know a row and an event, before it is terminated."""
    known = await connection.execute(
        select(MACHINE.c.instance_id).where(MACHINE.c.instance_id == instance.instance_id)
    )
    if known.first() is None:
        await connection.execute(
            insert(MACHINE).values(
                instance_id=instance.instance_id,
                backend=backend,
                launch_id=instance.launch_id,
                launch_index=instance.launch_index,
                instance_type=instance.instance_type,
                zone=instance.zone,
                market=instance.market,
                price_usd_h=0.0,
                spot_request_id=instance.spot_request_id,
                private_ip=instance.private_ip,
                state=instance.state,
                launched_at_ms=instance.launched_at_ms,
            )
        )
    await add_event(
        connection,
        at_ms=now_ms,
        kind="orphan",
        message=f"{instance.instance_id} (launch {instance.launch_id or '?'}) has no live attempt; terminating it",
    )


async def end_attempt(
    connection: AsyncConnection, *, job_id: str, number: int, now_ms: int
) -> float:
    """Close an attempt whose machine is gone; returns the job's cost so far in USD (an estimate)."""
    row = (
        await connection.execute(
            select(ATTEMPT.c.launched_at_ms, ATTEMPT.c.price_usd_h, MACHINE.c.gone_at_ms)
            .join(MACHINE, MACHINE.c.instance_id == ATTEMPT.c.instance_id, isouter=True)
            .where(ATTEMPT.c.job_id == job_id, ATTEMPT.c.number == number)
        )
    ).one()
    cost_usd = machine_cost_usd(
        row.price_usd_h, from_ms=row.launched_at_ms, until_ms=row.gone_at_ms or now_ms
    )
    await connection.execute(
        update(ATTEMPT)
        .where(ATTEMPT.c.job_id == job_id, ATTEMPT.c.number == number)
        .values(ended_at_ms=now_ms, cost_usd=cost_usd)
    )
    total = await connection.execute(select(JOB.c.cost_usd).where(JOB.c.id == job_id))
    return float(total.scalar_one()) + cost_usd


async def set_outcome(
    connection: AsyncConnection, *, job_id: str, number: int, outcome: Outcome
) -> None:
    """Write how the attempt ended; the first outcome stays."""
    await connection.execute(
        update(ATTEMPT)
        .where(ATTEMPT.c.job_id == job_id, ATTEMPT.c.number == number, ATTEMPT.c.outcome.is_(None))
        .values(outcome=outcome)
    )
