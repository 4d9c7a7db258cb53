"""What is going to happen in the simulated cloud, and when. Law: events run in time order, each at its own time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from dstackd.ports import Clock
from dstackd.simulated.clock import START_MS


class Timeline:
    """The cloud's own time: that of the clock's monotonic side, so a wrong wall clock does not move it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0
        self.now_ms = self._true_ms()

    def _true_ms(self) -> int:
        return START_MS + round(self._clock.monotonic_s() * 1000)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Have `event` run once, `seconds` from the current event, or from now."""
        self._scheduled += 1
        at_ms = self.now_ms + int(seconds * 1000)
        heapq.heappush(self._events, (at_ms, self._scheduled, event))

    def catch_up(self) -> None:
        """Run everything that is due."""
        until_ms = self._true_ms()
        while self._events and self._events[0][0] <= until_ms:
            self.now_ms, _, event = heapq.heappop(self._events)
            event()
        self.now_ms = until_ms
