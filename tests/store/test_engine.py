"""Connections and transactions: modes of files, one writer at a time, and neighbours that never rest."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from dstackd.clock import SystemClock
from dstackd.errors import ConfigError, StoreBusy
from dstackd.simulated.clock import SimulatedClock
from dstackd.store.engine import Database, async_url, open_database

INSERT = text("""INSERT INTO job (spec) VALUES ('{"commands": ["true"]}')""")

# No think time, no pause, a commit a row: what a naive producer does in a loop.
HOSTILE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
print("ready", flush=True)
while True:
    connection.execute("INSERT INTO job (spec) VALUES ('{}')")
"""


async def insert(connection: AsyncConnection) -> None:
    """One row."""
    await connection.execute(INSERT)


async def count(connection: AsyncConnection) -> int:
    """Rows that this reader sees."""
    return int((await connection.execute(text("SELECT count(*) FROM job"))).scalar_one())


@contextmanager
def a_hostile_neighbour(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the write lock nearly all the time."""
    command = [sys.executable, "-I", "-c", HOSTILE, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


async def test_a_hostile_neighbour_does_not_starve_a_write(path: Path, database: Database) -> None:
    """A process that commits without a pause leaves us our turn: a hundred writes, each within the bound, and it goes on too."""
    with a_hostile_neighbour(path) as neighbour:
        before, slowest_s = await database.read(count), 0.0
        for _ in range(100):
            began_s = time.monotonic()
            await database.write(insert)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        after = await database.read(count)
        assert neighbour.poll() is None
    assert slowest_s < 10
    assert after - before > 100


async def test_a_lock_that_is_never_given_back_is_reported(path: Path) -> None:
    """After the bound a write raises StoreBusy; it has not waited inside SQLite, and works again afterwards."""
    clock = ImpatientClock()
    async with open_database(f"sqlite:///{path}", clock=clock) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                await database.write(insert)
            holder.execute("ROLLBACK")
        await database.write(insert)
        assert await database.read(count) == 1


class ImpatientClock(SimulatedClock):
    """Seven seconds pass whenever somebody looks."""

    @override
    def monotonic_s(self) -> float:
        self.advance(7.0)
        return super().monotonic_s()


async def test_readers_do_not_wait_for_a_writer(path: Path, database: Database) -> None:
    """Somebody's open transaction is invisible and holds nobody up."""
    await database.write(insert)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        holder.execute("INSERT INTO job (spec) VALUES ('{}')")
        assert await database.read(count) == 1


async def test_a_failed_transaction_leaves_nothing(either: Database) -> None:
    """What was written before the error is not there."""

    async def break_off(connection: AsyncConnection) -> None:
        await insert(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await either.write(break_off)
    assert await either.read(count) == 0
    await either.write(insert)
    assert await either.read(count) == 1


async def test_the_group_may_write(tmp_path: Path) -> None:
    """The file and what SQLite puts beside it have the group's write bit: applications of the group insert rows."""
    path = tmp_path / "state" / "queue.db"
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as database:

        async def create(connection: AsyncConnection) -> None:
            await connection.execute(text("CREATE TABLE anything (a)"))

        await database.write(create)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"queue.db": 0o660, "queue.db-wal": 0o660, "queue.db-shm": 0o660}


async def test_the_file_is_safe_and_shared(path: Path, database: Database) -> None:
    """Write-ahead log for readers beside a writer, an fsync for each commit, foreign keys, and no wait inside SQLite."""
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")

    async def read(connection: AsyncConnection) -> list[object]:
        return [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in names]

    assert await database.write(read) == ["wal", 2, 1, 0]


def test_other_databases_are_refused() -> None:
    """The message says what is supported."""
    with pytest.raises(ConfigError, match="sqlite:///PATH or postgresql://"):
        async_url("mysql://host/name")
