"""Time that passes when everybody waits. Law: no real second; sleepers wake in the order of their times."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint

from dstackd.ports import Clock

SETTLED_AFTER = 20
"""Rounds of the loop in which everything that can go on without time passing has gone on."""


class PlayedTime:
    """Implements `ports.Clock`, and the sleep that goes with it."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._due_s: list[float] = []
        self._ids: Iterator[int] = count()
        self.sleeps = 0

    async def sleep(self, seconds: float) -> None:
        """Wait until that much has passed; the earliest of all sleepers lets it pass."""
        self.sleeps += 1
        due_s = self._now_s + seconds
        self._due_s.append(due_s)
        try:
            while self._now_s < due_s:
                for _ in range(SETTLED_AFTER):
                    await checkpoint()
                if due_s == min(self._due_s):
                    self._now_s = max(self._now_s, due_s)
        finally:
            self._due_s.remove(due_s)

    def now_ms(self) -> int:
        """See `ports.Clock`."""
        return 1_800_000_000_000 + int(self._now_s * 1000)

    def learn(self, told_ms: int, *, took_s: float) -> int:
        """See `ports.Clock`; time is played here."""
        del self, told_ms, took_s
        return 0

    def monotonic_s(self) -> float:
        """See `ports.Clock`."""
        return self._now_s

    def jitter(self) -> float:
        """See `ports.Clock`."""
        return 0.5

    def new_id(self) -> str:
        """See `ports.Clock`."""
        return f"{next(self._ids):016x}"


if TYPE_CHECKING:
    _: type[Clock] = PlayedTime
