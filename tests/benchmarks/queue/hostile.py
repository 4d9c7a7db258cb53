"""A producer that commits row after row without a pause, and the claims of a daemon beside it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from dstackd.clock import SystemClock
from dstackd.controllers.intake import Intake
from dstackd.wake import Wakes
from tests.benchmarks.queue.ours import migrated

SECONDS = 30.0

_SPEC = '{"commands": ["true"]}'
_SQLITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("PRAGMA synchronous = FULL")
while True:
    connection.execute("INSERT INTO job (spec) VALUES (?)", [sys.argv[2]])
"""
_POSTGRES = """
import asyncio, sys, asyncpg
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    while True:
        await connection.execute("INSERT INTO job (spec) VALUES ($1)", sys.argv[2])
asyncio.run(main())
"""


def claims_ms(url: str) -> tuple[list[float], int]:
    """How long each claim took (all rows that were there, at most one pass), in order of length; and how many rows in all."""
    return asyncio.run(_claims_ms(url))


async def _claims_ms(url: str) -> tuple[list[float], int]:
    async with migrated(url) as database:
        program, place = (_SQLITE, str(database.path)) if database.path else (_POSTGRES, url)
        loop = Intake(
            database, admit=lambda _: None, clock=SystemClock(), wakes=Wakes(), interval_s=1.0
        )
        times_ms: list[float] = []
        with subprocess.Popen([sys.executable, "-c", program, place, _SPEC]) as producer:  # noqa: ASYNC220 - nothing else runs in this loop
            try:
                ends_s = time.monotonic() + SECONDS
                while time.monotonic() < ends_s:
                    began_s = time.perf_counter()
                    await loop._take_in()
                    times_ms.append((time.perf_counter() - began_s) * 1000)
                    await asyncio.sleep(0.005)
            finally:
                producer.kill()
        row = await database.read(
            lambda connection: connection.exec_driver_sql(
                "SELECT count(*) FROM job WHERE phase <> 'submitted'"
            )
        )
        return sorted(times_ms), row.scalar_one()
