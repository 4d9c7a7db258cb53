"""Where every call enters the simulated cloud. Law: first the world catches up, then faults strike; each call is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dstackd.simulated.faults import Faults
from dstackd.simulated.timeline import Timeline


class Gate:
    """Shared by all parts of one cloud."""

    def __init__(self, timeline: Timeline, faults: Faults) -> None:
        self._timeline = timeline
        self._faults = faults
        self.calls: Counter[str] = Counter()
        """By operation, failed ones included."""

    @contextmanager
    def call(self, operation: str) -> Iterator[None]:
        """Around the work of one call. Raises any CloudError that the faults ask for."""
        self._timeline.catch_up()
        self.calls[operation] += 1
        with self._faults.on(operation):
            yield
