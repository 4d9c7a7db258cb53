"""Connections and transactions. Law: writers begin IMMEDIATE and never sleep inside SQLite.

SQLite's own busy timeout backs off up to 100 ms a step and is unfair: one producer in a tight loop starves it for
seconds. So the timeout is 0 and the retry, with a jitter of milliseconds, is ours.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import anyio
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from dstackd.errors import ConfigError, InvariantError, StorageFailed, StoreBusy
from dstackd.ports import Clock
from dstackd.store.bad_values import REFUSALS, is_bad_value, legible, make_legible
from dstackd.store.failures import in_words, is_busy, is_locked, is_outage
from dstackd.store.lease import Tenure, guard
from dstackd.store.postgres import PostgresServer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Connection: TypeAlias = AsyncConnection
"""What a transaction's work is given; only the store looks inside."""


class OwnRead(Protocol[T_co]):
    """A read that can be of one backend."""

    def __call__(
        self, connection: AsyncConnection, /, *, backend: str | None
    ) -> Awaitable[T_co]: ...


WRITE_WAIT_S = 30.0
"""How long a write keeps trying while other processes hold the lock."""
RETRY_MIN_S = 0.0005
RETRY_SPREAD_S = 0.004
ATTEMPTS = 1000
ATTEMPT_S = 0.00005
"""Between two of them: together some 100 ms."""

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 0",
    "PRAGMA journal_size_limit = 67108864",
)


_LENIENT = partial(str, encoding="utf-8", errors="replace")
"""SQLite keeps bytes that are not UTF-8 as text, if an application insists: they must not stop the other rows."""


class Database:
    """The queue database: one writing connection, one reading connection (SQLite), or a pool (PostgreSQL)."""

    def __init__(
        self,
        writer: AsyncEngine,
        reader: AsyncEngine,
        *,
        url: URL,
        clock: Clock,
        server: PostgresServer | None = None,
        tenure: Tenure | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._writing = anyio.Lock(fast_acquire=True)
        self._reading = anyio.Lock(fast_acquire=True)
        self.url = url
        self.server = server
        """None on SQLite."""
        self.tenure = tenure
        """Whose writes these are: an owner's fail once it owns the backend no more. None: an application's, like any other."""

    def owned(self, tenure: Tenure) -> Database:
        """The same database for the loops of a backend's owner."""
        owner = Database(
            self._writer,
            self._reader,
            url=self.url,
            clock=self._clock,
            server=self.server,
            tenure=tenure,
        )
        owner._writing, owner._reading = self._writing, self._reading
        return owner

    @property
    def backend(self) -> str | None:
        """Whose jobs and machines the loops see; None: all."""
        return None if self.tenure is None else self.tenure.backend

    @property
    def path(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return sqlite_path(self.url)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one transaction and commit. `work` may run again from the start: it must not keep state.

        Raises LeaseLost, with nothing written, when these are an owner's writes and the backend is another daemon's.
        Raises StoreBusy when the lock was not to be had for WRITE_WAIT_S, StorageFailed when the database does not work. After
        StorageFailed the work may have been committed all the same: a connection can break between a commit and its
        answer. So nothing is repeated here; whoever asked reads again, and goes on from what is there.
        """
        deadline_s = self._clock.monotonic_s() + WRITE_WAIT_S
        async with self._writing:
            while True:
                try:
                    return await _legibly(self._writer, _WRITING, self._guarded(work))
                except (DBAPIError, OSError) as error:
                    if is_outage(error):
                        raise StorageFailed(in_words(error)) from error
                    if is_locked(error):
                        message = f"another transaction holds a row for too long: {in_words(error)}"
                        raise StoreBusy(message) from error
                    if not is_busy(error):
                        raise
                    if self._clock.monotonic_s() > deadline_s:
                        message = f"the database stayed locked for {WRITE_WAIT_S:.0f} s"
                        raise StoreBusy(message) from error
                await anyio.sleep(RETRY_MIN_S + RETRY_SPREAD_S * self._clock.jitter())

    async def alter(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """`write` for what may take its time, as an index over millions of rows does: PostgreSQL's statements have no bound here."""
        if self.server is None:
            return await self.write(work)
        engine = self.server.engine(statement_s=None)
        try:
            return await Database(
                engine, engine, url=self.url, clock=self._clock, server=self.server
            ).write(work)
        finally:
            with anyio.CancelScope(shield=True):
                await engine.dispose()

    def _guarded(
        self, work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> Callable[[AsyncConnection], Awaitable[T]]:
        if self.tenure is None:
            return work
        lease = self.tenure.lease

        async def guarded(connection: AsyncConnection) -> T:
            await guard(connection, lease)
            return await work(connection)

        return guarded

    async def read_own(self, work: OwnRead[T]) -> T:
        """As `read`, of the rows of the backend whose owner this is for; of all, where it is for none."""
        return await self.read(partial(work, backend=self.backend))

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one read transaction: a consistent picture that blocks nobody. Raises StorageFailed."""
        async with self._reading:
            try:
                return await _legibly(self._reader, _READING, work)
            except (DBAPIError, OSError) as error:
                if is_outage(error) or is_busy(error):
                    raise StorageFailed(in_words(error)) from error
                raise


_Opened: TypeAlias = Callable[[AsyncEngine], AbstractAsyncContextManager[AsyncConnection]]
_WRITING: _Opened = methodcaller("begin")
_READING: _Opened = methodcaller("connect")


async def _legibly(
    engine: AsyncEngine,
    opened: _Opened,
    work: Callable[[AsyncConnection], Awaitable[T]],
) -> T:
    """Run `work`; once more, with values that any column takes, when the database has refused one."""
    try:
        return await _uncancelled(opened(engine), work)
    except REFUSALS as error:
        if not is_bad_value(error):
            raise
    return await _uncancelled(opened(legible(engine)), work)


async def _uncancelled(
    opened: AbstractAsyncContextManager[AsyncConnection],
    work: Callable[[AsyncConnection], Awaitable[T]],
) -> T:
    """Run `work` to its end, whoever wants to stop: a transaction takes milliseconds.

    A cancel in the middle of a statement makes SQLAlchemy's pool wait for ever for a thread of aiosqlite that
    has ended, and the daemon's exit with it (sqlalchemy 2.1, aiosqlite 0.22: two stops of nine).
    """
    with anyio.CancelScope(shield=True):
        async with opened as connection:
            return await work(connection)
    raise InvariantError("a scope that nobody cancels swallows nothing")


@asynccontextmanager
async def open_database(url: str, *, clock: Clock) -> AsyncIterator[Database]:
    """The database at `url` (`sqlite:///path` or `postgresql://...`), for as long as the block runs."""
    parsed = async_url(url)
    server = None
    if parsed.get_backend_name() == "sqlite":
        path = sqlite_path(parsed)
        if path is not None:
            create_shared_file(path)
        writer, reader = _sqlite_engine(parsed, "IMMEDIATE"), _sqlite_engine(parsed, "DEFERRED")
    else:
        server = PostgresServer(parsed)
        writer = reader = server.engine()
    try:
        yield Database(writer, reader, url=parsed, clock=clock, server=server)
    finally:
        with anyio.CancelScope(shield=True):
            await writer.dispose()
            await reader.dispose()


def async_url(url: str) -> URL:
    """`url` with the asyncio driver. Raises ConfigError for anything but SQLite and PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        message = "database.url is no URL; several hosts are written postgresql://USER@/NAME?host=A,B&port=5432,5433"
        raise ConfigError(message) from error
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    name = parsed.get_backend_name()
    if name not in drivers:
        message = (
            f"database.url: {name} is not supported; use sqlite:///PATH or postgresql://HOST/NAME"
        )
        raise ConfigError(message)
    return parsed.set(drivername=drivers[name])


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL; None otherwise and for an in-memory database."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def create_shared_file(path: Path) -> None:
    """Create the database file with the group's write bit before SQLite does it without.

    SQLite gives -wal and -shm the mode of the database file, and applications in the daemon's group insert rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o660)
        os.fchmod(descriptor, 0o660)  # whatever the umask takes away
        os.close(descriptor)


async def _begin_between_others(connection: Any) -> bool:  # noqa: ANN401 - aiosqlite's connection
    """Whether the write lock was to be had within a tenth of a second.

    A producer that commits row after row leaves it free for microseconds, between fsyncs of milliseconds. An attempt from the loop takes
    a millisecond with its pause, so it would miss these for seconds; in the connection's own thread it takes a tenth of that.
    """
    return bool(await connection._execute(_begin, connection._conn))  # noqa: SLF001 - only it runs something in that thread


def _begin(connection: sqlite3.Connection) -> bool:
    for _ in range(ATTEMPTS):
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                return False  # the next attempt is SQLAlchemy's, with an error of its kind
            time.sleep(ATTEMPT_S)
        else:
            return True
    return False


def _sqlite_engine(url: URL, kind: str) -> AsyncEngine:
    engine = create_async_engine(
        url, poolclass=StaticPool, connect_args={"timeout": 0, "isolation_level": None}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - SQLAlchemy's DBAPI wrapper has no type
        connection.driver_connection.text_factory = _LENIENT
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    make_legible(engine)

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # noqa: ANN401 - as above
        if kind == "DEFERRED" or not connection.connection.run_async(_begin_between_others):
            connection.exec_driver_sql(f"BEGIN {kind}")

    return engine
