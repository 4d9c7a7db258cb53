"""What every seed of a process stands on: an empty database of the newest schema, SQLite without threads, a quiet log."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import anyio.lowlevel
import anyio.to_thread
import pytest
import structlog

from dstackd.clock import SystemClock
from dstackd.store.engine import open_database
from dstackd.store.migrate import upgrade
from tests.controllers.inline_sqlite import use_inline_sqlite

T = TypeVar("T")

_MEMORY = Path("/dev/shm")


class Stage:
    """A folder of its own, removed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.directory = Path()

    @property
    def template(self) -> Path:
        """The empty database."""
        return self.directory / "template.db"

    def __enter__(self) -> Stage:
        parent = _MEMORY if _MEMORY.is_dir() else None
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        asyncio.run(self._migrate())
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        use_inline_sqlite(patch)
        # A thread takes real time, in which the virtual one would jump on.
        patch.setattr(anyio.to_thread, "run_sync", _run_here)
        before = structlog.get_config()
        self._stack.callback(lambda: structlog.configure(**before))
        quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=quiet)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def _migrate(self) -> None:
        async with open_database(f"sqlite:///{self.template}", clock=SystemClock()) as database:
            await upgrade(database)


async def _run_here(function: Callable[..., T], *arguments: object, **_: object) -> T:
    await anyio.lowlevel.checkpoint()
    return function(*arguments)
