"""A queue with a past and a future: what a million finished jobs, and a hundred thousand that wait for their time, cost a claim."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

from dstackd.store.engine import Connection, Database
from tests.benchmarks.queue.ours import (
    BATCH,
    claim_all,
    finish,
    insert_postgres,
    insert_sqlite,
    look,
    migrated,
)

FINISHED = 1_000_000
FUTURE = 100_000
ROUNDS = 31

_TRIGGERS = ("job_starts_submitted", "job_logs_its_submission")
_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
_SPEC = '{"commands": ["true"]}'
_DONE = (
    "INSERT INTO job (spec, phase, reason, finished_at_ms, version, attempt)"
    f" SELECT '{_SPEC}', 'succeeded', 'exited', 1700000000000 + i, 9, 1 FROM {{n}}"
)
_WAITING = (
    "INSERT INTO job (spec, phase, reason, next_visit_at_ms, held, version)"
    f" SELECT '{_SPEC}', 'queued', 'scheduled', 4102444800000 + i, 1, 1 FROM {{n}}"
)
_EVENTS = (
    "INSERT INTO event (at_ms, job_id, kind, phase_to)"
    " SELECT finished_at_ms, id, 'phase', 'succeeded' FROM job WHERE finished_at_ms IS NOT NULL"
)


def fill_sqlite(path: Path, *, finished: int = FINISHED, future: int = FUTURE) -> None:
    """As years of work leave it, around the triggers."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as plain:
        triggers = plain.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name IN (?, ?)",
            _TRIGGERS,
        ).fetchall()
        plain.execute("PRAGMA synchronous = OFF")
        plain.execute("BEGIN IMMEDIATE")
        for name, _ in triggers:
            plain.execute(f"DROP TRIGGER {name}")
        for statement, count in ((_DONE, finished), (_WAITING, future)):
            plain.execute(_NUMBERS.format(count=count) + statement.replace("{n}", "n"))
        plain.execute(_EVENTS)
        for _, sql in triggers:
            plain.execute(sql)
        plain.execute("COMMIT")


async def _fill_postgres(database: Database) -> None:
    async def work(connection: Connection) -> None:
        await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement, count in ((_DONE, FINISHED), (_WAITING, FUTURE)):
            for start in range(0, count, BATCH * BATCH):
                numbers = f"generate_series({start + 1}, {start + BATCH * BATCH}) AS n (i)"
                await connection.exec_driver_sql(statement.replace("{n}", numbers))

    await database.write(work)


def claims_ms(empty_url: str, full_url: str) -> tuple[float, float]:
    """Claim and finish of a hundred, on an empty queue and on a full one: medians of rounds that take turns."""
    return asyncio.run(_claims_ms(empty_url, full_url))


async def _claims_ms(empty_url: str, full_url: str) -> tuple[float, float]:
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(migrated(u)) for u in (empty_url, full_url)]
        path = databases[1].path
        if path is None:
            await _fill_postgres(databases[1])
        else:
            await asyncio.to_thread(fill_sqlite, path)
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(ROUNDS):
            for database, seen in zip(databases, times, strict=True):
                seen.append(await _round_ms(database, number))
        return statistics.median(times[0]), statistics.median(times[1])


async def _round_ms(database: Database, number: int) -> float:
    specs = [json.dumps({"commands": [f"echo {number} {each}"]}) for each in range(BATCH)]
    await (insert_sqlite if database.path else insert_postgres)(database, specs)
    began_s = time.perf_counter()
    await claim_all(database)
    jobs = await look(database)
    assert len(jobs) == BATCH, len(jobs)
    await finish(database, jobs)
    return (time.perf_counter() - began_s) * 1000
