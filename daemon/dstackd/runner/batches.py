"""Batches that PutLogEvents takes. Law: pure.

Source: AWS, "PutLogEvents": 1,048,576 bytes with 26 for each event, 10,000 events, 24 hours from
the first event to the last, in time order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from dstackd import protocol
from dstackd.runner import records
from dstackd.runner.records import Record

SPAN_MS_MAX = 24 * 3_600_000


class Batch(NamedTuple):
    """The events of one call: `body` is their JSON objects with commas between."""

    events: int
    body: bytes


class Batcher:
    """Puts the records that `read` gives together, as many as go into one call."""

    def __init__(self, read: Callable[[], bytes | None]) -> None:
        self._read = read
        self._waiting: deque[Record] = deque()

    def take(self) -> Batch:
        """The next batch, as full as whole records make it; no events when there is nothing."""
        batch: list[Record] = []
        try:
            return self._fill(batch)
        except BaseException:
            # Whoever asks again gets them: a record is read once.
            self._waiting.extendleft(reversed(batch))
            raise

    def _fill(self, batch: list[Record]) -> Batch:
        events = size_bytes = 0
        while (record := self._next()) is not None:
            events += record.events
            size_bytes += record.size_bytes
            too_much = (
                size_bytes > protocol.LOG_BATCH_BYTES_MAX
                or events > protocol.LOG_BATCH_EVENTS_MAX
                or bool(batch and record.at_ms - batch[0].at_ms >= SPAN_MS_MAX)
            )
            if batch and too_much:
                self._waiting.appendleft(record)
                events -= record.events
                break
            batch.append(record)
        return Batch(events, b",".join(record.body for record in batch))

    def _next(self) -> Record | None:
        if self._waiting:
            return self._waiting.popleft()
        record = self._read()
        return None if record is None else records.decode(record)
