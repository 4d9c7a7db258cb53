"""The queue as the daemon works it: a foreign INSERT, then the store's own functions. Law: durable on both databases
(`synchronous=FULL`, `fsync=on`); every move guarded and with its event; a batch of a hundred is one transaction.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from dstackd.clock import SystemClock
from dstackd.controllers import intake
from dstackd.core.job import Job
from dstackd.core.phase import Phase, Reason
from dstackd.store.engine import Connection, Database, open_database
from dstackd.store.jobs import queued_jobs
from dstackd.store.migrate import upgrade
from dstackd.store.moves import Move, save_moves
from dstackd.wake import Wakes
from tests.benchmarks.queue.peers import Rates

BATCH = 100
LOOK_AHEAD = 1000
"""The planner's default."""


def our_rates(url: str, count: int) -> Rates:
    """Jobs a second: inserted by an application, a hundred a transaction; then claimed (judged, queued) and finished."""
    return asyncio.run(_rates(url, count))


async def _rates(url: str, count: int) -> Rates:
    async with migrated(url) as database:
        specs = [json.dumps({"commands": [f"python train.py --seed {n}"]}) for n in range(count)]
        insert = insert_sqlite if database.path else insert_postgres
        began_s = time.perf_counter()
        await insert(database, specs)
        inserted_s = time.perf_counter()
        await claim_all(database)
        await finish_all(database)
        return count / (inserted_s - began_s), count / (time.perf_counter() - inserted_s)


@asynccontextmanager
async def migrated(url: str) -> AsyncIterator[Database]:
    """An open database with the newest schema."""
    async with open_database(url, clock=SystemClock()) as database:
        await upgrade(database)
        yield database


async def insert_sqlite(database: Database, specs: Sequence[str]) -> None:
    """As an application in Python does."""

    def insert() -> None:
        with closing(
            sqlite3.connect(str(database.path), timeout=30, isolation_level=None)
        ) as plain:
            plain.execute("PRAGMA synchronous = FULL")
            for start in range(0, len(specs), BATCH):
                rows = [(spec,) for spec in specs[start : start + BATCH]]
                plain.execute("BEGIN IMMEDIATE")
                plain.executemany("INSERT INTO job (spec) VALUES (?)", rows)
                plain.execute("COMMIT")

    await asyncio.to_thread(insert)


async def insert_postgres(database: Database, specs: Sequence[str]) -> None:
    """One statement for a hundred rows."""
    plain: Any = await asyncpg.connect(database.url.set(drivername="postgresql").render_as_string())
    try:
        for start in range(0, len(specs), BATCH):
            statement = "INSERT INTO job (spec) SELECT * FROM unnest($1::text[])"
            await plain.execute(statement, list(specs[start : start + BATCH]))
    finally:
        await plain.close()


async def claim_all(database: Database) -> None:
    """The daemon's intake, until nothing is submitted."""
    intake.PASS_MAX = BATCH
    loop = intake.Intake(
        database, admit=lambda _: None, clock=SystemClock(), wakes=Wakes(), interval_s=1.0
    )
    await loop.step()


async def look(database: Database) -> list[Job]:
    """What the planner sees."""
    now_ms = SystemClock().now_ms()

    async def read(connection: Connection) -> list[Job]:
        return await queued_jobs(connection, due_at_ms=now_ms, count_max=LOOK_AHEAD)

    return await database.read(read)


async def finish_all(database: Database) -> None:
    """Every queued job to a terminal phase, a hundred a transaction."""
    while jobs := await look(database):
        for start in range(0, len(jobs), BATCH):
            await finish(database, jobs[start : start + BATCH])


async def finish(database: Database, jobs: Sequence[Job]) -> None:
    """One transaction."""
    now_ms = SystemClock().now_ms()
    moves = [
        Move(
            job.id,
            job.version,
            job.phase,
            now_ms,
            phase=Phase.FAILED,
            reason=Reason.NO_OFFERING,
            message="over",
        )
        for job in jobs
    ]

    async def work(connection: Connection) -> None:
        await save_moves(connection, moves)

    await database.write(work)
