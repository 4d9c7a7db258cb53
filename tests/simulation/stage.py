"""What every seed of a process stands on: one database that is empty again for each, SQLite without threads, a quiet log.

The connections stay: the compiled statements are kept with them, and compiling is most of a fresh one's time.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import anyio.lowlevel
import anyio.to_thread
import structlog
from pytest import MonkeyPatch  # noqa: PT013 - the class, not a mark of a test

from dstackd.clock import SystemClock
from dstackd.simulated.places import REGION
from dstackd.store.backends import ensure_backend
from dstackd.store.engine import Database, open_database
from dstackd.store.migrate import upgrade
from tests.controllers.installation import BACKEND
from tests.simulation.lean_engine import LeanEngine, lean_database
from tests.simulation.virtual_time import LoopClock

T = TypeVar("T")

_MEMORY = Path("/dev/shm")
_PLAIN = sqlite3.connect(":memory:")
"""SQLite as it is."""


@dataclass(frozen=True, slots=True)
class Scene:
    """An empty installation: what a daemon and what an application sees of it, and its mark on machines."""

    database: Database
    plain: sqlite3.Connection
    directory: Path
    owner: str


class Stage:
    """A folder of its own, removed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._directory = Path()
        self.template = Path()
        """A migrated, empty database file."""

    def __enter__(self) -> Self:
        parent = _MEMORY if _MEMORY.is_dir() else None
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        self.template = self._directory / "template.db"
        asyncio.run(_migrate(self.template))
        self._template = self._stack.enter_context(closing(sqlite3.connect(self.template)))
        self._path = self._directory / "queue.db"
        self._writer = self._stack.enter_context(LeanEngine(self._path, "IMMEDIATE"))
        self._reader = self._stack.enter_context(LeanEngine(self._path, "DEFERRED"))
        # A thread takes real time, in which the virtual one would jump on.
        patch = self._stack.enter_context(MonkeyPatch.context())
        patch.setattr(anyio.to_thread, "run_sync", _run_here)
        before = structlog.get_config()
        self._stack.callback(lambda: structlog.configure(**before))
        quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=quiet)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def scene(self, clock: LoopClock) -> AsyncIterator[Scene]:
        """For one seed. What it writes into the folder is removed behind it."""
        database = lean_database(self._path, self._writer, self._reader, clock=clock)
        self._template.backup(self._writer.raw)
        for engine in (self._writer, self._reader):
            _set_time(engine.raw, clock)
        owner = await database.write(
            lambda connection: ensure_backend(
                connection,
                name=BACKEND,
                region=REGION,
                bucket="simulated-bucket",
                subnet=None,
                endpoint_url=None,
                now_ms=clock.now_ms(),
            )
        )
        with (
            self.folder() as directory,
            closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as plain,
        ):
            plain.execute("PRAGMA synchronous = OFF")
            plain.row_factory = sqlite3.Row
            _set_time(plain, clock)
            yield Scene(database, plain, directory, str(owner))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty one, removed at the end; one at a time."""
        directory = self._directory / "seed"
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory)


async def _migrate(template: Path) -> None:
    async with open_database(f"sqlite:///{template}", clock=SystemClock()) as database:
        await upgrade(database)


def _set_time(connection: sqlite3.Connection, clock: LoopClock) -> None:
    """SQLite's own function, on our clock: defaults and triggers of the tables ask it for now, a generated column for another time,
    and that one takes no function that SQLite may not call twice.
    """

    def julianday(when: str) -> float | None:
        if when == "now":
            return clock.now_ms() / 86_400_000 + 2_440_587.5
        (days,) = _PLAIN.execute("SELECT julianday(?)", (when,)).fetchone()
        return None if days is None else float(days)

    connection.create_function("julianday", 1, julianday, deterministic=True)


async def _run_here(function: Callable[..., T], *arguments: object, **_: object) -> T:
    await anyio.lowlevel.checkpoint()
    return function(*arguments)
