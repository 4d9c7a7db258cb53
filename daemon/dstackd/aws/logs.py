"""CloudWatch Logs as `ports.LogSource`. Law: one group, one sweep over all of its streams; never a call per job.

FilterLogEvents is limited to 5-25 calls a second per account and region, and the limit is not
adjustable (CloudWatch Logs quotas page).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from dstackd.aws.api import Api
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.errors import NotFound
from dstackd.ports import LogEvent, LogSource

EVENTS_A_PAGE = 10_000


class CloudWatchLogs:
    """The jobs' group."""

    def __init__(self, logs: Api, *, group: str) -> None:
        self._logs = logs
        self._group = group

    async def sweep(
        self, *, start_ms: int, end_ms: int | None = None, streams: Sequence[str] = ()
    ) -> AsyncIterator[Sequence[LogEvent]]:
        """See `ports.LogSource`. A group or stream that is not there yet has no events."""
        narrower: dict[str, Untyped] = {"logStreamNames": list(streams)} if streams else {}
        if end_ms is not None:
            narrower["endTime"] = end_ms
        pages = self._logs.pages(
            "FilterLogEvents",
            token=("nextToken", "nextToken"),
            logGroupName=self._group,
            startTime=max(0, start_ms),
            limit=EVENTS_A_PAGE,
            **narrower,
        )
        try:
            async for page in pages:
                with reading("logs:FilterLogEvents"):
                    events = tuple(_event(event) for event in page["events"])
                yield events
        except NotFound:
            return


def _event(event: Untyped) -> LogEvent:
    return LogEvent(
        event_id=event["eventId"],
        stream=event["logStreamName"],
        at_ms=int(event["timestamp"]),
        ingested_at_ms=int(event.get("ingestionTime", event["timestamp"])),
        message=event["message"],
    )


if TYPE_CHECKING:
    _: type[LogSource] = CloudWatchLogs
