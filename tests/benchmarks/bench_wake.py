"""From another process's COMMIT to the daemon's event loop knowing of it, on an idle machine and on SQLite's own terms.

The baseline is what a look at `PRAGMA data_version` every 50 ms would give: 25 ms in the mean.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from dstackd.clock import SystemClock
from dstackd.store.engine import open_database
from dstackd.store.migrate import upgrade
from dstackd.store.watch import FALLBACK_BLIND_S, CommitWatch
from tests.benchmarks.figure import Figure

COMMITS = 200

# The producer writes the time of its commit's end to its standard output; both processes read one monotonic clock.
PRODUCER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
for line in sys.stdin:
    connection.execute("INSERT INTO job (spec) VALUES ('{}')")
    print(time.monotonic_ns(), flush=True)
"""


def measure() -> Iterator[Figure]:
    """Percentiles of the latency."""
    directory = Path(tempfile.mkdtemp())
    try:
        latencies_ms = sorted(asyncio.run(_latencies_ms(directory / "queue.db")))
    finally:
        shutil.rmtree(directory)
    blind_ms = FALLBACK_BLIND_S * 1000
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        value = latencies_ms[min(int(len(latencies_ms) * share), len(latencies_ms) - 1)]
        baseline = blind_ms / 2 if name == "p50" else blind_ms
        yield Figure(
            figure=f"commit to wake, {name} of {COMMITS}",
            value=round(value, 3),
            unit="ms",
            baseline=baseline,
        )


async def _latencies_ms(path: Path) -> list[float]:
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as database:
        await upgrade(database)
        with closing(sqlite3.connect(path)) as keeps_the_log_open, CommitWatch(path) as watch:
            keeps_the_log_open.execute("SELECT 1 FROM job").fetchone()
            return await _watch_commits(path, watch)


async def _watch_commits(path: Path, watch: CommitWatch) -> list[float]:
    command = [sys.executable, "-I", "-c", PRODUCER, str(path)]
    latencies_ms: list[float] = []
    asked = 0
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop meanwhile
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as producer:
        if producer.stdin is None or producer.stdout is None:
            raise RuntimeError("the producer has no pipes")
        async for _ in watch.changes():
            noticed_ns = time.monotonic_ns()
            if asked:
                committed_ns = int(producer.stdout.readline())
                latencies_ms.append(max(noticed_ns - committed_ns, 0) / 1e6)
            if asked == COMMITS:
                break
            asked += 1
            producer.stdin.write("go\n")
        producer.stdin.close()
    return latencies_ms
