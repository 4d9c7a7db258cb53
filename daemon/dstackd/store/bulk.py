"""Many rows in one statement. Law: raw driver statements; only names of `tables.py` become SQL, every value is a parameter.

SQLAlchemy's `execute` with a list costs more time than the database takes for the rows. On SQLite the driver
binds one row after the other to a prepared statement; on PostgreSQL one statement gets each column as an array.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Result, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

Names = tuple[str, ...]
Rows = Sequence[tuple[Any, ...]]


async def insert_rows(
    connection: AsyncConnection, table: Table, columns: Names, rows: Rows
) -> None:
    """Insert `rows`, whose values are in the order of `columns`."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql(_sqlite_insert(table, columns), list(rows))
    else:
        await connection.exec_driver_sql(_postgres_insert(table, columns), _arrays(rows))


async def update_rows(
    connection: AsyncConnection, table: Table, columns: Names, rows: Rows, *, key: Names
) -> frozenset[Any] | None:
    """Set `columns` in the rows that `key` finds; the values of a row are those of `columns`, then those of `key`.

    No key may be there twice. PostgreSQL says for which first parts of the key there was a row; SQLite's driver cannot (None).
    """
    if not rows:
        return frozenset()
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql(_sqlite_update(table, columns, key), list(rows))
        return None
    done = await connection.exec_driver_sql(_postgres_update(table, columns, key), _arrays(rows))
    return frozenset(done.scalars())


async def sqlite_versions(
    connection: AsyncConnection, table: Table, ids: Sequence[str]
) -> dict[str, int]:
    """The version of each row that there is, by its id; nobody else changes it, because a writer is alone on SQLite."""
    statement = f"SELECT id, version FROM {table.name} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 - see the law
    found: Result[str, int] = await connection.exec_driver_sql(statement, (json.dumps(ids),))
    return {row[0]: row[1] for row in found}


def _arrays(rows: Rows) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


@cache
def _sqlite_insert(table: Table, columns: Names) -> str:
    places = ", ".join("?" for _ in columns)
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({places})"  # noqa: S608 - see the law


@cache
def _postgres_insert(table: Table, columns: Names) -> str:
    arrays = _unnested(table, columns)
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM {arrays}"  # noqa: S608 - see the law


@cache
def _sqlite_update(table: Table, columns: Names, key: Names) -> str:
    values = ", ".join(f"{name} = ?" for name in columns)
    found = " AND ".join(f"{name} = ?" for name in key)
    return f"UPDATE {table.name} SET {values} WHERE {found}"  # noqa: S608 - see the law


@cache
def _postgres_update(table: Table, columns: Names, key: Names) -> str:
    values = ", ".join(f"{name} = new.{name}" for name in columns)
    found = " AND ".join(f"old.{name} = new.key_{name}" for name in key)
    names = ", ".join((*columns, *(f"key_{name}" for name in key)))
    arrays = _unnested(table, (*columns, *key))
    return (
        f"UPDATE {table.name} old SET {values} FROM {arrays} AS new ({names}) WHERE {found}"  # noqa: S608 - see the law
        f" RETURNING old.{key[0]}"
    )


def _unnested(table: Table, columns: Names) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = (table.c[name].type.compile(dialect=dialect) for name in columns)
    return f"unnest({', '.join(f'${n}::{kind}[]' for n, kind in enumerate(types, 1))})"
