"""A clock that a test moves. Law: time and entropy depend on the seed and on what was asked for, on nothing else."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from dstackd.ports import Clock

START_MS = 1_800_000_000_000
"""Wall clock at monotonic zero: a day in January 2027."""


class Chance:
    """A stream of numbers that depends on its seed alone, also across Python versions."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._drawn = 0

    def digits(self) -> str:
        """64 hexadecimal digits."""
        self._drawn += 1
        return hashlib.sha256(f"{self._seed}/{self._drawn}".encode()).hexdigest()

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return int(self.digits()[:12], 16) / 16**12


class SimulatedClock:
    """Implements `ports.Clock`. `skew_ms` is how far the control host's wall clock is off."""

    def __init__(self, *, seed: int = 0, skew_ms: int = 0) -> None:
        self._chance = Chance(f"clock-{seed}")
        self._elapsed_ms = 0
        self.skew_ms = skew_ms

    def advance(self, seconds: float) -> None:
        """Let time pass; `seconds` is not negative."""
        self._elapsed_ms += max(int(seconds * 1000), 0)

    def now_ms(self) -> int:
        """See `ports.Clock`."""
        return START_MS + self._elapsed_ms + self.skew_ms

    def learn(self, told_ms: int, *, took_s: float) -> int:
        """Nothing: it is as wrong as the test wants it to be."""
        del self, told_ms, took_s
        return 0

    def monotonic_s(self) -> float:
        """See `ports.Clock`."""
        return self._elapsed_ms / 1000

    def jitter(self) -> float:
        """See `ports.Clock`."""
        return self._chance.fraction()

    def new_id(self) -> str:
        """See `ports.Clock`."""
        return self._chance.digits()[:16]


if TYPE_CHECKING:
    _: type[Clock] = SimulatedClock
