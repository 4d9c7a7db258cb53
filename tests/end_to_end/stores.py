"""Where an installation's queue is: an SQLite file, or a database of one PostgreSQL for the whole run (`STORE=postgresql`).

Law: an application's view, a URL and statements in autocommit; the same statements for both, with `?` for each value.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import asyncpg  # type: ignore[import-untyped]

from tests.store.postgres import Postgres, postgres_or_skip

IS_POSTGRES = os.environ.get("STORE") == "postgresql"


class Store(Protocol):
    """What is asked of either."""

    url: str

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement, committed; the rows that it returns."""
        ...

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """All that is kept, by the name of its place."""
        ...


class SqliteStore:
    """A file below the installation's folder, which is searched with all that lies in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(
            sqlite3.connect(self._path, timeout=10, isolation_level=None)
        ) as connection:
            return connection.execute(statement, values).fetchall()

    def contents(self) -> Iterator[tuple[str, bytes]]:
        path = self._path
        yield from ((f"{each}", each.read_bytes()) for each in path.parent.glob(f"{path.name}*"))


class PostgresStore:
    """A database of its own on a server that others use too."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.url = server.new_database()

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        numbers = itertools.count(1)
        numbered = re.sub(r"\?", lambda _: f"${next(numbers)}", statement)
        return asyncio.run(self._execute(numbered, values))

    async def _execute(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Rows as text: what the server's own files hold of them may be compressed."""
        name = self.url.partition("@/")[2].partition("?")[0]
        words = ["-h", str(self._server.folder), "-U", "postgres", "--inserts", name]
        yield "the database", self._server.run("pg_dump", *words).encode()


_closing = ExitStack()
_servers: list[Postgres] = []


def new_store(folder: Path) -> Store:
    """An empty one of the kind that is tested. Skips where there is no PostgreSQL."""
    if not IS_POSTGRES:
        return SqliteStore(folder / "queue.db")
    if not _servers:
        _servers.append(_closing.enter_context(postgres_or_skip()))
    return PostgresStore(_servers[0])


def close() -> None:
    """At the end of the run: the server ends."""
    _servers.clear()
    _closing.close()
