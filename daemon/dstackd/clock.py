"""The one reader of wall clock, monotonic clock and entropy. Law: nothing else in the daemon asks the system for them."""

from __future__ import annotations

import random
import time

from dstackd.core.told_time import corrected_ms

_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It never steps, and where there is one that goes on while the computer sleeps, it is that."""


class SystemClock:
    """Implements `ports.Clock`. The wall clock is asked until AWS has told what time it is, and then no more: whoever sets it,
    forward or back, changes no wait and no bound.
    """

    def __init__(self) -> None:
        self._random = random.SystemRandom()
        self._ahead_ms: int | None = None
        """AWS's clock, less that since boot; None: nothing is known of it."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        if self._ahead_ms is None:
            return time.time_ns() // 1_000_000
        return self._ahead_ms + _since_boot_ms()

    def learn(self, told_ms: int, *, took_s: float) -> int:
        """See `ports.Clock`."""
        believed_ms, since_boot_ms = self.now_ms(), _since_boot_ms()
        true_ms = corrected_ms(believed_ms, told_ms=told_ms, took_ms=int(took_s * 1000))
        moved_ms = true_ms - believed_ms
        if self._ahead_ms is None:
            self._ahead_ms = believed_ms - since_boot_ms
        self._ahead_ms += moved_ms
        return moved_ms

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never steps back."""
        return time.monotonic()

    def jitter(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """16 hexadecimal digits, fresh."""
        return f"{self._random.getrandbits(64):016x}"


def _since_boot_ms() -> int:
    return time.clock_gettime_ns(_SINCE_BOOT) // 1_000_000
