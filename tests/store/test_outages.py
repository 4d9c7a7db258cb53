"""PostgreSQL goes away and comes back, and others write beside us: what a transaction promises all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from anyio import to_thread
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.clock import SystemClock
from dstackd.errors import StorageFailed
from dstackd.store.engine import Database, open_database
from tests.store.conftest import migrate
from tests.store.postgres import Postgres, postgres_or_skip

INSERT = text("""INSERT INTO job (id, spec) VALUES (:id, '{"commands": ["true"]}')""")
IDS = text("SELECT id FROM job")
NAP = text("SELECT pg_sleep(0.01)")
PRIORITY = text("UPDATE job SET priority = priority + 1 WHERE id = :id")


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server that may be restarted: nobody else is on it."""
    with postgres_or_skip() as server:
        yield server


@pytest.fixture
async def url(own_server: Postgres) -> str:
    """A migrated database on it."""
    url = own_server.new_database()
    await migrate(url)
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """An open one."""
    async with open_database(url, clock=SystemClock()) as database:
        yield database


async def insert(database: Database, job_id: str) -> None:
    """One row, in a transaction that takes a while."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(INSERT, {"id": job_id})
        await connection.execute(NAP)

    await database.write(work)


async def ids(database: Database) -> set[str]:
    """Of all rows."""

    async def work(connection: AsyncConnection) -> set[str]:
        await connection.execute(NAP)
        return set((await connection.execute(IDS)).scalars())

    return await database.read(work)


async def until_there_are(committed: set[str], *, count: int) -> None:
    """Poll, with a deadline."""
    with anyio.fail_after(20):
        while True:
            if len(committed) >= count:
                return
            await anyio.sleep(0.01)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_in_the_middle(mode: str, own_server: Postgres, database: Database) -> None:
    """Nothing but StorageFailed comes out of it; what was committed is there, what was refused may be, and then all works again."""
    committed: set[str] = set()
    unknown: set[str] = set()
    refused_reads = 0
    over = anyio.Event()

    async def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                await insert(database, f"job-{number}")
            except StorageFailed:
                unknown.add(f"job-{number}")
                await anyio.sleep(0.01)
            else:
                committed.add(f"job-{number}")

    async def read() -> None:
        nonlocal refused_reads
        while not over.is_set():
            try:
                await ids(database)
            except StorageFailed:
                refused_reads += 1
                await anyio.sleep(0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        group.start_soon(read)
        for _ in range(3):
            await until_there_are(committed, count=len(committed) + 10)
            await to_thread.run_sync(lambda: own_server.restart(mode=mode))
        over.set()
    await insert(database, "last")
    found = await ids(database)
    assert unknown
    assert refused_reads
    assert committed | {"last"} <= found <= committed | unknown | {"last"}


async def test_a_read_is_one_picture(database: Database, url: str, own_server: Postgres) -> None:
    """What others commit between two statements of a read is in neither of them."""
    seen = []

    async def work(connection: AsyncConnection) -> None:
        seen.append(set((await connection.execute(IDS)).scalars()))
        statement = "INSERT INTO job (id, spec) VALUES ('between', '{}')"
        await to_thread.run_sync(lambda: own_server.psql(url, statement))
        seen.append(set((await connection.execute(IDS)).scalars()))

    await database.read(work)
    assert seen == [set(), set()]
    assert await ids(database) == {"between"}


async def test_who_comes_second_does_it_again(
    database: Database, url: str, own_server: Postgres
) -> None:
    """Somebody else changes the row between our look and our write: the work runs again and neither change is lost."""
    await insert(database, "job-1")
    looks = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal looks
        looks += 1
        await connection.execute(IDS)
        if looks == 1:
            statement = "UPDATE job SET priority = priority + 10 WHERE id = 'job-1'"
            await to_thread.run_sync(lambda: own_server.psql(url, statement))
        await connection.execute(PRIORITY, {"id": "job-1"})

    await database.write(work)
    assert looks == 2
    assert own_server.psql(url, "SELECT priority FROM job") == "11"


async def test_a_wrong_statement_stays_a_bug(database: Database) -> None:
    """A row that is there already is no outage: nobody waits for it to pass."""
    await insert(database, "job-1")
    with pytest.raises(IntegrityError):
        await insert(database, "job-1")
    await insert(database, "job-2")
