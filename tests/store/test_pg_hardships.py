"""What servers, networks and neighbours do to a PostgreSQL queue: every statement ends, and the daemon comes back by itself."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import pytest
from anyio import to_thread
from sqlalchemy import bindparam, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.clock import SystemClock
from dstackd.errors import ConfigError, StorageFailed, StoreBusy
from dstackd.store import postgres as store_postgres
from dstackd.store.engine import Database, open_database
from dstackd.store.jobs import add_array_elements
from dstackd.store.migrate import schema_position, upgrade
from dstackd.store.tables import JOB
from tests.store.conftest import migrate
from tests.store.postgres import Postgres, postgres_or_skip, running_postgres

INSERT = text("INSERT INTO job (id, spec) VALUES (:id, '{}')")


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server that may be mistreated: nobody else is on it."""
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


async def insert(database: Database, *job_ids: str) -> None:
    """Rows of one transaction."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(INSERT, [{"id": each} for each in job_ids])

    await database.write(work)


async def ids(database: Database) -> set[str]:
    """Of all rows."""

    async def work(connection: AsyncConnection) -> set[str]:
        return set((await connection.execute(text("SELECT id FROM job"))).scalars())

    return await database.read(work)


@contextmanager
def stopped(server: Postgres) -> Iterator[None]:
    """All of its processes, as on a host that is out of memory: connections stay, nothing answers."""
    processes = server.processes()
    for each in processes:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            os.kill(each, signal.SIGCONT)


async def test_a_server_that_hangs(
    own_server: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement, a commit and a new connection end after their bound, and all works again when the server does."""
    monkeypatch.setattr(store_postgres, "CONNECT_S", 0.5)
    async with open_database(url, clock=SystemClock()) as database:
        assert database.server is not None
        engine = database.server.engine(statement_s=0.5)
        hasty = Database(
            engine, engine, url=database.url, clock=SystemClock(), server=database.server
        )
        await insert(hasty, "before")
        with stopped(own_server):
            began_s = time.monotonic()
            for attempt in (insert(hasty, "meanwhile"), ids(hasty), insert(hasty, "meanwhile")):
                with pytest.raises(StorageFailed, match="does not answer"):
                    await attempt
            assert time.monotonic() - began_s < 10
        await insert(hasty, "after")
        assert {"before", "after"} <= await ids(hasty)
        await engine.dispose()


@contextmanager
def silent_host() -> Iterator[str]:
    """The folder of a socket that takes connections and says nothing. Its name is short: a socket's path is limited."""
    with (
        tempfile.TemporaryDirectory(prefix="pg-") as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(f"{folder}/.s.PGSQL.5432")
        listener.listen()
        yield folder


async def test_a_dead_host_before_a_good_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each host has its own time to answer, so that a silent one does not use up all of it."""
    monkeypatch.setattr(store_postgres, "CONNECT_S", 0.5)
    with silent_host() as dead:
        both = url.replace("host=", f"host={dead},")
        async with open_database(both, clock=SystemClock()) as database:
            await insert(database, "job-1")
            assert await ids(database) == {"job-1"}


async def test_a_primary_that_becomes_a_standby(own_server: Postgres, url: str) -> None:
    """A write that is refused as read-only is an outage; the next one goes to the host of the URL that takes writes."""
    with running_postgres() as second:
        other_url = second.new_database()
        while other_url.partition("?")[0] != url.partition("?")[0]:
            other_url = second.new_database()
        await migrate(other_url)
        both = f"{url},{second.folder}"
        async with open_database(both, clock=SystemClock()) as database:
            await insert(database, "on-the-first")
            name = url.partition("@/")[2].partition("?")[0]
            demote = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
            await to_thread.run_sync(own_server.psql, url, demote)

            async def become_standby(connection: AsyncConnection) -> None:
                await connection.execute(
                    text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
                )

            await database.write(become_standby)
            with pytest.raises(StorageFailed, match="read-only transaction"):
                await insert(database, "refused")
            await insert(database, "on-the-second")
            assert await ids(database) == {"on-the-second"}


async def test_no_host_takes_writes(own_server: Postgres, url: str) -> None:
    """That is an outage as well: one of them will be promoted."""
    name = url.partition("@/")[2].partition("?")[0]
    own_server.psql(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with open_database(url, clock=SystemClock()) as database:
        with pytest.raises(StorageFailed, match="target attribute"):
            await ids(database)


async def test_a_database_that_is_not_there_yet(own_server: Postgres) -> None:
    """It may be created while the daemon waits."""
    url = own_server.new_database().replace("@/test", "@/absent")
    async with open_database(url, clock=SystemClock()) as database:
        with pytest.raises(StorageFailed, match="does not exist"):
            await schema_position(database)


@pytest.mark.parametrize("tail", ["a,b&port=1,2,3", "a:x"])
def test_a_url_that_makes_no_sense(tail: str) -> None:
    """An operator's mistake is told as one."""

    async def go() -> None:
        async with open_database(f"postgresql:///n?host={tail}", clock=SystemClock()) as database:
            await ids(database)

    with pytest.raises(ConfigError, match="database"):
        anyio.run(go)


async def test_somebody_keeps_a_row_locked(
    database: Database, own_server: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs that row is told so after a moment, again and again; writes of other rows go through meanwhile."""
    monkeypatch.setattr(store_postgres, "_SESSION", "SET lock_timeout = '200ms'")
    await insert(database, "job-1", "job-2")

    async def rise(job_id: str) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(JOB).where(JOB.c.id == job_id).values(attempt=1))

        await database.write(work)

    async with open_database(url, clock=SystemClock()) as other:
        assert other.server is not None
        connection = await other.server.connect()
        await connection.execute("BEGIN; UPDATE job SET priority = 5 WHERE id = 'job-1'")
        database_ids = await ids(database)  # a connection with the short patience
        assert database_ids == {"job-1", "job-2"}
        with pytest.raises(StoreBusy, match="holds a row"):
            await rise("job-1")
        await rise("job-2")
        await connection.execute("COMMIT")
        await rise("job-1")
        await connection.close()


async def test_values_that_no_column_holds(either: Database) -> None:
    """A NUL, half of a surrogate pair and a number of a hundred digits are made to fit; the rows beside theirs are written as they are."""
    await insert(either, "job-1", "job-2", "job-3")
    statement = (
        update(JOB)
        .where(JOB.c.id == bindparam("the_id"))
        .values(message=bindparam("text"), cost_usd=1.5, next_visit_at_ms=bindparam("number"))
    )
    rows = [
        {"the_id": "job-1", "text": "half \ud83d and a \0", "number": 10**100},
        {"the_id": "job-2", "text": "none \ud800", "number": -(10**100)},
        {"the_id": "job-3", "text": "grün 🟢", "number": 5},
    ]

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(statement, rows)

    async def read(connection: AsyncConnection) -> list[tuple[str, int]]:
        columns = text("SELECT message, next_visit_at_ms FROM job ORDER BY id")
        return [(row[0], row[1]) for row in await connection.execute(columns)]

    await either.write(work)
    assert await either.read(read) == [
        ("half \ufffd and a \ufffd", 2**63 - 1),
        ("none \ufffd", -(2**63)),
        ("grün 🟢", 5),
    ]


async def test_a_question_with_a_value_that_no_column_holds(either: Database) -> None:
    """Nobody has such an id: the answer is that there is none."""

    async def read(connection: AsyncConnection) -> list[str]:
        asked = text("SELECT id FROM job WHERE id = :id")
        return list((await connection.execute(asked, {"id": "a\0b\ud800"})).scalars())

    assert await either.read(read) == []


async def test_a_statement_that_no_value_mends(database: Database) -> None:
    """It stays what it is, our own mistake, and is not run for ever."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(DBAPIError, match="division by zero"):
        await database.write(work)


async def test_four_daemons_migrate_at_once(own_server: Postgres) -> None:
    """One does it, the others wait for it and find it done."""
    url = own_server.new_database()
    before = []

    async def start() -> None:
        async with open_database(url, clock=SystemClock()) as database:
            before.append((await upgrade(database)).current)
            assert (await schema_position(database)).up_to_date

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(start)
    assert sorted(str(each) for each in before) == ["0001", "0001", "0001", "None"]


@pytest.mark.parametrize("run_at", ["'2027-01-31 06:00:00+00:00'", "NULL"])
async def test_elements_begin_when_their_array_does(either: Database, run_at: str) -> None:
    """Each database has a type of its own for `run_at`: elements get the array's, on both."""
    statement = f"INSERT INTO job (id, spec, run_at) VALUES ('a', '{{}}', {run_at})"

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(statement))
        await add_array_elements(connection, parent_id="a", element_spec="{}", count=2)

    async def read(connection: AsyncConnection) -> list[tuple[str, int | None]]:
        found = await connection.execute(text("SELECT id, run_at_ms FROM job ORDER BY seq"))
        return [(row[0], row[1]) for row in found]

    await either.write(work)
    at_ms = None if run_at == "NULL" else 1_801_375_200_000
    assert await either.read(read) == [("a", at_ms), ("a-0", at_ms), ("a-1", at_ms)]
