"""The one reader of wall clock, monotonic clock and entropy. Law: nothing else in the daemon asks the system for them."""

from __future__ import annotations

import random
import time


class SystemClock:
    """The machine's clock; implements `ports.Clock`."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never steps back."""
        return time.monotonic()

    def jitter(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """16 hexadecimal digits, fresh."""
        return f"{self._random.getrandbits(64):016x}"
