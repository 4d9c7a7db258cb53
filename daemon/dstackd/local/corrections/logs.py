"""PutLogEvents and FilterLogEvents with CloudWatch's order, pages, limits and lag.

Law: keeps its own ordered list of events per log group; moto's lists stay filled, so its other
actions (GetLogEvents, DescribeLogStreams) go on working, without the lag.
Sources: API reference of both actions; measured with moto 5.2.5 where it says what moto does.
"""

import base64
import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from moto.logs.exceptions import InvalidParameterException, ResourceNotFoundException
from moto.logs.models import LogGroup, LogsBackend, LogStream
from moto.logs.responses import LogsResponse
from moto.logs.utils import EventMessageFilter

from dstackd.local.corrections.state import CloudState

BATCH_LIMIT_BYTES = 1_048_576
BATCH_LIMIT_EVENTS = 10_000
EVENT_OVERHEAD_BYTES = 26
_PAGE_LIMIT_BYTES = 1_048_576
_PAGE_LIMIT_EVENTS = 10_000
_SPAN_LIMIT_MS = 24 * 3600 * 1000
_OLDEST_MS = 14 * 24 * 3600 * 1000
_NEWEST_MS = 2 * 3600 * 1000
_STREAM_NAMES_LIMIT = 100

_Position = tuple[int, ...]
"""Timestamp, ingestion time (both epoch milliseconds), number of the event: the order of a group."""


@dataclass(frozen=True, slots=True, order=True)
class _Event:
    position: _Position
    stream: LogStream = field(compare=False)
    message: str = field(compare=False)

    @property
    def size_bytes(self) -> int:
        return len(self.message.encode()) + EVENT_OVERHEAD_BYTES


class LogEvents:
    """The events of all groups of one cloud."""

    def __init__(self, state: CloudState) -> None:
        self._state = state
        self._groups: WeakKeyDictionary[LogGroup, list[_Event]] = WeakKeyDictionary()
        self._numbers = count()

    def install(self) -> None:
        """Replace moto's two actions."""
        logs = self

        def put_log_events(
            self: LogsBackend, log_group_name: str, log_stream_name: str, log_events: Any
        ) -> tuple[str, dict[str, Any]]:
            return logs.put(self, log_group_name, log_stream_name, log_events)

        def filter_log_events(self: LogsResponse) -> str:
            return json.dumps(logs.filter(self))

        LogsBackend.put_log_events = put_log_events  # type: ignore[method-assign]
        LogsResponse.filter_log_events = filter_log_events  # type: ignore[method-assign]

    def put(
        self, backend: LogsBackend, group_name: str, stream_name: str, events: Any
    ) -> tuple[str, dict[str, Any]]:
        """Store a batch; moto checks neither its size, its length, its span nor the stream."""
        group = _group(backend, group_name)
        stream = _stream(group, stream_name)
        _refuse_batch(events)
        with self._state.lock:
            now_ms = int(self._state.now() * 1000)
            accepted, rejected = _divide(events, now_ms)
            _refuse_span(accepted)
            ordered = self._groups.setdefault(group, [])
            for event in accepted:
                position = (event["timestamp"], now_ms, next(self._numbers))
                _insert(ordered, _Event(position, stream, event["message"]))
            token = group.put_log_events(stream_name, accepted)
        return token, rejected

    def filter(self, response: LogsResponse) -> dict[str, Any]:
        """Return one page, interleaved over streams and in order of time, with its nextToken."""
        group = _asked_group(response)
        test = _StreamTest.read(response, group)
        forward, after = _read_token(response)
        limit = response._get_param("limit") or _PAGE_LIMIT_EVENTS
        if not 1 <= limit <= _PAGE_LIMIT_EVENTS:
            raise InvalidParameterException("limit is between 1 and 10000")
        pattern = EventMessageFilter(response._get_param("filterPattern") or "")
        with self._state.lock:
            window = self._window(group, response, forward=forward, after=after)
            page = _Page(limit, self._state.faults.log_scan_events)
            for event in window:
                if not page.examine(event):
                    break
                if test.passes(event) and pattern.matches(event.message):
                    page.add(event)
        return page.answer(forward=forward)

    def _window(
        self, group: LogGroup, response: LogsResponse, *, forward: bool, after: _Position | None
    ) -> Iterator[_Event]:
        """Events between startTime and endTime (of their timestamps), past the token, ingested."""
        start: _Position = (response._get_param("startTime") or 0,)
        end_ms = response._get_param("endTime")
        visible_ms = (self._state.now() - self._state.faults.ingestion_lag_s) * 1000
        events = self._groups.get(group, [])
        low, high = bisect_left(events, start, key=_position), len(events)
        if end_ms is not None:
            past_end: _Position = (end_ms + 1,)
            high = bisect_left(events, past_end, key=_position)
        if after is not None and forward:
            low = max(low, bisect_right(events, after, key=_position))
        elif after is not None:
            high = min(high, bisect_left(events, after, key=_position))
        indexes = range(low, high) if forward else range(high - 1, low - 1, -1)
        return (events[index] for index in indexes if events[index].position[1] <= visible_ms)


def _position(event: _Event) -> _Position:
    return event.position


def _insert(ordered: list[_Event], event: _Event) -> None:
    """Nearly every event is the newest one."""
    if not ordered or event.position > ordered[-1].position:
        ordered.append(event)
    else:
        insort(ordered, event)


class _Page:
    """One page being filled: at most `limit` events, 1 MB, and `scan` events examined."""

    def __init__(self, limit: int, scan: int) -> None:
        self._limit = limit
        self._scan = scan
        self._events: list[_Event] = []
        self._size_bytes = 0
        self._examined = 0
        self._last: _Position | None = None
        self._more = False

    def examine(self, event: _Event) -> bool:
        """Count the event in, or say that the page ends before it."""
        full = (
            len(self._events) >= self._limit
            or (self._events and self._size_bytes + event.size_bytes > _PAGE_LIMIT_BYTES)
            or (self._scan and self._examined >= self._scan)
        )
        if full:
            self._more = True
            return False
        self._examined += 1
        self._last = event.position
        return True

    def add(self, event: _Event) -> None:
        self._events.append(event)
        self._size_bytes += event.size_bytes

    def answer(self, *, forward: bool) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "events": [_description(event) for event in self._events],
            "searchedLogStreams": [],
        }
        if self._more and self._last is not None:
            answer["nextToken"] = _write_token(self._last, forward=forward)
        return answer


@dataclass(frozen=True, slots=True)
class _StreamTest:
    group: LogGroup
    names: frozenset[str] | None
    prefix: str

    @classmethod
    def read(cls, response: LogsResponse, group: LogGroup) -> "_StreamTest":
        """AWS: an unknown name is ResourceNotFoundException; moto returns nothing."""
        names: Sequence[str] | None = response._get_param("logStreamNames")
        prefix: str = response._get_param("logStreamNamePrefix") or ""
        if names is not None and prefix:
            raise InvalidParameterException(
                "logStreamNames and logStreamNamePrefix exclude each other"
            )
        if names is not None and not 1 <= len(names) <= _STREAM_NAMES_LIMIT:
            raise InvalidParameterException("logStreamNames holds 1 to 100 names")
        for name in names or ():
            _stream(group, name)
        return cls(group, None if names is None else frozenset(names), prefix)

    def passes(self, event: _Event) -> bool:
        name = event.stream.log_stream_name
        # A deleted stream takes its events along, also when one of the same name follows.
        return (
            self.group.streams.get(name) is event.stream
            and (self.names is None or name in self.names)
            and name.startswith(self.prefix)
        )


def _asked_group(response: LogsResponse) -> LogGroup:
    name: str | None = response._get_param("logGroupName")
    identifier: str | None = response._get_param("logGroupIdentifier")
    if (name is None) == (identifier is None):
        raise InvalidParameterException("exactly one of logGroupName and logGroupIdentifier")
    if identifier is not None:
        name = identifier.partition(":log-group:")[2].removesuffix(":*") or identifier
    return _group(response.logs_backend, str(name))


def _group(backend: LogsBackend, name: str) -> LogGroup:
    group: LogGroup | None = backend.groups.get(name)
    if group is None:
        raise ResourceNotFoundException
    return group


def _stream(group: LogGroup, name: str) -> LogStream:
    stream = group.streams.get(name)
    if stream is None:
        raise ResourceNotFoundException(msg="The specified log stream does not exist.")
    return stream


def _refuse_batch(events: Sequence[Mapping[str, Any]]) -> None:
    if not 1 <= len(events) <= BATCH_LIMIT_EVENTS:
        raise InvalidParameterException("1 to 10000 log events in a batch")
    if not all(event["message"] for event in events):
        raise InvalidParameterException("Log event message must not be empty")
    size_bytes = sum(len(event["message"].encode()) + EVENT_OVERHEAD_BYTES for event in events)
    if size_bytes > BATCH_LIMIT_BYTES:
        raise InvalidParameterException(
            f"Upload too large: {size_bytes} bytes exceeds limit of {BATCH_LIMIT_BYTES}"
        )
    times = [event["timestamp"] for event in events]
    if times != sorted(times):
        raise InvalidParameterException(
            "Log events in a single PutLogEvents request must be in chronological order."
        )


def _refuse_span(accepted: Sequence[Mapping[str, Any]]) -> None:
    if accepted and accepted[-1]["timestamp"] - accepted[0]["timestamp"] > _SPAN_LIMIT_MS:
        raise InvalidParameterException(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours."
        )


def _divide(
    events: Sequence[Mapping[str, Any]], now_ms: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events to keep and rejectedLogEventsInfo (end exclusive, start inclusive)."""
    times = [event["timestamp"] for event in events]
    low = bisect_left(times, now_ms - _OLDEST_MS)
    high = bisect_left(times, now_ms + _NEWEST_MS + 1)
    rejected = {}
    if low > 0:
        rejected["tooOldLogEventEndIndex"] = low
    if high < len(events):
        rejected["tooNewLogEventStartIndex"] = high
    return [dict(event) for event in events[low:high]], rejected


def _description(event: _Event) -> dict[str, Any]:
    timestamp, ingested, number = event.position
    return {
        "eventId": f"{timestamp:032d}{number:024d}",
        "logStreamName": event.stream.log_stream_name,
        "timestamp": timestamp,
        "message": event.message,
        "ingestionTime": ingested,
    }


def _write_token(last: _Position, *, forward: bool) -> str:
    return base64.urlsafe_b64encode(json.dumps([forward, *last]).encode()).decode()


def _read_token(response: LogsResponse) -> tuple[bool, _Position | None]:
    """Return the direction and the last position shown; the token's direction wins."""
    token = response._get_param("nextToken")
    if token is None:
        return response._get_param("startFromHead") is not False, None
    try:
        forward, timestamp, ingested, number = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, TypeError):
        raise InvalidParameterException("The specified nextToken is invalid.") from None
    return bool(forward), (timestamp, ingested, number)
