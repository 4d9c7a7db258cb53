"""aiosqlite without its thread. Law: the same SQL on the same file, run where it is awaited: faster, and in one order always."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

import aiosqlite.core
import pytest


class Future(Protocol):
    """What aiosqlite waits for."""

    def set_result(self, result: object, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...


class InlineQueue:
    """Stands in for the queue to the thread."""

    def put_nowait(self, item: tuple[Future | None, Callable[[], object]]) -> None:
        """Run the function now."""
        future, function = item
        try:
            result = function()
        except BaseException as error:
            if future is None:
                raise
            future.set_exception(error)
        else:
            if future is not None:
                future.set_result(result)


def use_inline_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, until the test ends, no connection starts a thread."""
    connection = aiosqlite.core.Connection
    original = connection.__init__

    def initialise(self: aiosqlite.core.Connection, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - handed on
        original(self, *args, **kwargs)
        monkeypatch.setattr(self, "_tx", InlineQueue())

    def wait(
        self: aiosqlite.core.Connection,
    ) -> Generator[Any, None, aiosqlite.core.Connection]:
        return self._connect().__await__()

    monkeypatch.setattr(connection, "__init__", initialise)
    monkeypatch.setattr(connection, "__await__", wait)
