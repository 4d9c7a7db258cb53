"""What the AWS APIs have answered so far. Law: counts every HTTP attempt, decides nothing.

/metrics, /healthz and the demo's table read it; it knows nothing of botocore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dstackd.errors import CloudError, CloudUnavailable, Throttled, Unauthorized
from dstackd.ports import Clock

TROUBLE = (CloudUnavailable, Throttled, Unauthorized)
"""What is wrong with the API or with us, rather than with the one request."""


@dataclass(slots=True)
class CallStats:
    """One operation since the start. Times are milliseconds of the wall clock, None before the first."""

    attempts: int = 0
    """HTTP requests, repetitions by the SDK included: what AWS counts against a throttle."""
    failures: Counter[str] = field(default_factory=Counter)
    """By error code, or by the name of a transport failure."""
    throttles: int = 0
    seconds_total: float = 0.0
    seconds_max: float = 0.0
    paced_seconds_total: float = 0.0
    """What calls have waited at our own gate before they were sent."""
    waiting: int = 0
    """Calls that wait there now."""
    last_ok_at_ms: int | None = None
    """The API did its work: an answer, even one such as "not there" or "no capacity"."""
    last_trouble_at_ms: int | None = None
    last_trouble_code: str = ""


class CallRecorder:
    """Counts by `service:Operation`, such as `ec2:RunInstances`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stats: dict[str, CallStats] = {}

    @property
    def stats(self) -> Mapping[str, CallStats]:
        """By operation; live, not a copy."""
        return self._stats

    def record(
        self, name: str, *, seconds: float, code: str = "", error: type[CloudError] | None = None
    ) -> None:
        """Note one attempt. `error` is what its `code` means, None for a success."""
        stats = self._stats.setdefault(name, CallStats())
        stats.attempts += 1
        stats.seconds_total += seconds
        stats.seconds_max = max(stats.seconds_max, seconds)
        if error is not None:
            stats.failures[code] += 1
            stats.throttles += error is Throttled
        if error is not None and issubclass(error, TROUBLE):
            stats.last_trouble_at_ms = self._clock.now_ms()
            stats.last_trouble_code = code
        else:
            stats.last_ok_at_ms = self._clock.now_ms()

    @contextmanager
    def pacing(self, name: str) -> Iterator[None]:
        """Note that a call waits at the gate while the context is open."""
        stats = self._stats.setdefault(name, CallStats())
        began_s = self._clock.monotonic_s()
        stats.waiting += 1
        try:
            yield
        finally:
            stats.waiting -= 1
            stats.paced_seconds_total += self._clock.monotonic_s() - began_s
