"""A value that is asked for rarely and needed often. Law: asks once at a time, and again when the value is old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from dstackd.ports import Clock

T = TypeVar("T")


class Kept(Generic[T]):
    """Holds the last answer of `load`. An error of `load` is raised and keeps nothing."""

    def __init__(self, load: Callable[[], Awaitable[T]], *, age_max_s: float, clock: Clock) -> None:
        self._load = load
        self._age_max_s = age_max_s
        self._clock = clock
        self._lock = anyio.Lock()
        self._held: tuple[float, T] | None = None

    async def get(self) -> T:
        """The value, at most `age_max_s` old."""
        async with self._lock:
            now_s = self._clock.monotonic_s()
            if self._held is None or now_s - self._held[0] > self._age_max_s:
                self._held = (now_s, await self._load())
            return self._held[1]
