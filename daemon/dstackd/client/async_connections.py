"""Connections and sessions that are awaited. Law: as in connections.py."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from dstackd.client.dialects import (
    dialect_named,
    driver_of,
    is_of,
    rendered,
    said_in_transaction,
    truth_of,
)
from dstackd.client.jobs import Dialect
from dstackd.client.steps import Rows, Statement, Steps

T = TypeVar("T")


class _Surface(Protocol):
    """What differs between kinds of connection."""

    dialect: Dialect

    async def fetch(self, statement: Statement) -> Rows: ...

    def is_in_transaction(self) -> bool: ...

    async def end_read(self) -> None: ...


class Adapted:
    """A connection, ready for steps."""

    def __init__(self, surface: _Surface) -> None:
        self._surface = surface
        self.dialect = surface.dialect

    async def run(self, steps: Steps[T]) -> T:
        """Every statement in turn; the steps' answer."""
        rows: Rows | None = None
        while True:
            try:
                statement = next(steps) if rows is None else steps.send(rows)
            except StopIteration as end:
                answer: T = end.value
                return answer
            rows = await self._surface.fetch(statement)

    def refuse_transaction(self) -> None:
        """Raises RuntimeError within one."""
        if self._surface.is_in_transaction():
            raise said_in_transaction()

    async def end_read(self) -> None:
        """As for connections that block."""
        await self._surface.end_read()


def adapt(connection: object) -> Adapted:
    """Raises TypeError for what is no connection."""
    if is_of(connection, "sqlalchemy"):
        return Adapted(_OfSqlAlchemy(connection))
    if is_of(connection, "asyncpg"):
        return Adapted(_OfAsyncpg(connection))
    return Adapted(_OfDriver(connection))


class _OfAsyncpg:
    """asyncpg's own interface; PEP 249 it does not have."""

    dialect: Dialect = "postgresql"

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg is not imported
        self._connection = connection

    async def fetch(self, statement: Statement) -> Rows:
        sql, values = rendered(statement, "numeric_dollar")
        return list(await self._connection.fetch(sql, *values))

    def is_in_transaction(self) -> bool:
        return truth_of(self._connection, "is_in_transaction")

    async def end_read(self) -> None:
        """Outside a transaction each statement is its own."""


class _OfDriver:
    """psycopg's AsyncConnection and aiosqlite."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - any driver's
        self._connection = connection
        self.dialect, self._paramstyle = driver_of(connection)

    async def fetch(self, statement: Statement) -> Rows:
        cursor = await self._connection.execute(*rendered(statement, self._paramstyle))
        try:
            return [] if cursor.description is None else list(await cursor.fetchall())
        finally:
            await cursor.close()

    def is_in_transaction(self) -> bool:
        if hasattr(self._connection, "info"):  # psycopg; 0 is idle
            return int(self._connection.info.transaction_status) != 0
        return truth_of(self._connection, "in_transaction")  # aiosqlite

    async def end_read(self) -> None:
        await self._connection.rollback()


class _OfSqlAlchemy:
    """An AsyncConnection or AsyncSession."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy is not imported
        self._given = connection
        bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
        self.dialect = dialect_named(bind.dialect.name)

    async def fetch(self, statement: Statement) -> Rows:
        is_session = hasattr(self._given, "get_bind")
        connection = await self._given.connection() if is_session else self._given
        sql, values = rendered(statement, connection.dialect.paramstyle)
        result = await connection.exec_driver_sql(sql, values)
        return list(result.fetchall()) if result.returns_rows else []

    def is_in_transaction(self) -> bool:
        return truth_of(self._given, "in_transaction")

    async def end_read(self) -> None:
        await self._given.rollback()
