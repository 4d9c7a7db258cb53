"""Connections and transactions. Law: writers begin IMMEDIATE and never sleep inside SQLite.

SQLite's own busy timeout backs off up to 100 ms a step and is unfair: one producer in a tight loop starves it for
seconds. So the timeout is 0 and the retry, with a jitter of milliseconds, is ours.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import anyio
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from dstackd.errors import ConfigError, InvariantError, StorageFailed, StoreBusy
from dstackd.ports import Clock
from dstackd.store.failures import drop_broken_connections, in_words, is_busy, is_outage

T = TypeVar("T")

Connection: TypeAlias = AsyncConnection
"""What a transaction's work is given; only the store looks inside."""

WRITE_WAIT_S = 30.0
"""How long a write keeps trying while other processes hold the lock."""
CONNECT_S = 10.0
"""To PostgreSQL: a host that does not answer at all must not hold up the others, nor the daemon's end, for a minute."""
RETRY_MIN_S = 0.0005
RETRY_SPREAD_S = 0.004

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

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, *, url: URL, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._writing = anyio.Lock()
        self._reading = anyio.Lock()
        self.url = url

    @property
    def path(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return sqlite_path(self.url)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one transaction and commit. `work` may run again from the start: it must not keep state.

        Raises StoreBusy when the lock was not to be had for WRITE_WAIT_S, StorageFailed when the database does not work. After
        StorageFailed the work may have been committed all the same: a connection can break between a commit and its
        answer. So nothing is repeated here; whoever asked reads again, and goes on from what is there.
        """
        deadline_s = self._clock.monotonic_s() + WRITE_WAIT_S
        async with self._writing:
            while True:
                try:
                    return await _uncancelled(self._writer.begin(), work)
                except (DBAPIError, OSError) as error:
                    if is_outage(error):
                        raise StorageFailed(in_words(error)) from error
                    if not is_busy(error):
                        raise
                    if self._clock.monotonic_s() > deadline_s:
                        message = f"the database stayed locked for {WRITE_WAIT_S:.0f} s"
                        raise StoreBusy(message) from error
                await anyio.sleep(RETRY_MIN_S + RETRY_SPREAD_S * self._clock.jitter())

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one read transaction: a consistent picture that blocks nobody. Raises StorageFailed."""
        async with self._reading:
            try:
                return await _uncancelled(self._reader.connect(), work)
            except (DBAPIError, OSError) as error:
                if is_outage(error) or is_busy(error):
                    raise StorageFailed(in_words(error)) from error
                raise


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
    if parsed.get_backend_name() == "sqlite":
        path = sqlite_path(parsed)
        if path is not None:
            create_shared_file(path)
        writer, reader = _sqlite_engine(parsed, "IMMEDIATE"), _sqlite_engine(parsed, "DEFERRED")
    else:
        writer = reader = _postgres_engine(parsed)
    try:
        yield Database(writer, reader, url=parsed, clock=clock)
    finally:
        with anyio.CancelScope(shield=True):
            await writer.dispose()
            await reader.dispose()


def async_url(url: str) -> URL:
    """`url` with the asyncio driver. Raises ConfigError for anything but SQLite and PostgreSQL."""
    parsed = make_url(url)
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

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # noqa: ANN401 - as above
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _postgres_engine(url: URL) -> AsyncEngine:
    """Transactions see one picture from their first statement on, as SQLite's do: in PostgreSQL's default each statement
    sees its own, and a machine could be in none of two lists that were read one after the other.
    """
    engine = create_async_engine(
        url,
        pool_size=5,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={"timeout": CONNECT_S},
    )
    drop_broken_connections(engine)
    return engine
