"""The runner's own words. Law: best effort and small; never in the way of the job.

They go to standard output at once (the unit's journal, or the console), and to the runners' log
group when there is time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque

from dstackd.runner.errors import RunnerError
from dstackd.runner.logs import Event, LogStream
from dstackd.runner.unexpected import Unexpected

LINES_MAX = 500
SHIP_PATIENCE_S = 5.0


class Journal:
    """Keeps the last lines until they are shipped. May be used from several threads."""

    def __init__(self) -> None:
        self._lines: deque[Event] = deque(maxlen=LINES_MAX)
        self._lock = threading.Lock()
        self._made = False
        self._unexpected = Unexpected("journal", self.say)

    def say(self, text: str) -> None:
        at_ms = int(time.time() * 1000)
        with self._lock:
            # Nobody may read standard output any more, or its disk be full.
            with contextlib.suppress(OSError, ValueError):
                print(f"dstackd-runner: {text}", flush=True)
            self._lines.append((at_ms, text[:2000] or "-"))

    def ship(self, stream: LogStream) -> None:
        """Send what there is; what could not be sent is sent with the next call."""
        with self._lock:
            events = sorted(self._lines, key=lambda event: event[0])
            self._lines.clear()
        if not events:
            return
        try:
            if not self._made:
                stream.create(patience_s=SHIP_PATIENCE_S)
                self._made = True
            stream.put(events, patience_s=SHIP_PATIENCE_S)
        except RunnerError:
            self._take_back(events)
        except Exception as error:  # noqa: BLE001 - the journal is in nobody's way
            self._take_back(events)
            self._unexpected.met(error)

    def _take_back(self, events: list[Event]) -> None:
        with self._lock:
            self._lines = deque([*events, *self._lines], maxlen=LINES_MAX)
