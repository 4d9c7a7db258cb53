"""What a connection is, by its own class. Law: no driver is imported: whoever has a connection has imported its driver.

How a driver wants its values comes from its module's `paramstyle` (PEP 249), or from SQLAlchemy's dialect.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final, TypeAlias

from dstackd.client.jobs import Dialect
from dstackd.client.steps import Statement

Values: TypeAlias = tuple[object, ...] | dict[str, object]

_SQLITE: Final = frozenset({"sqlite3", "pysqlite3", "aiosqlite", "sqlean"})
_MARKS: Final[Mapping[str, Callable[[int], str]]] = {
    "qmark": lambda _: "?",
    "format": lambda _: "%s",
    "pyformat": lambda _: "%s",
    "numeric": lambda number: f":{number}",
    "numeric_dollar": lambda number: f"${number}",
    "named": lambda number: f":v{number}",
}


def packages_of(connection: object) -> list[str]:
    """The top-level packages of its class and of that one's bases, the nearest first."""
    return [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]


def is_of(connection: object, package: str) -> bool:
    """Whether its class, or one of that one's bases, comes from the package."""
    return package in packages_of(connection)


def driver_of(connection: object) -> tuple[Dialect, str]:
    """Dialect and paramstyle of a driver's connection. Raises TypeError for what is none."""
    for package in packages_of(connection):
        paramstyle = str(getattr(sys.modules.get(package), "paramstyle", ""))
        if paramstyle in _MARKS:
            return ("sqlite" if package in _SQLITE else "postgresql"), paramstyle
    kind = type(connection)
    raise TypeError(
        f"{kind.__module__}.{kind.__qualname__} is no connection that the client knows: give it a connection or a "
        "session (not a pool, an engine or a cursor) of a driver for SQLite or PostgreSQL"
    )


def dialect_named(name: str) -> Dialect:
    """From SQLAlchemy's or Django's word for it. Raises TypeError."""
    if name == "sqlite":
        return "sqlite"
    if name == "postgresql":
        return "postgresql"
    raise TypeError(f"the queue is on SQLite or PostgreSQL, and this is a connection to {name}")


def rendered(statement: Statement, paramstyle: str) -> tuple[str, Values]:
    """The statement as the driver wants it."""
    mark, numbers = _MARKS[paramstyle], count(1)
    sql = re.sub(r"\?", lambda _: mark(next(numbers)), statement.sql)
    if paramstyle == "named":
        return sql, {f"v{number}": value for number, value in enumerate(statement.values, start=1)}
    return sql, statement.values


def said_in_transaction() -> RuntimeError:
    """For a wait that could never end."""
    return RuntimeError(
        "the connection is within a transaction, in which the job's end would not be seen: commit first, or "
        "wait with a connection of its own"
    )


def truth_of(connection: Any, name: str) -> bool:  # noqa: ANN401 - any driver's
    """An attribute, or what a method of that name answers."""
    value = getattr(connection, name, False)
    return bool(value() if callable(value) else value)
