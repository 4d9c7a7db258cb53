"""An event loop in which time passes only while nothing is ready. Law: no wait is real, and the order of everything depends
on the program and its seed alone.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from dstackd.simulated.clock import START_MS, SimulatedClock


class Deadlock(Exception):
    """Every task waits, and no timer would ever wake one."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for a timer, the loop's time jumps there."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("no task is ready and no timer runs")
        if timeout > 0:
            self._loop.elapsed_s += timeout
        return []  # nothing outside is waited for


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For `asyncio.Runner(loop_factory=VirtualTimeLoop)`."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        super().__init__(_JumpingSelector(self))

    @override
    def time(self) -> float:
        return self.elapsed_s

    @override
    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        """What nobody awaits is no noise in a world in which daemons die all the time."""


class LoopClock(SimulatedClock):
    """The daemon's clock: the loop's time, a wall clock that may be wrong, entropy of the seed."""

    def __init__(self, loop: VirtualTimeLoop, *, seed: int) -> None:
        super().__init__(seed=seed)
        self._loop = loop

    @override
    def advance(self, seconds: float) -> None:
        raise NotImplementedError("the loop moves this clock")

    @override
    def now_ms(self) -> int:
        return START_MS + round(self._loop.elapsed_s * 1000) + self.skew_ms

    @override
    def monotonic_s(self) -> float:
        return self._loop.elapsed_s
