"""A migrated database a test: an SQLite file, or a database of one PostgreSQL server for the whole run."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dstackd.clock import SystemClock
from dstackd.store.engine import Database, open_database
from dstackd.store.migrate import upgrade
from tests.store.postgres import Postgres, postgres_or_skip


async def migrate(url: str) -> None:
    """Bring a database up to date."""
    async with open_database(url, clock=SystemClock()) as database:
        await upgrade(database)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the newest schema and no rows."""
    path = tmp_path_factory.mktemp("template") / "queue.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    """A migrated SQLite file."""
    path = tmp_path / "queue.db"
    shutil.copyfile(template, path)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server."""
    with postgres_or_skip() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """A PostgreSQL database with the newest schema and no rows, to be copied."""
    url = postgres.new_database()
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def postgres_url(postgres: Postgres, migrated: str) -> str:
    """A migrated PostgreSQL database of the test's own."""
    return postgres.new_database(template=migrated)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A migrated database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('path')}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    """An open SQLite database."""
    async with open_database(f"sqlite:///{path}", clock=SystemClock()) as database:
        yield database


@pytest.fixture
async def either(url: str) -> AsyncIterator[Database]:
    """An open database of each kind."""
    async with open_database(url, clock=SystemClock()) as database:
        yield database
