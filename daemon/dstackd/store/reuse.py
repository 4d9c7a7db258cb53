"""Who takes an idle machine. Law: a machine is promised to one intent at a time, and the bucket decides whether that has it.

The intent is committed before the write that claims the machine, the answer after it, as with a launch (`store.launches`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd import protocol
from dstackd.core.instance import Market
from dstackd.core.phase import Reason
from dstackd.core.reuse import IdleMachine, Lifetime, shape_of_machine
from dstackd.errors import StaleRow
from dstackd.store.idle import settle_idle
from dstackd.store.jobs import job_of
from dstackd.store.launches import (
    Member,
    back_to_queue,
    close_launch,
    members_of,
    to_booting,
    to_launching,
)
from dstackd.store.moves import Move, save_moves
from dstackd.store.requests import load_request
from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE, THE_TIME, of_backend


@dataclass(frozen=True, slots=True)
class Reuse:
    """An intent to give a job to an idle machine. `document` is the launch document, byte for byte."""

    id: str
    instance_id: str
    number: int
    document: str


async def idle_machines(
    connection: AsyncConnection, *, now_ms: int, backend: str | None = None
) -> list[IdleMachine]:
    """Machines that wait for a job now. One that is claimed, leaves or was seen going is not among them."""
    rows = await connection.execute(_idle_machines(backend), {"the_time": now_ms})
    return [_idle_machine(row) for row in rows]


@cache
def _idle_machines(backend: str | None) -> Select[Any]:
    return (
        select(JOB, *_MACHINE_COLUMNS, ATTEMPT.c.vcpus, LAUNCH.c.request)
        .select_from(MACHINE)
        .join(JOB, JOB.c.id == MACHINE.c.idle_job_id)
        .join(
            ATTEMPT, (ATTEMPT.c.job_id == JOB.c.id) & (ATTEMPT.c.number == MACHINE.c.idle_attempt)
        )
        .join(LAUNCH, LAUNCH.c.id == MACHINE.c.launch_id)
        .where(
            MACHINE.c.idle_since_ms.is_not(None),
            MACHINE.c.idle_until_ms > THE_TIME,
            MACHINE.c.gone_at_ms.is_(None),
            MACHINE.c.state.in_(("pending", "running")),
            of_backend(MACHINE.c.backend, backend),
        )
    )


_MACHINE_COLUMNS = [
    MACHINE.c[name].label(f"machine_{name}")
    for name in (
        "instance_id",
        "backend",
        "instance_type",
        "zone",
        "market",
        "price_usd_h",
        "launched_at_ms",
    )
] + [MACHINE.c.idle_number, MACHINE.c.idle_until_ms]


def _idle_machine(row: Row[Any]) -> IdleMachine:
    job = job_of(row)
    return IdleMachine(
        instance_id=row.machine_instance_id,
        backend=row.machine_backend,
        number=row.idle_number,
        shape=shape_of_machine(job.spec, job.project),
        instance_type=row.machine_instance_type,
        zone=row.machine_zone,
        market=Market(row.machine_market),
        price_usd_h=row.machine_price_usd_h,
        vcpus=row.vcpus,
        until_ms=row.idle_until_ms,
        lifetime=_lifetime(row),
    )


def _lifetime(row: Row[Any]) -> Lifetime | None:
    """As the machine's tag has it, from its launch on: the boot itself is not counted, so this is the earlier end."""
    seconds = dict(load_request(row.request).tags).get(protocol.TAG_LIFETIME, "")
    began_ms = int(row.machine_launched_at_ms)
    return Lifetime(began_ms, began_ms + int(seconds) * 1000) if seconds.isdecimal() else None


async def commit_reuse(
    connection: AsyncConnection,
    *,
    launch_id: str,
    document: str,
    machine: IdleMachine,
    member: Member,
    now_ms: int,
) -> None:
    """Write the intent and its attempt, and move the job to launching. Raises StaleRow when the job has moved on or
    the machine is not to be had any more.
    """
    claimed = await connection.execute(
        update(MACHINE)
        .where(
            MACHINE.c.instance_id == machine.instance_id,
            MACHINE.c.idle_number == machine.number,
            MACHINE.c.idle_until_ms > now_ms,
            MACHINE.c.gone_at_ms.is_(None),
        )
        .values(idle_until_ms=None)
    )
    if not claimed.rowcount:
        message = f"{machine.instance_id} is not idle any more"
        raise StaleRow(message)
    offering = machine.offering
    await connection.execute(
        insert(LAUNCH).values(
            id=launch_id,
            backend=machine.backend,
            client_token=f"reuse-{launch_id}",
            request="{}",
            document=document,
            offering=offering.key,
            price_usd_h=machine.price_usd_h,
            count=1,
            created_at_ms=now_ms,
            reuses=machine.instance_id,
            reuse_number=machine.number,
        )
    )
    await save_moves(connection, [_intent(machine, launch_id, member, now_ms)])
    await connection.execute(
        insert(ATTEMPT).values(
            job_id=member.job_id,
            number=member.attempt,
            backend=machine.backend,
            launch_id=launch_id,
            launch_index=0,
            instance_id=machine.instance_id,
            instance_type=machine.instance_type,
            zone=machine.zone,
            market=machine.market,
            price_usd_h=machine.price_usd_h,
            vcpus=machine.vcpus,
            reserved_usd=member.reserved_usd,
            reused=1,
        )
    )


def _intent(machine: IdleMachine, launch_id: str, member: Member, now_ms: int) -> Move:
    message = f"giving it to {machine.instance_id}, which is idle"
    detail = {"launch": launch_id, "reuses": machine.instance_id, "number": machine.number}
    return to_launching(member, message, detail, backend=machine.backend, now_ms=now_ms)


async def open_reuses(connection: AsyncConnection, *, backend: str | None = None) -> list[Reuse]:
    """Intents without a saved answer, oldest first."""
    return [Reuse(*row) for row in await connection.execute(_open_reuses(backend))]


@cache
def _open_reuses(backend: str | None) -> Select[Any]:
    return (
        select(LAUNCH.c.id, LAUNCH.c.reuses, LAUNCH.c.reuse_number, LAUNCH.c.document)
        .where(
            LAUNCH.c.state == "intended",
            LAUNCH.c.reuses.is_not(None),
            of_backend(LAUNCH.c.backend, backend),
        )
        .order_by(LAUNCH.c.created_at_ms)
    )


async def save_taken(connection: AsyncConnection, reuse: Reuse, *, now_ms: int) -> None:
    """The machine is the job's: its waiting ends, and the job goes to booting."""
    if await close_launch(connection, reuse.id, state="answered", now_ms=now_ms) is None:
        return
    # The machine may have run the job and wait again before anybody hears that the claim was made.
    await settle_idle(connection, [reuse.instance_id], until_ms=now_ms, number=reuse.number)
    members = await members_of(connection, reuse.id)
    if not members:
        return
    await connection.execute(
        update(ATTEMPT).where(ATTEMPT.c.launch_id == reuse.id).values(launched_at_ms=now_ms)
    )
    await save_moves(connection, [_booting(reuse, member, now_ms) for member in members])


def _booting(reuse: Reuse, member: Row[Any], now_ms: int) -> Move:
    message = f"{reuse.instance_id}, used again"
    detail = {"instance": reuse.instance_id, "number": reuse.number}
    return to_booting(member, message, detail, now_ms=now_ms)


async def save_refused(connection: AsyncConnection, reuse: Reuse, *, now_ms: int) -> None:
    """The machine was first and leaves: the job goes back to the queue, and the machine is not offered again."""
    message = f"{reuse.instance_id} left before it could take the job; another machine follows"
    closed = await close_launch(
        connection, reuse.id, state="failed", now_ms=now_ms, code="MachineLeft", message=message
    )
    if closed is None:
        return
    await connection.execute(
        update(MACHINE)
        .where(MACHINE.c.instance_id == reuse.instance_id, MACHINE.c.idle_since_ms.is_not(None))
        .values(idle_until_ms=now_ms)
    )
    members = await members_of(connection, reuse.id)
    await back_to_queue(connection, members, Reason.MACHINE_LOST, message, now_ms=now_ms)
