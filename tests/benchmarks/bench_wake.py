"""From another process's COMMIT to the row being `queued`, on an idle machine and on each database's own terms.

The loops are the daemon's: the watch rings the intake, the intake reads, judges and commits. Durable commits on both sides. The baseline is
the bar: 5 ms in the median, 20 ms for the slowest hundredth.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio

from dstackd.clock import SystemClock
from dstackd.controllers.intake import Intake
from dstackd.noticing import watch_commits
from dstackd.store.engine import Database, open_database
from dstackd.store.migrate import upgrade
from dstackd.supervisor import Supervised, run_loops
from dstackd.vitals import Vitals
from dstackd.wake import Wakes
from tests.benchmarks.figure import Figure
from tests.store.postgres import PostgresUnavailable, running_postgres

COMMITS = 300
APART_S = 0.02
BARS_MS = {"p50": 5.0, "p99": 20.0}

# Each prints the time of its commit's end; all processes read one monotonic clock.
PRODUCERS = {
    "SQLite": """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
for line in sys.stdin:
    connection.execute("INSERT INTO job (spec) VALUES ('{\\"commands\\": [\\"true\\"]}')")
    print(time.monotonic_ns(), flush=True)
""",
    "PostgreSQL": """
import asyncio, asyncpg, sys, time
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    for line in sys.stdin:
        await connection.execute("INSERT INTO job (spec) VALUES ('{\\"commands\\": [\\"true\\"]}')")
        print(time.monotonic_ns(), flush=True)
asyncio.run(main())
""",
}


def measure() -> Iterator[Figure]:
    """Percentiles of the latency, by database."""
    directory = Path(tempfile.mkdtemp())
    try:
        path = directory / "queue.db"
        yield from _figures("SQLite", f"sqlite:///{path}", str(path))
    finally:
        shutil.rmtree(directory)
    try:
        with running_postgres(durable=True) as server:
            url = server.new_database()
            yield from _figures("PostgreSQL", url, url)
    except PostgresUnavailable as error:
        sys.stderr.write(f"no PostgreSQL: {error}\n")


def _figures(engine: str, url: str, where: str) -> Iterator[Figure]:
    latencies_ms = sorted(asyncio.run(_latencies_ms(engine, url, where)))
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        yield Figure(
            figure=f"{engine}: commit to claimed, {name} of {COMMITS}",
            value=round(latencies_ms[int(len(latencies_ms) * share)], 3),
            unit="ms",
            baseline=BARS_MS[name],
        )


async def _latencies_ms(engine: str, url: str, where: str) -> list[float]:
    clock, wakes, vitals = SystemClock(), Wakes(), Vitals()
    async with open_database(url, clock=clock) as database:
        await upgrade(database)
        intake = _intake(database, clock, wakes)
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, database, wakes, vitals, clock)
            group.start_soon(_run, intake, wakes, vitals, clock)
            await anyio.sleep(1)  # idle from here on
            latencies_ms = await _produce(PRODUCERS[engine], where, wakes)
            group.cancel_scope.cancel()
    return latencies_ms


def _intake(database: Database, clock: SystemClock, wakes: Wakes) -> Intake:
    """It looks by itself so seldom that a wake which did not come would be seen in the figures."""
    admit: Callable[[object], None] = lambda _: None  # noqa: E731
    return Intake(database, admit=admit, clock=clock, wakes=wakes, interval_s=60.0)


async def _watch(database: Database, wakes: Wakes, vitals: Vitals, clock: SystemClock) -> None:
    await watch_commits(database, wakes=wakes, vitals=vitals, clock=clock)


async def _run(intake: Intake, wakes: Wakes, vitals: Vitals, clock: SystemClock) -> None:
    await run_loops([Supervised(intake, wakes.intake)], vitals=vitals, clock=clock)


async def _produce(producer: str, where: str, wakes: Wakes) -> list[float]:
    """The intake rings the planning when its commit is done."""
    latencies_ms: list[float] = []
    command = [sys.executable, "-c", producer, where]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the producer has no pipes")
        for _ in range(COMMITS + 1):  # the first one warms up
            await anyio.sleep(APART_S)
            await process.stdin.send(b"go\n")
            if not await wakes.planning.wait(30):
                raise RuntimeError("a commit was not noticed")
            claimed_ns = time.monotonic_ns()
            committed_ns = int(await process.stdout.receive())
            latencies_ms.append(max(claimed_ns - committed_ns, 0) / 1e6)
        process.kill()
    return latencies_ms[1:]
