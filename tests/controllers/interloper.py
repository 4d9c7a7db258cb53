"""A database in which somebody else commits at the worst moment. Law: between what a loop has read and what it is about to write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from dstackd.store.engine import Database

T = TypeVar("T")


class Interloper(Database):
    """Calls `interfere` right before the write number `at`, counted from 1."""

    def __init__(self, inner: Database, *, at: int, interfere: Callable[[], object]) -> None:
        super().__init__(inner._writer, inner._reader, url=inner.url, clock=inner._clock)
        self._at = at
        self._interfere = interfere
        self.writes = 0

    @override
    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        self.writes += 1
        if self.writes == self._at:
            self._interfere()
        return await super().write(work)
