"""Why and how the job has to stop. Law: the first cause stays; a later order can only hurry."""

from __future__ import annotations

import threading
from dataclasses import dataclass

STOPPED = "stopped"
TIMED_OUT = "timed_out"
INTERRUPTED = "interrupted"
EXIT = "exit"
"""Not a cause of stopping: the commands ended by themselves."""


@dataclass(frozen=True)
class StopOrder:
    """SIGTERM now, SIGKILL after `grace_s`."""

    cause: str
    grace_s: float


class StopSwitch:
    """Where whoever wants the job to stop and whoever runs it meet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._order: StopOrder | None = None

    def order(self, cause: str, *, grace_s: float) -> None:
        """Ask for the stop. Not for a signal handler: it takes a lock."""
        with self._lock:
            first = self._order
            if first is None:
                self._order = StopOrder(cause, grace_s)
            elif grace_s < first.grace_s:
                self._order = StopOrder(first.cause, grace_s)
        self._changed.set()

    def current(self) -> StopOrder | None:
        return self._order

    def wake(self) -> None:
        """Let the waiter look again."""
        self._changed.set()

    def wait(self, timeout_s: float | None) -> None:
        """Until something changed, or `timeout_s`."""
        self._changed.wait(timeout_s)
        self._changed.clear()
