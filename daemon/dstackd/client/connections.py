"""Connections and sessions that block. Law: statements run in the caller's transaction; only a wait's own reads are rolled back."""

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

    def fetch(self, statement: Statement) -> Rows: ...

    def is_in_transaction(self) -> bool: ...

    def end_read(self) -> None: ...


class Adapted:
    """A connection, ready for steps."""

    def __init__(self, surface: _Surface) -> None:
        self._surface = surface
        self.dialect = surface.dialect

    def run(self, steps: Steps[T]) -> T:
        """Every statement in turn; the steps' answer."""
        rows: Rows | None = None
        while True:
            try:
                statement = next(steps) if rows is None else steps.send(rows)
            except StopIteration as end:
                answer: T = end.value
                return answer
            rows = self._surface.fetch(statement)

    def refuse_transaction(self) -> None:
        """Raises RuntimeError within one."""
        if self._surface.is_in_transaction():
            raise said_in_transaction()

    def end_read(self) -> None:
        """Outside a transaction, a read began one in some drivers: end it, so that the next read sees what is new."""
        self._surface.end_read()


def adapt(connection: object) -> Adapted:
    """Raises TypeError for what is no connection."""
    if is_of(connection, "sqlalchemy"):
        return Adapted(_OfSqlAlchemy(connection))
    if is_of(connection, "django"):
        return Adapted(_OfDjango(connection))
    return Adapted(_OfDriver(connection))


class _OfDriver:
    """PEP 249."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - any driver's
        self._connection = connection
        self.dialect, self._paramstyle = driver_of(connection)

    def fetch(self, statement: Statement) -> Rows:
        cursor = self._connection.cursor()
        try:
            cursor.execute(*rendered(statement, self._paramstyle))
            return [] if cursor.description is None else list(cursor.fetchall())
        finally:
            cursor.close()

    def is_in_transaction(self) -> bool:
        if hasattr(self._connection, "info"):  # psycopg and psycopg2; 0 is idle
            return int(self._connection.info.transaction_status) != 0
        if hasattr(self._connection, "in_transaction"):  # sqlite3
            return truth_of(self._connection, "in_transaction")
        ((number,),) = self.fetch(Statement("SELECT txid_current_if_assigned()"))
        return number is not None  # something has been written

    def end_read(self) -> None:
        self._connection.rollback()


class _OfSqlAlchemy:
    """A Connection, or a Session of SQLAlchemy, SQLModel or Flask."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy is not imported
        self._given = connection
        bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
        self.dialect = dialect_named(bind.dialect.name)

    def fetch(self, statement: Statement) -> Rows:
        is_session = hasattr(self._given, "get_bind")
        connection = self._given.connection() if is_session else self._given
        sql, values = rendered(statement, connection.dialect.paramstyle)
        result = connection.exec_driver_sql(sql, values)
        return list(result.fetchall()) if result.returns_rows else []

    def is_in_transaction(self) -> bool:
        return truth_of(self._given, "in_transaction")

    def end_read(self) -> None:
        self._given.rollback()


class _OfDjango:
    """`django.db.connection`, or one of `django.db.connections`."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - Django is not imported
        self._connection = connection
        self.dialect = dialect_named(connection.vendor)

    def fetch(self, statement: Statement) -> Rows:
        with self._connection.cursor() as cursor:
            cursor.execute(*rendered(statement, "format"))
            return [] if cursor.description is None else list(cursor.fetchall())

    def is_in_transaction(self) -> bool:
        return not self._connection.get_autocommit() or truth_of(
            self._connection, "in_atomic_block"
        )

    def end_read(self) -> None:
        """Outside an atomic block each statement is its own transaction."""
