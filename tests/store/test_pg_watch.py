"""Noticing what others commit to PostgreSQL: directly, over a restart of the server, and through a real pgbouncer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from anyio import to_thread
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.clock import SystemClock
from dstackd.errors import StorageFailed
from dstackd.noticing import watch_commits
from dstackd.store import pg_watch
from dstackd.store.engine import Database, open_database
from dstackd.store.pg_watch import NotificationWatch
from dstackd.vitals import Vitals
from dstackd.wake import Wakes
from tests.store.conftest import migrate
from tests.store.pgbouncer import PgbouncerUnavailable, running_pgbouncer, through
from tests.store.postgres import Postgres, postgres_or_skip
from tests.tools import missing

INSERT = """INSERT INTO job (spec) VALUES ('{"commands": ["true"]}')"""
ACCEPT = "UPDATE job SET phase = 'queued', version = 1, next_visit_at_ms = 99"
CANCEL = "UPDATE job SET cancel_requested = 1"


@asynccontextmanager
async def watching(
    url: str,
) -> AsyncIterator[tuple[NotificationWatch, AsyncGenerator[tuple[bool, bool], None]]]:
    """A watch of the database and its answers."""
    clock = SystemClock()
    async with open_database(url, clock=clock) as database:
        assert database.server is not None
        with NotificationWatch(database, database.server, clock=clock) as watch:
            async with aclosing(watch.changes()) as changes:
                yield watch, changes


async def until(changes: AsyncGenerator[tuple[bool, bool], None], wanted: tuple[bool, bool]) -> int:
    """How many answers it took."""
    count = 0
    with anyio.fail_after(30):
        async for change in changes:
            count += 1
            if change == wanted:
                return count
    raise AssertionError("the watch has ended")


async def test_a_foreign_commit_is_noticed(
    postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement of others that has something for us is told, with what there is to do; nothing else is, and nobody looks meanwhile."""
    monkeypatch.setattr(pg_watch, "LOOK_S", 60.0)
    async with watching(postgres_url) as (watch, changes):
        assert await anext(changes) == (False, False)
        assert watch.problem == ""
        for statement, due in ((INSERT, False), (CANCEL, True)):
            await to_thread.run_sync(postgres.psql, postgres_url, statement)
            with anyio.fail_after(20):
                assert await anext(changes) == (True, False)
                assert await anext(changes) == (not due, due)
            await to_thread.run_sync(postgres.psql, postgres_url, ACCEPT)
        with anyio.move_on_after(1) as waited:
            await anext(changes)
        assert waited.cancelled_caught


async def test_what_nobody_tells_is_found(
    postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator may switch the trigger off: then a look finds the row, and the watch goes on listening, because it hears itself."""
    monkeypatch.setattr(pg_watch, "LOOK_S", 0.2)
    postgres.psql(postgres_url, "ALTER TABLE job DISABLE TRIGGER job_notifies")
    async with watching(postgres_url) as (watch, changes):
        assert await anext(changes) == (False, False)
        await to_thread.run_sync(postgres.psql, postgres_url, INSERT)
        await until(changes, (True, False))
        await anext(changes)
        assert watch.problem == ""


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server that may be restarted."""
    with postgres_or_skip() as server:
        yield server


async def test_the_server_is_restarted(
    own_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost connection is a problem that is told, and is replaced; then everything is noticed again."""
    monkeypatch.setattr(pg_watch, "RETRY_MIN_S", 0.1)
    url = own_server.new_database()
    await migrate(url)
    async with watching(url) as (watch, changes):
        assert await anext(changes) == (False, False)
        await to_thread.run_sync(lambda: own_server.stop(mode="fast"))
        with anyio.fail_after(20):
            while not watch.problem:
                await anext(changes)
        assert "is lost" in watch.problem or "cannot be had" in watch.problem
        await to_thread.run_sync(own_server.start)
        with anyio.fail_after(20):
            while watch.problem:
                await anext(changes)
        monkeypatch.setattr(pg_watch, "LOOK_S", 60.0)
        await to_thread.run_sync(own_server.psql, url, INSERT)
        await until(changes, (True, False))


@pytest.fixture
def pooled(request: pytest.FixtureRequest, postgres: Postgres, postgres_url: str) -> Iterator[str]:
    """The test's database by way of pgbouncer, in the mode that is its parameter."""
    try:
        with running_pgbouncer(postgres, mode=request.param) as folder:
            yield through(folder, postgres_url)
    except PgbouncerUnavailable as error:
        missing(f"no pgbouncer: {error}")


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
async def test_a_pooler_that_swallows_notifications(
    pooled: str,
    postgres: Postgres,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """LISTEN succeeds and nothing comes: that is found out, said once, and new rows are looked for from then on."""
    monkeypatch.setattr(pg_watch, "ECHO_S", 0.5)
    wakes, vitals, clock = Wakes(), Vitals(), SystemClock()
    async with open_database(pooled, clock=clock) as database, anyio.create_task_group() as group:
        group.start_soon(lambda: watch_commits(database, wakes=wakes, vitals=vitals, clock=clock))
        with anyio.fail_after(20):
            while not vitals.watch_problem:  # noqa: ASYNC110 - it is a field, set by another task
                await anyio.sleep(0.01)
        assert vitals.watch_problem == (
            "LISTEN does not work behind this pooler; new jobs are looked for every 0.5 s"
        )
        for _ in range(3):
            await to_thread.run_sync(postgres.psql, postgres_url, INSERT)
            assert await wakes.intake.wait(20)
            await to_thread.run_sync(postgres.psql, postgres_url, ACCEPT)
        group.cancel_scope.cancel()
    assert capsys.readouterr().out.count("commits_not_noticed") == 1


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
async def test_a_pooler_that_lends_whole_sessions(
    pooled: str, postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There LISTEN works, and is used."""
    monkeypatch.setattr(pg_watch, "LOOK_S", 60.0)
    async with watching(pooled) as (watch, changes):
        assert await anext(changes) == (False, False)
        assert watch.problem == ""
        await to_thread.run_sync(postgres.psql, postgres_url, INSERT)
        await until(changes, (True, False))


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
async def test_many_share_two_sessions(pooled: str) -> None:
    """Five programs at once, whose every transaction may be on another session than the one before: no statement is lost or mixed up, the
    session's settings are left alone, and none keeps prepared statements that nobody will use again.
    """
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(_program, pooled, number)
    async with open_database(pooled, clock=SystemClock()) as database:
        assert await database.read(_figures) == (100, 0, "0")
        assert database.server is not None
        assert database.server.is_pooled


async def _program(url: str, number: int) -> None:
    async with open_database(url, clock=SystemClock()) as database:
        for turn in range(20):
            await _insert(database, f"job-{number}-{turn}")


async def _insert(database: Database, job_id: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(
            text("INSERT INTO job (id, spec) VALUES (:id, '{}') ON CONFLICT DO NOTHING"),
            [{"id": job_id}],
        )
        await connection.execute(
            text("UPDATE job SET priority = :p WHERE id = :id"), {"p": 1, "id": job_id}
        )

    while True:
        try:
            return await database.write(work)
        except StorageFailed as error:  # pragma: no cover - for the message
            raise AssertionError(str(error)) from error


async def _figures(connection: AsyncConnection) -> tuple[int, int, str]:
    jobs = await connection.execute(text("SELECT count(*) FROM job WHERE priority = 1"))
    left = await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))
    setting = await connection.execute(text("SELECT current_setting('lock_timeout')"))
    return jobs.scalar_one(), left.scalar_one(), setting.scalar_one()
