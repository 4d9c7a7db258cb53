"""How long to wait: backoff with jitter, and deadlines. Law: no I/O but the clock and the kernel's
entropy.
"""

from __future__ import annotations

import os
import time

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 8.0


def backoff_s(attempt: int) -> float:
    """Wait before try `attempt + 1` (from 0), half of it random so that a batch of machines does
    not come back at the same instant.
    """
    full_s: float = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 10))
    return full_s * (0.5 + int.from_bytes(os.urandom(2), "big") / 131072)


def spread_s(interval_s: float) -> float:
    """About `interval_s`: a quarter more or less, so that machines do not keep in step."""
    return interval_s * (0.75 + int.from_bytes(os.urandom(2), "big") / 131072)


class Deadline:
    """A point in monotonic time."""

    def __init__(self, patience_s: float) -> None:
        self._at = time.monotonic() + patience_s

    def left_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - time.monotonic())
