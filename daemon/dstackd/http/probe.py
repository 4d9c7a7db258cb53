"""Reads that many may ask for and few pay for. Law: at most one read runs at a time, its answer is shared while it is fresh,
and nobody waits for it longer than they said.

A request that gives up does not cancel the read: cancelling a database call half-way costs the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from dstackd.ports import Clock
from dstackd.store import queries
from dstackd.store.engine import Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a read gave. `error` is empty exactly when there is a value."""

    value: T | None
    error: str
    asked_s: float
    """Monotonic."""
    took_s: float = 0.0


class Probe(Generic[T]):
    """One read, and its last answer."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._asked = anyio.Event()
        self._answered = anyio.Event()
        self._busy = False
        self.last: Answer[T] | None = None

    async def answer(self, *, age_max_s: float, wait_s: float) -> Answer[T]:
        """An answer that is at most `age_max_s` old, or one whose `error` says why there is none after `wait_s`."""
        now_s = self._clock.monotonic_s()
        if self.last is not None and now_s - self.last.asked_s <= age_max_s:
            return self.last
        if not self._busy:
            self._asked.set()
        answered = self._answered
        with anyio.move_on_after(wait_s):
            await answered.wait()
            if self.last is not None:
                return self.last
        return Answer(None, f"no answer within {wait_s:g} s", now_s, wait_s)

    async def run(self) -> None:
        """Read whenever somebody asks, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            self._busy = True
            self.last = await self._ask()
            self._busy = False
            self._answered.set()
            self._answered = anyio.Event()

    async def _ask(self) -> Answer[T]:
        asked_s = self._clock.monotonic_s()
        try:
            value = await self._read()
        except queries.DATABASE_ERRORS as error:
            text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            return Answer(None, text, asked_s, self._clock.monotonic_s() - asked_s)
        return Answer(value, "", asked_s, self._clock.monotonic_s() - asked_s)


@dataclass(frozen=True, slots=True)
class Probes:
    """The reads that health and metrics share."""

    database: Probe[bool]
    counts: Probe[dict[str, Any]]
    """`queries.counts`: some 60 ms for 100,000 jobs, hence kept longer than the other."""


def make_probes(database: Database, *, clock: Clock) -> Probes:
    """The probes of a database; somebody has to `run` each of them."""
    return Probes(
        database=Probe(partial(database.read, queries.answers), clock=clock),
        counts=Probe(
            lambda: database.read(partial(queries.counts, now_ms=clock.now_ms())), clock=clock
        ),
    )
