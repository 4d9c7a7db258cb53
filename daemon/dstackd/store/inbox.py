"""What machines report, written onto attempts. Law: the first report of a fact wins; recording twice changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd import protocol
from dstackd.protocol import InboxEvent
from dstackd.store.jobs import add_event
from dstackd.store.tables import ATTEMPT, JOB


class Receipt(StrEnum):
    """What became of an inbox event."""

    RECORDED = "recorded"
    TOO_EARLY = "too_early"
    """The attempt exists, its machine's id is not saved yet: look again later."""
    FOREIGN = "foreign"
    """No attempt of ours has this machine."""


async def record(
    connection: AsyncConnection, event: InboxEvent, *, at_ms: int, now_ms: int
) -> Receipt:
    """Write what the event says; `at_ms` is the object's LastModified, which S3 lists in whole seconds."""
    found = await _find_attempt(connection, event)
    if isinstance(found, Receipt):
        return found
    job_id, number = found
    changes = _changes(event, at_ms)
    if changes is None:
        return Receipt.FOREIGN
    first = next(iter(changes))
    result = await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == job_id,
            ATTEMPT.c.number == number,
            ATTEMPT.c[first].is_(None) if first.endswith("_ms") else ATTEMPT.c[first] == "",
        )
        .values(**changes)
    )
    if result.rowcount == 1:
        await _note(connection, event, job_id, number, now_ms=now_ms)
    return Receipt.RECORDED


async def _find_attempt(
    connection: AsyncConnection, event: InboxEvent
) -> tuple[str, int] | Receipt:
    if event.job_id == "-":  # the machine does not know its job: the instance id has to do
        statement = select(ATTEMPT.c.job_id, ATTEMPT.c.number).where(
            ATTEMPT.c.instance_id == event.instance_id
        )
        row = (await connection.execute(statement)).first()
        return Receipt.FOREIGN if row is None else (row.job_id, row.number)
    statement = select(ATTEMPT.c.instance_id).where(
        ATTEMPT.c.job_id == event.job_id, ATTEMPT.c.number == event.attempt
    )
    found = (await connection.execute(statement)).first()
    if found is None:
        return Receipt.FOREIGN
    if found.instance_id is None:
        return Receipt.TOO_EARLY
    if found.instance_id != event.instance_id:
        return Receipt.FOREIGN
    return event.job_id, event.attempt


async def _note(
    connection: AsyncConnection, event: InboxEvent, job_id: str, number: int, *, now_ms: int
) -> None:
    values: dict[str, Any] = {"next_visit_at_ms": 0}
    if event.kind == protocol.STARTED:
        values |= {"ran_attempts": JOB.c.ran_attempts + 1, "boot_failures": 0}
    await connection.execute(update(JOB).where(JOB.c.id == job_id).values(values))
    await add_event(
        connection,
        at_ms=now_ms,
        job_id=job_id,
        attempt=number,
        kind=f"machine_{event.kind}",
        message=" ".join(event.fields),
    )


def _changes(event: InboxEvent, at_ms: int) -> Mapping[str, Any] | None:
    """Columns that the event sets, the one that marks it as recorded first; None for what makes no sense."""
    fields = [*event.fields, "", "", "", ""]
    match event.kind:
        case protocol.BOOTED:
            return {"booted_at_ms": at_ms}
        case protocol.STARTED:
            return {"started_at_ms": at_ms}
        case protocol.NOTICE:
            return {"notice_at_ms": at_ms}
        case protocol.EXITED:
            return {
                "exited_at_ms": at_ms,
                "exit_code": _number(fields[0]),
                "exit_cause": fields[1] or "exit",
            }
        case protocol.SEALED:
            return {
                "sealed_at_ms": at_ms,
                "seal_verdict": fields[0],
                "artifact_files": _number(fields[1]),
                "artifact_bytes": _number(fields[2]),
                "seal_message": fields[3],
            }
        case protocol.DONE:
            return {
                "done_at_ms": at_ms,
                "log_lines_sent": _number(fields[0]),
                "log_bytes_sent": _number(fields[1]),
            }
        case protocol.FAILED:
            return {"failed_stage": fields[0] or "unknown", "failed_message": fields[1]}
        case _:
            return None


def _number(field: str) -> int | None:
    return int(field) if field.isdecimal() else None


async def mark_requested(
    connection: AsyncConnection, *, job_id: str, number: int, column: str, now_ms: int
) -> None:
    """Remember that a stop or a terminate was asked for: `stop_requested_at_ms` or `terminate_requested_at_ms`."""
    value: Any = now_ms
    if column == "stop_requested_at_ms":  # the grace runs from the first request
        value = func.coalesce(ATTEMPT.c[column], now_ms)
    await connection.execute(
        update(ATTEMPT)
        .where(ATTEMPT.c.job_id == job_id, ATTEMPT.c.number == number)
        .values({column: value})
    )
