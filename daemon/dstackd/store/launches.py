"""Launch intents and their answers. Law: the intent is committed before the call, the answer after it, each in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.instance import Market
from dstackd.core.launching import Launched, LaunchRequest
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.store.moves import Move, add_events, save_moves
from dstackd.store.requests import dump_request, load_request
from dstackd.store.tables import ATTEMPT, JOB, LAUNCH, MACHINE, of_backend


@dataclass(frozen=True, slots=True)
class Member:
    """One job of a launch, at its launch index."""

    job_id: str
    version: int
    attempt: int
    reserved_usd: float
    """The worst case of the attempt; 0 where there is no bound on its duration."""


@dataclass(frozen=True, slots=True)
class Launch:
    """An intent as committed. `document` is the launch document, byte for byte."""

    id: str
    request: LaunchRequest
    document: str
    created_at_ms: int


async def commit_intent(
    connection: AsyncConnection,
    *,
    backend: str,
    request: LaunchRequest,
    document: str,
    offering: Offering,
    members: Sequence[Member],
    now_ms: int,
) -> None:
    """Write the launch, its attempts, and move its jobs to launching. Raises StaleRow when one has moved on."""
    await connection.execute(
        insert(LAUNCH).values(
            id=request.launch_id,
            backend=backend,
            client_token=request.client_token,
            request=dump_request(request),
            document=document,
            offering=offering.key,
            price_usd_h=offering.price_usd_h,
            count=request.count,
            created_at_ms=now_ms,
        )
    )
    await save_moves(
        connection, [_intent(request, offering, member, backend, now_ms) for member in members]
    )
    await connection.execute(
        insert(ATTEMPT),
        [
            {
                "job_id": member.job_id,
                "number": member.attempt,
                "backend": backend,
                "launch_id": request.launch_id,
                "launch_index": index,
                "instance_type": offering.instance_type,
                "zone": offering.zone,
                "market": offering.market,
                "price_usd_h": offering.price_usd_h,
                "vcpus": offering.vcpus,
                "reserved_usd": member.reserved_usd,
            }
            for index, member in enumerate(members)
        ],
    )


def _intent(
    request: LaunchRequest, offering: Offering, member: Member, backend: str, now_ms: int
) -> Move:
    message = f"asking EC2 for {offering.instance_type} ({offering.market}) in {offering.zone}"
    detail = {"launch": request.launch_id, "offering": offering.key}
    return to_launching(member, message, detail, backend=backend, now_ms=now_ms)


def to_launching(
    member: Member, message: str, detail: dict[str, Any], *, backend: str, now_ms: int
) -> Move:
    """The job's move with its intent: from now on it is this backend's."""
    return Move(
        member.job_id,
        member.version,
        Phase.QUEUED,
        now_ms,
        phase=Phase.LAUNCHING,
        reason=Reason.INTENT_COMMITTED,
        message=message,
        attempt=member.attempt,
        detail=detail,
        changes={"attempt": member.attempt, "backend": backend},
    )


async def open_launches(connection: AsyncConnection, *, backend: str | None = None) -> list[Launch]:
    """Intents without a saved answer, oldest first; those that reuse a machine are `store.reuse`'s."""
    return [
        Launch(row.id, load_request(row.request), row.document, row.created_at_ms)
        for row in await connection.execute(_open_launches(backend))
    ]


@cache
def _open_launches(backend: str | None) -> Select[Any]:
    return (
        select(LAUNCH)
        .where(
            LAUNCH.c.state == "intended",
            LAUNCH.c.reuses.is_(None),
            of_backend(LAUNCH.c.backend, backend),
        )
        .order_by(LAUNCH.c.created_at_ms)
    )


async def members_of(connection: AsyncConnection, launch_id: str) -> list[Row[Any]]:
    """The jobs that wait for the answer of this launch, by its indexes."""
    return list(await connection.execute(_MEMBERS, {"the_launch": launch_id}))


_MEMBERS = (
    select(JOB.c.id, JOB.c.version, JOB.c.phase, JOB.c.attempt, ATTEMPT.c.launch_index)
    .join(ATTEMPT, (ATTEMPT.c.job_id == JOB.c.id) & (ATTEMPT.c.number == JOB.c.attempt))
    .where(ATTEMPT.c.launch_id == bindparam("the_launch"), JOB.c.phase == "launching")
    .order_by(ATTEMPT.c.launch_index)
)


async def save_answer(
    connection: AsyncConnection, launch: Launch, launched: Sequence[Launched], *, now_ms: int
) -> None:
    """Write EC2's answer: machines, instance ids, jobs to booting; what EC2 did not give goes back to the queue."""
    price = await close_launch(connection, launch.id, state="answered", now_ms=now_ms)
    if price is None:
        return
    machines = {machine.launch_index: machine for machine in launched}
    request = launch.request
    members = await members_of(connection, launch.id)
    given = [
        (member, machines[member.launch_index])
        for member in members
        if member.launch_index in machines
    ]
    rest = [member for member in members if member.launch_index not in machines]
    if given:
        await connection.execute(
            insert(MACHINE),
            [_machine_values(launch, machine, price, now_ms=now_ms) for machine in launched],
        )
        await _set_instances(connection, given, now_ms=now_ms)
        await save_moves(connection, [_booting(request, *pair, now_ms=now_ms) for pair in given])
    message = f"EC2 gave {len(machines)} of {request.count} machines; asking for the rest again"
    await back_to_queue(connection, rest, Reason.NO_CAPACITY, message, now_ms=now_ms)


async def _set_instances(
    connection: AsyncConnection, given: Sequence[tuple[Row[Any], Launched]], *, now_ms: int
) -> None:
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values(instance_id=bindparam("the_instance"), launched_at_ms=now_ms),
        [
            {
                "the_job": member.id,
                "the_number": member.attempt,
                "the_instance": machine.instance_id,
            }
            for member, machine in given
        ],
    )


def _machine_values(
    launch: Launch, machine: Launched, price: tuple[str, float], *, now_ms: int
) -> dict[str, Any]:
    """With the machine's launch by EC2's clock, as far as ours allows it: between the intent and the answer. What it costs is
    counted from there.
    """
    request = launch.request
    return {
        "instance_id": machine.instance_id,
        "backend": price[0],
        "launch_id": request.launch_id,
        "launch_index": machine.launch_index,
        "instance_type": request.instance_type,
        "zone": request.zone,
        "market": Market(request.market).value,
        "price_usd_h": price[1],
        "spot_request_id": machine.spot_request_id,
        "private_ip": machine.private_ip,
        "launched_at_ms": min(max(machine.launched_at_ms, launch.created_at_ms), now_ms),
    }


def _booting(request: LaunchRequest, member: Row[Any], machine: Launched, *, now_ms: int) -> Move:
    message = f"{machine.instance_id}, {request.instance_type} ({request.market}) in {request.zone}"
    detail = {"instance": machine.instance_id, "spot_request": machine.spot_request_id}
    return to_booting(member, message, detail, now_ms=now_ms)


def to_booting(member: Row[Any], message: str, detail: dict[str, Any], *, now_ms: int) -> Move:
    """The job's move once it has its machine."""
    return Move(
        member.id,
        member.version,
        Phase.LAUNCHING,
        now_ms,
        phase=Phase.BOOTING,
        reason=Reason.LAUNCHED,
        message=message,
        attempt=member.attempt,
        next_visit_at_ms=now_ms,
        detail=detail,
    )


async def back_to_queue(
    connection: AsyncConnection,
    members: Sequence[Row[Any]],
    reason: Reason,
    message: str,
    *,
    now_ms: int,
) -> None:
    """Nothing ran, so the attempts do not count: their numbers are used again."""
    if not members:
        return
    await connection.execute(
        delete(ATTEMPT).where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        ),
        [{"the_job": member.id, "the_number": member.attempt} for member in members],
    )
    moves = [
        Move(
            member.id,
            member.version,
            Phase.LAUNCHING,
            now_ms,
            phase=Phase.QUEUED,
            reason=reason,
            message=message,
            attempt=member.attempt,
            next_visit_at_ms=now_ms,
            changes={"attempt": member.attempt - 1},
        )
        for member in members
    ]
    await save_moves(connection, moves)


async def save_failure(
    connection: AsyncConnection,
    launch: Launch,
    *,
    code: str,
    reason: Reason,
    message: str,
    now_ms: int,
) -> None:
    """EC2 gave nothing: the jobs go back to the queue with the reason."""
    closed = await close_launch(
        connection, launch.id, state="failed", now_ms=now_ms, code=code, message=message
    )
    if closed is None:
        return
    members = await members_of(connection, launch.id)
    await back_to_queue(connection, members, reason, message, now_ms=now_ms)


async def close_launch(
    connection: AsyncConnection,
    launch_id: str,
    *,
    state: str,
    now_ms: int,
    code: str | None = None,
    message: str = "",
) -> tuple[str, float] | None:
    """Close an open launch; (backend, price) of it, or None when it was closed before: saving twice is harmless."""
    row = (
        await connection.execute(
            update(LAUNCH)
            .where(LAUNCH.c.id == launch_id, LAUNCH.c.state == "intended")
            .values(state=state, answered_at_ms=now_ms, error_code=code, message=message)
            .returning(LAUNCH.c.backend, LAUNCH.c.price_usd_h)
        )
    ).one_or_none()
    if row is None:
        return None
    event = {
        "at_ms": now_ms,
        "kind": f"launch_{state}",
        "message": message,
        "detail": json.dumps({"launch": launch_id}),
    }
    await add_events(connection, [event])
    return row.backend, row.price_usd_h
