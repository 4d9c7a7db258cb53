"""Machines on their way out, and what is known of every machine. Law: a machine leaves from the first moment when nobody needs it,
and that moment is written once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.instance import InstanceState
from dstackd.core.orphan import STUCK_AFTER_S
from dstackd.store.moves import IDS_MAX, add_events
from dstackd.store.tables import ATTEMPT, LAUNCH, MACHINE, THE_TIME, of_backend


def _nobody_needs_it() -> ColumnElement[bool]:
    """Going by EC2's word, or its attempt has been judged: then it was asked to go, or will be as soon as EC2 answers."""
    judged = exists().where(
        ATTEMPT.c.instance_id == MACHINE.c.instance_id,
        ATTEMPT.c.outcome.is_not(None),
        ATTEMPT.c.released_at_ms.is_(None),
        ATTEMPT.c.ended_at_ms.is_(None),
    )
    return or_(MACHINE.c.state == InstanceState.SHUTTING_DOWN.value, judged)


@dataclass(frozen=True, slots=True)
class Leavers:
    """Machines on their way out that something is to be done about, by id."""

    new: tuple[str, ...]
    """Nobody needs them any more, and that is not written yet."""
    stuck: tuple[str, ...]
    untold: tuple[str, ...]
    """Those of `stuck` that have no event yet."""


async def leavers(
    connection: AsyncConnection, *, now_ms: int, backend: str | None = None
) -> Leavers:
    """All of them, in one statement: this is read with every sweep."""
    rows = list(await connection.execute(_leavers(backend), {"the_time": now_ms}))
    stuck = [row for row in rows if row.leaving_since_ms is not None]
    return Leavers(
        new=tuple(row.instance_id for row in rows if row.leaving_since_ms is None),
        stuck=tuple(row.instance_id for row in stuck),
        untold=tuple(row.instance_id for row in stuck if row.stuck_at_ms is None),
    )


@cache
def _leavers(backend: str | None) -> Select[Any]:
    is_new = MACHINE.c.leaving_since_ms.is_(None) & _nobody_needs_it()
    return select(MACHINE.c.instance_id, MACHINE.c.leaving_since_ms, MACHINE.c.stuck_at_ms).where(
        MACHINE.c.gone_at_ms.is_(None),
        or_(is_new, long_leaving(THE_TIME)),
        of_backend(MACHINE.c.backend, backend),
    )


async def note_leaving(
    connection: AsyncConnection, instance_ids: Sequence[str], *, now_ms: int
) -> None:
    """Nobody needs these from now on; the first word stays."""
    for start in range(0, len(instance_ids), IDS_MAX):
        await connection.execute(
            update(MACHINE)
            .where(
                MACHINE.c.instance_id.in_(instance_ids[start : start + IDS_MAX]),
                MACHINE.c.leaving_since_ms.is_(None),
            )
            .values(leaving_since_ms=now_ms)
        )


def long_leaving(now_ms: int | ColumnElement[int]) -> ColumnElement[bool]:
    """Machines that nobody needs for too long, and that are still there."""
    return MACHINE.c.gone_at_ms.is_(None) & (
        MACHINE.c.leaving_since_ms < now_ms - int(STUCK_AFTER_S * 1000)
    )


async def note_stuck(
    connection: AsyncConnection, instance_ids: Iterable[str], *, now_ms: int
) -> list[str]:
    """Write an event for each of these that has none yet; returns their ids."""
    told = []
    for instance_id in instance_ids:
        written = await connection.execute(
            update(MACHINE)
            .where(MACHINE.c.instance_id == instance_id, MACHINE.c.stuck_at_ms.is_(None))
            .values(stuck_at_ms=now_ms)
        )
        if written.rowcount:
            told.append(instance_id)
    minutes = int(STUCK_AFTER_S // 60)
    message = f"nobody needs it for {minutes} minutes, and EC2 does not show it terminated; asking again every minute"
    await add_events(
        connection,
        [
            {
                "at_ms": now_ms,
                "kind": "terminate_stuck",
                "message": f"{instance_id}: {message}",
                "detail": json.dumps({"instance": instance_id}),
            }
            for instance_id in told
        ],
    )
    return told


async def launch_prices(connection: AsyncConnection, launch_ids: Sequence[str]) -> dict[str, float]:
    """Launch -> USD an hour of each of its machines, for those that the table knows."""
    prices: dict[str, float] = {}
    for start in range(0, len(launch_ids), IDS_MAX):
        statement = select(LAUNCH.c.id, LAUNCH.c.price_usd_h).where(
            LAUNCH.c.id.in_(launch_ids[start : start + IDS_MAX]), LAUNCH.c.reuses.is_(None)
        )
        prices |= {row.id: row.price_usd_h for row in await connection.execute(statement)}
    return prices


async def note_cancelled(
    connection: AsyncConnection, requests: Sequence[tuple[str, str]], *, now_ms: int
) -> None:
    """An event for each spot request, given as (id, launch), that is about to be cancelled."""
    events: list[dict[str, Any]] = [
        {
            "at_ms": now_ms,
            "kind": "spot_request_cancelled",
            "message": f"{request_id} (launch {launch_id or '?'}) is open without a machine and without a launch; cancelling it",
            "detail": json.dumps({"spot_request": request_id, "launch": launch_id}),
        }
        for request_id, launch_id in requests
    ]
    await add_events(connection, events)
