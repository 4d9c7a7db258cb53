"""Batches that PutLogEvents takes. Law: pure.

Source: AWS, "PutLogEvents": 1,048,576 bytes with 26 for each event, 10,000 events, 24 hours from
the first event to the last, in time order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dstackd import protocol
from dstackd.runner.logs import Event

SPAN_MS_MAX = 24 * 3_600_000


class Batcher:
    """Cuts the records that `read` gives (`<ms> <message>`) into batches."""

    def __init__(self, read: Callable[[], bytes | None]) -> None:
        self._read = read
        self._waiting: tuple[Event, int] | None = None

    def take(self) -> list[Event]:
        """The next batch, as full as what there is; empty when there is nothing."""
        batch: list[Event] = []
        size_bytes = 0
        for event, event_bytes in self._events():
            full = (
                size_bytes + event_bytes > protocol.LOG_BATCH_BYTES_MAX
                or len(batch) >= protocol.LOG_BATCH_EVENTS_MAX
                or bool(batch and event[0] - batch[0][0] >= SPAN_MS_MAX)
            )
            if batch and full:
                self._waiting = (event, event_bytes)
                break
            batch.append(event)
            size_bytes += event_bytes
        return batch

    def _events(self) -> Iterator[tuple[Event, int]]:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            yield waiting
        while True:
            record = self._read()
            if record is None:
                return
            at_ms, _, message = record.partition(b" ")
            event = (int(at_ms), message.decode())
            yield event, len(message) + protocol.LOG_EVENT_OVERHEAD_BYTES
