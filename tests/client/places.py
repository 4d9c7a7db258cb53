"""Connections of every kind that the client says it takes, and what the queue holds. Law: real drivers to real databases."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, TypeAlias

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlmodel import Session as SqlModelSession

Opened: TypeAlias = AbstractContextManager[tuple[Any, Callable[[], None]]]
OpenedAsync: TypeAlias = AbstractAsyncContextManager[tuple[Any, Callable[[], Any]]]
"""A connection, and what commits it."""


def driver(name: str) -> Any:  # noqa: ANN401 - any module
    """The module, or a skipped test."""
    return pytest.importorskip(name)


@contextmanager
def with_sqlite3(url: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The standard library's."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        yield connection, connection.commit
    finally:
        connection.close()


@contextmanager
def with_dbapi(url: str, name: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """For psycopg and psycopg2, which take libpq's URL; pg8000, which takes a socket's path."""
    module = driver(name)
    parsed = make_url(url)
    socket = str(parsed.query["host"])
    if name == "pg8000":
        file = f"{socket}/.s.PGSQL.5432"
        connection = module.connect("postgres", unix_sock=file, database=parsed.database)
    else:
        connection = module.connect(f"dbname={parsed.database} user=postgres host={socket}")
    try:
        yield connection, connection.commit
    finally:
        connection.close()


@contextmanager
def with_sqlalchemy(
    url: str, kind: Callable[[Any], Any] | None
) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A Connection, or a Session of the kind given."""
    if url.startswith("postgresql"):
        driver("psycopg")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() if kind is None else kind(engine) as connection:
            yield connection, connection.commit
    finally:
        engine.dispose()


@contextmanager
def with_django(url: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """What `django.db.connections` of a site would hold."""
    django, conf, utils = driver("django"), driver("django.conf"), driver("django.db.utils")
    if not conf.settings.configured:
        conf.settings.configure(USE_TZ=True)
        django.setup()

    parsed = make_url(url)
    kind = "sqlite3" if url.startswith("sqlite") else "postgresql"
    if kind == "postgresql":
        driver("psycopg")
    given = {"ENGINE": f"django.db.backends.{kind}", "NAME": parsed.database, "USER": "postgres"}
    given["HOST"] = str(parsed.query.get("host", ""))
    connection = utils.ConnectionHandler({"default": given})["default"]
    connection.set_autocommit(False)

    def commit() -> None:
        connection.commit()
        connection.set_autocommit(True)

    try:
        yield connection, commit
    finally:
        connection.close()


@asynccontextmanager
async def with_aiosqlite(url: str) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """By aiosqlite's own interface."""
    async with aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:
        yield connection, connection.commit


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """In a transaction that `commit` ends, as `async with connection.transaction()` does."""
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection, transaction.commit
    finally:
        await connection.close()


@asynccontextmanager
async def with_psycopg(url: str) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """Its AsyncConnection."""
    psycopg = driver("psycopg")
    connection = await psycopg.AsyncConnection.connect(url)
    try:
        yield connection, connection.commit
    finally:
        await connection.close()


@asynccontextmanager
async def with_async_sqlalchemy(
    url: str, kind: Callable[[Any], Any] | None
) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """An AsyncConnection, or a session."""
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://").replace(
            "sqlite:", "sqlite+aiosqlite:"
        )
    )
    try:
        async with engine.connect() if kind is None else kind(engine) as connection:
            yield connection, connection.commit
    finally:
        await engine.dispose()


KINDS: dict[str, Callable[[str], Opened]] = {
    "sqlite: sqlite3": with_sqlite3,
    "sqlite: SQLAlchemy": lambda url: with_sqlalchemy(url, None),
    "sqlite: Session": lambda url: with_sqlalchemy(url, Session),
    "sqlite: Django": with_django,
    "postgresql: psycopg": lambda url: with_dbapi(url, "psycopg"),
    "postgresql: psycopg2": lambda url: with_dbapi(url, "psycopg2"),
    "postgresql: pg8000": lambda url: with_dbapi(url, "pg8000"),
    "postgresql: SQLAlchemy": lambda url: with_sqlalchemy(url, None),
    "postgresql: SQLModel": lambda url: with_sqlalchemy(url, SqlModelSession),
    "postgresql: Django": with_django,
}
ASYNC_KINDS: dict[str, Callable[[str], OpenedAsync]] = {
    "sqlite: aiosqlite": with_aiosqlite,
    "sqlite: AsyncConnection": lambda url: with_async_sqlalchemy(url, None),
    "postgresql: asyncpg": with_asyncpg,
    "postgresql: psycopg": with_psycopg,
    "postgresql: AsyncConnection": lambda url: with_async_sqlalchemy(url, None),
    "postgresql: AsyncSession": lambda url: with_async_sqlalchemy(url, AsyncSession),
}
