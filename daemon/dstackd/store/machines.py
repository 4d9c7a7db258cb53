"""Machines and the end of attempts. Law: a machine row follows EC2; it never decides anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import CompoundSelect, Row, Select, bindparam, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.budget import IDLE_MARGIN_S
from dstackd.core.cost import machine_cost_usd, share_usd
from dstackd.core.instance import Instance, InstanceState
from dstackd.core.phase import Outcome
from dstackd.store.idle import charge_jobs, settle_idle
from dstackd.store.logs import save_verdicts
from dstackd.store.moves import IDS_MAX, add_events
from dstackd.store.reaping import note_leaving
from dstackd.store.tables import ATTEMPT, LAUNCH, MACHINE, THE_TIME, of_backend


@dataclass(frozen=True, slots=True)
class LiveMachine:
    """A machine that was not seen gone yet."""

    instance_id: str
    state: str
    state_reason: str
    launched_at_ms: int


async def live_machines(
    connection: AsyncConnection, *, backend: str | None = None
) -> list[LiveMachine]:
    """Machines that were not seen gone yet."""
    return [LiveMachine(*row) for row in await connection.execute(_live_machines(backend))]


@cache
def _live_machines(backend: str | None) -> Select[Any]:
    return select(
        MACHINE.c.instance_id, MACHINE.c.state, MACHINE.c.state_reason, MACHINE.c.launched_at_ms
    ).where(MACHINE.c.gone_at_ms.is_(None), of_backend(MACHINE.c.backend, backend))


async def needed(
    connection: AsyncConnection, *, now_ms: int, backend: str | None = None
) -> tuple[frozenset[str], frozenset[str]]:
    """(instance ids of attempts that have one and are not over, and of machines that may still be idle; ids of launches
    without a saved answer).
    """
    ids = await connection.execute(_needed(backend), {"the_time": now_ms})
    launches = await connection.execute(_unanswered(backend))
    needed_ids = frozenset(each for each in ids.scalars() if each is not None)
    return needed_ids, frozenset(launches.scalars())


@cache
def _needed(backend: str | None) -> CompoundSelect[Any]:
    # Not "instance_id IS NOT NULL" here: SQLite would walk the index of all attempts that ever were.
    held = select(ATTEMPT.c.instance_id).where(
        ATTEMPT.c.ended_at_ms.is_(None),
        ATTEMPT.c.released_at_ms.is_(None),
        of_backend(ATTEMPT.c.backend, backend),
    )
    idle = select(MACHINE.c.instance_id).where(
        MACHINE.c.idle_since_ms.is_not(None),
        MACHINE.c.idle_until_ms > THE_TIME - int(IDLE_MARGIN_S * 1000),
        of_backend(MACHINE.c.backend, backend),
    )
    return held.union_all(idle)


@cache
def _unanswered(backend: str | None) -> Select[str]:
    return select(LAUNCH.c.id).where(
        LAUNCH.c.state == "intended", of_backend(LAUNCH.c.backend, backend)
    )


async def instances_of_attempts(
    connection: AsyncConnection, *, backend: str | None = None
) -> frozenset[str]:
    """Instances of attempts that are not over, whether EC2 shows them or not."""
    ids = (await connection.execute(_instances_of_attempts(backend))).scalars()
    return frozenset(each for each in ids if each is not None)


@cache
def _instances_of_attempts(backend: str | None) -> Select[Any]:
    return select(ATTEMPT.c.instance_id).where(
        ATTEMPT.c.ended_at_ms.is_(None), of_backend(ATTEMPT.c.backend, backend)
    )


async def anything_live(connection: AsyncConnection, *, backend: str | None = None) -> bool:
    """Whether a machine of ours may exist or may have left word: one not seen gone, an attempt that is not over (its
    machine may have gone already, with its last word in the bucket), or a launch without an answer.
    """
    return bool((await connection.execute(_anything_live(backend))).scalar_one())


@cache
def _anything_live(backend: str | None) -> Select[bool]:
    """Asked several times a second: made once."""
    return select(
        or_(
            exists().where(MACHINE.c.gone_at_ms.is_(None), of_backend(MACHINE.c.backend, backend)),
            exists().where(ATTEMPT.c.ended_at_ms.is_(None), of_backend(ATTEMPT.c.backend, backend)),
            exists().where(LAUNCH.c.state == "intended", of_backend(LAUNCH.c.backend, backend)),
        )
    )


async def unnoticed_spot_machines(
    connection: AsyncConnection, *, backend: str | None = None
) -> frozenset[str]:
    """Spot machines of attempts that go on and about which no notice is known."""
    return frozenset((await connection.execute(_unnoticed(backend))).scalars())


@cache
def _unnoticed(backend: str | None) -> Select[str]:
    return select(ATTEMPT.c.instance_id).where(
        ATTEMPT.c.ended_at_ms.is_(None),
        ATTEMPT.c.market == "spot",
        ATTEMPT.c.instance_id.is_not(None),
        ATTEMPT.c.notice_at_ms.is_(None),
        ATTEMPT.c.done_at_ms.is_(None),
        of_backend(ATTEMPT.c.backend, backend),
    )


async def save_states(
    connection: AsyncConnection, instances: Sequence[Instance], *, now_ms: int
) -> None:
    """Write the states that have changed; a machine that is terminated is gone."""
    if not instances:
        return
    await connection.execute(
        update(MACHINE)
        .where(MACHINE.c.instance_id == bindparam("the_instance"))
        .values(
            state=bindparam("the_state"),
            state_reason=bindparam("the_reason"),
            gone_at_ms=bindparam("the_end"),
        ),
        [
            {
                "the_instance": instance.instance_id,
                "the_state": instance.state,
                "the_reason": instance.state_reason,
                "the_end": now_ms if instance.state is InstanceState.TERMINATED else None,
            }
            for instance in instances
        ],
    )
    gone = [each.instance_id for each in instances if each.state is InstanceState.TERMINATED]
    await settle_idle(connection, gone, until_ms=now_ms)


async def save_absent(
    connection: AsyncConnection, instance_ids: Sequence[str], *, now_ms: int
) -> None:
    """Machines that EC2 does not list any more are gone."""
    await connection.execute(
        update(MACHINE)
        .where(MACHINE.c.instance_id.in_(tuple(instance_ids)), MACHINE.c.gone_at_ms.is_(None))
        .values(state="terminated", gone_at_ms=now_ms)
    )
    await settle_idle(connection, list(instance_ids), until_ms=now_ms)


async def adopt_orphan(
    connection: AsyncConnection, instance: Instance, *, backend: str, now_ms: int
) -> None:
    """Give a machine that the table does not know a row, and an event, before it is terminated; nobody needs it from now on."""
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
    await note_leaving(connection, [instance.instance_id], now_ms=now_ms)
    message = f"{instance.instance_id} (launch {instance.launch_id or '?'}) has no live attempt; terminating it"
    await add_events(connection, [{"at_ms": now_ms, "kind": "orphan", "message": message}])


async def end_attempts(
    connection: AsyncConnection, attempts: Sequence[tuple[str, int]], *, now_ms: int
) -> None:
    """Close attempts whose machine is gone, and add their (estimated) cost to their jobs. Closing twice changes nothing."""
    rows = [
        row
        for start in range(0, len(attempts), IDS_MAX)
        for row in await connection.execute(_bills(attempts[start : start + IDS_MAX]))
    ]
    wanted = set(attempts)
    ended = [
        {
            "the_job": row.job_id,
            "the_number": row.number,
            "the_cost": _bill_usd(row, now_ms),
        }
        for row in rows
        if (row.job_id, row.number) in wanted
    ]
    if not ended:
        return
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values(ended_at_ms=now_ms, cost_usd=ATTEMPT.c.cost_usd + bindparam("the_cost")),
        ended,
    )
    await charge_jobs(connection, ended)
    keys = [(str(row["the_job"]), int(row["the_number"])) for row in ended]
    await save_verdicts(connection, keys, now_ms=now_ms)


def _bill_usd(row: Row[Any], now_ms: int) -> float:
    until_ms = row.released_at_ms or row.gone_at_ms or now_ms
    if not row.reused:
        began_ms = row.machine_launched_at_ms
        return machine_cost_usd(row.price_usd_h, from_ms=began_ms, until_ms=until_ms)
    return share_usd(
        row.price_usd_h,
        launched_ms=row.machine_launched_at_ms,
        from_ms=row.launched_at_ms,
        until_ms=until_ms,
    )


def _bills(attempts: Sequence[tuple[str, int]]) -> Select[Any]:
    return (
        select(
            ATTEMPT.c.job_id,
            ATTEMPT.c.number,
            ATTEMPT.c.launched_at_ms,
            ATTEMPT.c.price_usd_h,
            ATTEMPT.c.reused,
            ATTEMPT.c.released_at_ms,
            MACHINE.c.gone_at_ms,
            MACHINE.c.launched_at_ms.label("machine_launched_at_ms"),
        )
        .join(MACHINE, MACHINE.c.instance_id == ATTEMPT.c.instance_id, isouter=True)
        .where(
            ATTEMPT.c.job_id.in_([job_id for job_id, _ in attempts]),
            ATTEMPT.c.ended_at_ms.is_(None),
        )
    )


async def set_outcomes(
    connection: AsyncConnection, outcomes: Sequence[tuple[str, int, Outcome]]
) -> None:
    """Write how attempts ended, given as (job, number, outcome); the first outcome stays."""
    if not outcomes:
        return
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"),
            ATTEMPT.c.number == bindparam("the_number"),
            ATTEMPT.c.outcome.is_(None),
        )
        .values(outcome=bindparam("the_outcome")),
        [
            {"the_job": job_id, "the_number": number, "the_outcome": outcome}
            for job_id, number, outcome in outcomes
        ],
    )
