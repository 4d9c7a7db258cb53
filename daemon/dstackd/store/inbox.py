"""What machines report, written onto attempts. Law: the first report of a fact wins; recording twice changes nothing.

Reports of one pass are read against the attempts once and written together: a thousand machines cost a few statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd import protocol
from dstackd.protocol import InboxEvent
from dstackd.spec.limits import REUSE_S_MAX
from dstackd.store.idle import Release, release, withdraw
from dstackd.store.logs import save_verdicts
from dstackd.store.moves import IDS_MAX, add_events
from dstackd.store.tables import ATTEMPT, JOB

Reported = tuple[InboxEvent, int]
"""An event and the LastModified of its object, which S3 lists in whole seconds."""

AttemptKey = tuple[str, int]


INTEGER_MAX = 2**31 - 1
BIGINT_MAX = 2**63 - 1
"""What PostgreSQL's columns hold; SQLite's hold the larger one."""


class Receipt(StrEnum):
    """What became of an inbox event."""

    RECORDED = "recorded"
    TOO_EARLY = "too_early"
    """The attempt exists, its machine's id is not saved yet: look again later."""
    FOREIGN = "foreign"
    """No attempt of ours has this machine."""


_FACTS = (
    "booted_at_ms",
    "started_at_ms",
    "notice_at_ms",
    "rebalance_at_ms",
    "exited_at_ms",
    "exit_code",
    "exit_cause",
    "exit_signal",
    "sealed_at_ms",
    "seal_verdict",
    "artifact_files",
    "artifact_bytes",
    "seal_message",
    "done_at_ms",
    "log_lines_sent",
    "log_bytes_sent",
    "log_lines_over_quota",
    "log_lines_lost",
    "failed_stage",
    "failed_message",
    "failed_final",
)


async def record(
    connection: AsyncConnection, reports: Sequence[Reported], *, now_ms: int
) -> list[Receipt]:
    """Write what the events say, in the order given; a receipt for each."""
    known = await _attempts(connection, [event for event, _ in reports])
    facts: dict[AttemptKey, dict[str, Any]] = {}
    receipts: list[Receipt] = []
    news: list[tuple[InboxEvent, AttemptKey]] = []
    for event, at_ms in reports:
        found = _find(event, known)
        if isinstance(found, Receipt):
            receipts.append(found)
            continue
        if found.released_at_ms is not None:
            receipts.append(Receipt.RECORDED)  # nothing that befalls an idle machine befalls a job
            continue
        changes = _changes(event, at_ms)
        if changes is None:
            receipts.append(Receipt.FOREIGN)
            continue
        receipts.append(Receipt.RECORDED)
        key = (found.job_id, found.number)
        own = facts.setdefault(key, {name: getattr(found, name) for name in _FACTS})
        if own[next(iter(changes))] in {None, ""}:
            own |= changes
            news.append((event, key))
    if news:
        await _save(connection, {key: facts[key] for _, key in news}, news, now_ms=now_ms)
        done = [key for event, key in news if event.kind == protocol.DONE]
        await save_verdicts(connection, done, now_ms=now_ms)
        await release(connection, _releases(news), now_ms=now_ms)
    going = {event.instance_id for event, _ in reports if event.kind in _LEAVES}
    if going:
        await withdraw(connection, going, now_ms=now_ms)
    return receipts


async def is_any_claimed(connection: AsyncConnection, events: Sequence[InboxEvent]) -> bool:
    """Whether `record` would write something of these. Reads only."""
    known = await _attempts(connection, events)
    return any(
        not isinstance(_find(event, known), Receipt) and _changes(event, 0) is not None
        for event in events
    )


_LEAVES = frozenset({protocol.NOTICE, protocol.REBALANCE, protocol.FAILED})
"""After these a machine takes no further job."""


def _releases(news: Iterable[tuple[InboxEvent, AttemptKey]]) -> list[Release]:
    """Those machines among the news that are done with their attempts and wait for another job."""
    releases = []
    for event, (job_id, attempt) in news:
        fields = event.fields[4:]
        if event.kind != protocol.DONE or fields[:1] != (protocol.IDLE,):
            continue
        number, seconds = (*map(_number, fields[1:]), None, None)[:2]
        if number and seconds and max(number, seconds) <= INTEGER_MAX:
            wait_s = min(seconds, REUSE_S_MAX)
            releases.append(Release(job_id, attempt, event.instance_id, number, wait_s))
    return releases


async def _attempts(
    connection: AsyncConnection, events: Sequence[InboxEvent]
) -> dict[AttemptKey | str, Row[Any]]:
    """The attempts that the events may mean, by (job, number) and by instance id."""
    known: dict[AttemptKey | str, Row[Any]] = {}
    job_ids = list({event.job_id for event in events if event.job_id != "-"})
    machines = list({event.instance_id for event in events if event.job_id == "-"})
    names = ("job_id", "number", "instance_id", "released_at_ms", *_FACTS)
    columns = [ATTEMPT.c[name] for name in names]
    for start in range(0, max(len(job_ids), len(machines)), IDS_MAX):
        statement = (
            select(*columns)
            .where(
                or_(
                    ATTEMPT.c.job_id.in_(job_ids[start : start + IDS_MAX]),
                    ATTEMPT.c.instance_id.in_(machines[start : start + IDS_MAX]),
                )
            )
            # The last one wins: a machine stands for the attempt that has it.
            .order_by(ATTEMPT.c.released_at_ms.is_(None))
        )
        for row in await connection.execute(statement):
            known[row.job_id, row.number] = row
            if row.instance_id is not None:
                known[row.instance_id] = row
    return known


def _find(event: InboxEvent, known: Mapping[AttemptKey | str, Row[Any]]) -> Row[Any] | Receipt:
    if event.job_id == "-":  # the machine does not know its job: the instance id has to do
        return known.get(event.instance_id, Receipt.FOREIGN)
    row = known.get((event.job_id, event.attempt))
    if row is None:
        return Receipt.FOREIGN
    if row.instance_id is None:
        return Receipt.TOO_EARLY
    return row if row.instance_id == event.instance_id else Receipt.FOREIGN


async def _save(
    connection: AsyncConnection,
    facts: Mapping[AttemptKey, Mapping[str, Any]],
    news: Sequence[tuple[InboxEvent, AttemptKey]],
    *,
    now_ms: int,
) -> None:
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values({name: bindparam(name) for name in _FACTS}),
        [{**own, "the_job": key[0], "the_number": key[1]} for key, own in facts.items()],
    )
    started = {key[0] for event, key in news if event.kind == protocol.STARTED}
    woken = {key[0] for key in facts}
    await _wake(connection, woken - started)
    await _wake(connection, started, ran_attempts=JOB.c.ran_attempts + 1, boot_failures=0)
    await add_events(
        connection,
        (
            {
                "at_ms": now_ms,
                "job_id": job_id,
                "attempt": number,
                "kind": f"machine_{event.kind}",
                "message": " ".join(event.fields),
            }
            for event, (job_id, number) in news
        ),
    )


async def _wake(connection: AsyncConnection, job_ids: set[str], **values: Any) -> None:  # noqa: ANN401 - SQL expressions
    """Have the jobs looked at; their version rises, so that nobody saves over what has just been learnt."""
    if job_ids:
        await connection.execute(
            update(JOB)
            .where(JOB.c.id == bindparam("the_job"))
            .values(next_visit_at_ms=0, version=JOB.c.version + 1, **values),
            [{"the_job": job_id} for job_id in sorted(job_ids)],
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
        case protocol.REBALANCE:
            return {"rebalance_at_ms": at_ms}
        case protocol.EXITED:
            return {
                "exited_at_ms": at_ms,
                "exit_code": _number(fields[0], max_=INTEGER_MAX),
                "exit_cause": fields[1] or "exit",
                "exit_signal": fields[2],
            }
        case protocol.SEALED:
            return {
                "sealed_at_ms": at_ms,
                "seal_verdict": fields[0],
                "artifact_files": _number(fields[1], max_=INTEGER_MAX),
                "artifact_bytes": _number(fields[2]),
                "seal_message": fields[3],
            }
        case protocol.DONE:
            return {
                "done_at_ms": at_ms,
                "log_lines_sent": _number(fields[0]),
                "log_bytes_sent": _number(fields[1]),
                "log_lines_over_quota": _number(fields[2]),
                "log_lines_lost": _number(fields[3]),
            }
        case protocol.FAILED:
            return {
                "failed_stage": fields[0] or "unknown",
                "failed_message": fields[1],
                "failed_final": int(fields[2] == protocol.FINAL),
            }
        case _:
            return None


def _number(field: str, *, max_: int = BIGINT_MAX) -> int | None:
    """The figure; None for what is none, or does not fit into its column: anybody may write into a bucket."""
    return int(field) if field.isdecimal() and int(field) <= max_ else None


async def mark_requested(
    connection: AsyncConnection, attempts: Sequence[AttemptKey], *, column: str, now_ms: int
) -> None:
    """Remember that a stop or a terminate was asked for: `stop_requested_at_ms` or `terminate_requested_at_ms`."""
    value: Any = now_ms
    if column == "stop_requested_at_ms":  # the grace runs from the first request
        value = func.coalesce(ATTEMPT.c[column], now_ms)
    await connection.execute(
        update(ATTEMPT)
        .where(
            ATTEMPT.c.job_id == bindparam("the_job"), ATTEMPT.c.number == bindparam("the_number")
        )
        .values({column: value}),
        [{"the_job": job_id, "the_number": number} for job_id, number in attempts],
    )
