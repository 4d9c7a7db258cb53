"""SQLAlchemy on SQLite without a thread and without greenlets. Law: the same statements, transactions and errors as through
aiosqlite, run where they are awaited: in one order always, in a third of the time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import StaticPool

from dstackd.ports import Clock
from dstackd.store.engine import _LENIENT, _PRAGMAS, Database, async_url


class InlineConnection:
    """What the store asks of an AsyncConnection."""

    def __init__(self, inner: Connection) -> None:
        self._inner = inner

    @property
    def dialect(self) -> Any:  # noqa: ANN401 - handed on
        return self._inner.dialect

    async def execute(self, *arguments: Any) -> Any:  # noqa: ANN401 - handed on
        return self._inner.execute(*arguments)

    async def exec_driver_sql(self, *arguments: Any) -> Any:  # noqa: ANN401 - handed on
        return self._inner.exec_driver_sql(*arguments)


class InlineEngine:
    """What a Database asks of an AsyncEngine."""

    def __init__(self, engine: Engine) -> None:
        self.sync_engine = engine

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[InlineConnection]:
        with self.sync_engine.begin() as connection:
            yield InlineConnection(connection)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[InlineConnection]:
        with self.sync_engine.connect() as connection:
            yield InlineConnection(connection)


def inline_engine(path: Path, kind: str) -> InlineEngine:
    """As `store.engine` makes one; `kind` is that of its transactions: IMMEDIATE or DEFERRED. No fsync: nobody pulls a plug."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool,
        connect_args={"timeout": 0, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - SQLAlchemy's DBAPI wrapper has no type
        connection.text_factory = _LENIENT
        for pragma in (*_PRAGMAS, "PRAGMA synchronous = OFF"):
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {kind}")

    return InlineEngine(engine)


def inline_database(
    path: Path, writer: InlineEngine, reader: InlineEngine, *, clock: Clock
) -> Database:
    """The queue database on these connections, which stay."""
    return Database(
        cast("AsyncEngine", writer),
        cast("AsyncEngine", reader),
        url=async_url(f"sqlite:///{path}"),
        clock=clock,
    )


@contextmanager
def open_inline_database(path: Path, *, clock: Clock) -> Iterator[Database]:
    """As `store.engine.open_database`, for a file."""
    writer, reader = inline_engine(path, "IMMEDIATE"), inline_engine(path, "DEFERRED")
    try:
        yield inline_database(path, writer, reader, clock=clock)
    finally:
        writer.sync_engine.dispose()
        reader.sync_engine.dispose()
