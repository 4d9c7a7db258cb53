"""Lines as PutLogEvents wants them, written once. Law: pure; what is spooled is what is sent, byte for byte.

A record is `<ms> <events> <bytes> <event>,<event>,...`: some events of the same moment, each the JSON object
`{"timestamp": ms, "message": "..."}`, and their size as CloudWatch counts it (message and 26 bytes each).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from dstackd import protocol

RECORD_EVENTS_MAX = 1000
RECORD_BYTES_MAX = 131_072
"""A batch holds whole records: small ones fill it."""

_quoted = json.encoder.encode_basestring
"""A JSON string, other characters than ASCII as they are: what `json.dumps(ensure_ascii=False)` uses."""


class Record(NamedTuple):
    """Some events: `body` is their JSON objects with commas between."""

    at_ms: int
    events: int
    size_bytes: int
    body: bytes


class Encoder:
    """Numbers lines from 1 and makes records of them."""

    def __init__(self) -> None:
        self.last_n = 0

    def records(
        self, texts: Iterable[str], *, source: str, at_ms: int, room_bytes: int | None
    ) -> tuple[list[bytes], int, int]:
        """(records, how many texts are in them, their bytes). It ends before the text that would not fit into
        `room_bytes`; None: all of them fit.
        """
        records: list[bytes] = []
        events: list[str] = []
        size_bytes = total_bytes = taken = 0
        n = self.last_n
        begin, middle = f'{{"timestamp":{at_ms},"message":', f',"source":"{source}","log":'
        for text in texts:
            message = f'{{"n":{n + 1}{middle}{_quoted(text)}}}'
            event_bytes = (
                len(message) if message.isascii() else len(message.encode("utf-8", "replace"))
            ) + protocol.LOG_EVENT_OVERHEAD_BYTES
            if room_bytes is not None and total_bytes + size_bytes + event_bytes > room_bytes:
                break
            n += 1
            if size_bytes + event_bytes > RECORD_BYTES_MAX or len(events) >= RECORD_EVENTS_MAX:
                _close(records, events, at_ms=at_ms, size_bytes=size_bytes)
                total_bytes += size_bytes
                events, size_bytes = [], 0
            size_bytes += event_bytes
            events.append(f"{begin}{_quoted(message)}}}")
        _close(records, events, at_ms=at_ms, size_bytes=size_bytes)
        taken, self.last_n = n - self.last_n, n
        return records, taken, total_bytes + size_bytes


def _close(records: list[bytes], events: list[str], *, at_ms: int, size_bytes: int) -> None:
    if events:
        text = f"{at_ms} {len(events)} {size_bytes} {','.join(events)}"
        records.append(text.encode("utf-8", "replace"))


def decode(record: bytes) -> Record:
    """What `Encoder` wrote. Raises ValueError."""
    at_ms, events, size_bytes, body = record.split(b" ", 3)
    return Record(int(at_ms), int(events), int(size_bytes), body)
