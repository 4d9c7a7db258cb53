"""S3 and CloudWatch Logs in memory. Law: strongly consistent objects; log events that may show late, twice, or never."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from dstackd.core.lifecycle import Rule, is_current, merge
from dstackd.errors import NotFound, PreconditionFailed
from dstackd.ports import Bucket, LogEvent, LogSource, ObjectFacts, ObjectHead
from dstackd.simulated.clock import Chance
from dstackd.simulated.faults import Faults
from dstackd.simulated.gate import Gate
from dstackd.simulated.timeline import Timeline

CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    modified_at_ms: int


class SimulatedBucket:
    """Implements `ports.Bucket`. What is not async is the machines' side, which no fault touches."""

    def __init__(self, timeline: Timeline, gate: Gate) -> None:
        self._timeline = timeline
        self._gate = gate
        self._objects: dict[str, _Object] = {}
        self.on_put: dict[str, Callable[[], None]] = {}
        """Key -> what a machine does when the daemon writes it."""
        self.rules: list[Rule] = []

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        """See `ports.Bucket`."""
        with self._gate.call("PutObject"):
            if only_if_new and key in self._objects:
                raise PreconditionFailed("PreconditionFailed", key, operation="PutObject")
            self.store(key, body)

    async def put_file(self, key: str, path: Path) -> None:
        """See `ports.Bucket`."""
        body = await anyio.Path(path).read_bytes()
        with self._gate.call("PutObject"):
            self.store(key, body)

    async def exists(self, key: str) -> bool:
        """See `ports.Bucket`."""
        with self._gate.call("HeadObject"):
            return key in self._objects

    async def facts(self, key: str) -> ObjectFacts:
        """See `ports.Bucket`."""
        with self._gate.call("HeadObject"):
            found = self._found(key)
            return ObjectFacts(len(found.body), found.modified_at_ms)

    async def renew(self, key: str) -> None:
        """See `ports.Bucket`."""
        with self._gate.call("CopyObject"):
            self._objects[key] = replace(self._found(key), modified_at_ms=self._timeline.now_ms)

    async def get(self, key: str) -> bytes:
        """See `ports.Bucket`."""
        with self._gate.call("GetObject"):
            return self._found(key).body

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """See `ports.Bucket`."""
        body = await self.get(key)
        for start in range(0, len(body), CHUNK_BYTES):
            yield body[start : start + CHUNK_BYTES]

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        """See `ports.Bucket`."""
        with self._gate.call("ListObjectsV2"):
            return tuple(
                ObjectHead(key, len(found.body), found.modified_at_ms)
                for key, found in sorted(self._objects.items())
                if key.startswith(prefix)
            )

    async def delete(self, keys: Sequence[str]) -> None:
        """See `ports.Bucket`."""
        if not keys:
            return
        with self._gate.call("DeleteObjects"):
            for key in keys:
                self._objects.pop(key, None)

    async def ensure_rules(self, ours: Sequence[Rule]) -> bool:
        """See `ports.Bucket`."""
        with self._gate.call("GetBucketLifecycleConfiguration"):
            if is_current(self.rules, ours):
                return False
        with self._gate.call("PutBucketLifecycleConfiguration"):
            self.rules = merge(self.rules, ours)
        return True

    def _found(self, key: str) -> _Object:
        if key not in self._objects:
            raise NotFound("NoSuchKey", key)
        return self._objects[key]

    def store(self, key: str, body: bytes) -> None:
        """Write an object now."""
        self._objects[key] = _Object(body, self._timeline.now_ms)
        if key in self.on_put:
            self.on_put[key]()

    def load(self, key: str) -> bytes | None:
        """The object's content, None when it is not there."""
        found = self._objects.get(key)
        return None if found is None else found.body

    def modified_at_ms(self, key: str) -> int:
        """When the object was written; not a call."""
        return self._found(key).modified_at_ms

    def keys(self, prefix: str = "") -> tuple[str, ...]:
        """What is there now, in order; not a call."""
        return tuple(sorted(key for key in self._objects if key.startswith(prefix)))


class SimulatedLogs:
    """Implements `ports.LogSource` for one group."""

    def __init__(self, timeline: Timeline, gate: Gate, *, faults: Faults, chance: Chance) -> None:
        self._timeline = timeline
        self._gate = gate
        self._faults = faults
        self._chance = chance
        self._events: list[LogEvent] = []

    async def sweep(
        self, *, start_ms: int, end_ms: int | None = None, streams: Sequence[str] = ()
    ) -> AsyncIterator[Sequence[LogEvent]]:
        """See `ports.LogSource`."""
        after: tuple[int, str] = (start_ms, "")
        more = True
        while more:
            with self._gate.call("FilterLogEvents"):
                shown = sorted(
                    (event for event in self._events if self._is_shown(event, end_ms, streams)),
                    key=_position,
                )
                begin = bisect_right(shown, after, key=_position)
                page = shown[begin : begin + self._faults.log_page_events]
                more = begin + len(page) < len(shown)
            after = _position(page[-1]) if page else after
            yield page

    def _is_shown(self, event: LogEvent, end_ms: int | None, streams: Sequence[str]) -> bool:
        return (
            event.ingested_at_ms <= self._timeline.now_ms
            and (end_ms is None or event.at_ms <= end_ms)
            and (not streams or event.stream in streams)
        )

    def write(self, stream: str, message: str, *, at_ms: int | None = None) -> None:
        """One event of a machine; at_ms None: now."""
        if self._chance.fraction() < self._faults.lost_share:
            return
        late = self._chance.fraction() < self._faults.late_share
        lag_s = self._faults.log_lag_s + (self._faults.late_s if late else 0.0)
        copies = 2 if self._chance.fraction() < self._faults.doubled_share else 1
        for _ in range(copies):
            self._events.append(
                LogEvent(
                    event_id=f"{len(self._events):056d}",
                    stream=stream,
                    at_ms=self._timeline.now_ms if at_ms is None else at_ms,
                    ingested_at_ms=self._timeline.now_ms + int(lag_s * 1000),
                    message=message,
                )
            )


def _position(event: LogEvent) -> tuple[int, str]:
    return event.at_ms, event.event_id


if TYPE_CHECKING:
    _bucket: type[Bucket] = SimulatedBucket
    _logs: type[LogSource] = SimulatedLogs
