"""One installation a test, on a copy of a database that was migrated once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from dstackd.clock import SystemClock
from dstackd.store.engine import open_database
from dstackd.store.migrate import upgrade
from tests.controllers.installation import Installation, an_installation


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the newest schema and no rows."""
    path = tmp_path_factory.mktemp("template") / "queue.db"

    async def migrate() -> None:
        async with open_database(f"sqlite:///{path}", clock=SystemClock()) as database:
            await upgrade(database)

    asyncio.run(migrate())
    return path


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The daemon's log of hundreds of lives would be most of the tests' time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture
async def world(tmp_path: Path, template: Path) -> AsyncIterator[Installation]:
    """A fresh installation with its simulated cloud."""
    async with an_installation(tmp_path, template=template, inline=True) as installation:
        yield installation
