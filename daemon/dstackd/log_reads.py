"""Which calls the log loop makes. Law: never more than CALLS, whatever the number of jobs and lines; what does not fit
into a pass goes on in the next one, where it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from dstackd.core.log_windows import (
    REREAD_EVENTS_MAX,
    forward_start_ms,
    window_of,
)
from dstackd.core.open_log import OpenLog
from dstackd.core.token_bucket import BucketSize, TokenBucket
from dstackd.ports import Clock, LogEvent, LogSource

CALLS = BucketSize(capacity=3, refill_per_s=2.0)
"""FilterLogEvents takes 5 calls a second in most regions and the quota cannot be raised (AWS, "CloudWatch Logs quotas");
people and other programs want some of them. No second sees more than 5 of ours.
"""
DEEP_EVERY_S = 20.0
FORWARD_IN_A_ROW = 3
"""Pages of a forward read that is behind, to one that looks for what is missing."""

Pages = AsyncIterator[Sequence[LogEvent]]
Take = Callable[[Sequence[LogEvent]], Awaitable[None]]


class LogReads:
    """A read forward, and one of gaps, each page by page over as many passes as it takes."""

    def __init__(self, source: LogSource, *, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._calls = TokenBucket.full(CALLS, now_s=clock.monotonic_s())
        self._forward: Pages | None = None
        self._forward_pages = 0
        self._recent_ms: deque[int] = deque(maxlen=REREAD_EVENTS_MAX)
        self._asked_ms = clock.now_ms()
        """When the last page of it was asked for."""
        self._deep_at_s = clock.monotonic_s()
        self._gaps: Pages | None = None
        self._looked_for: tuple[OpenLog, ...] = ()
        self.until_ms: int | None = None
        """Up to where everything was read that was there. Who begins anew sets it."""

    @property
    def is_behind(self) -> bool:
        """Whether there is more to read forward."""
        return self._forward is not None

    @property
    def ready_in_s(self) -> float:
        """When the next call may be made."""
        now_s = self._clock.monotonic_s()
        return self._calls.ready_s(1, now_s=now_s) - now_s

    def forget(self) -> None:
        """Nobody wants anything."""
        self._forward = self._gaps = self.until_ms = None
        self._looked_for = ()

    async def read(self, opened: Collection[OpenLog], take: Take) -> None:
        """As many pages as the calls allow: forward to the end, then gaps that are due. Raises CloudError."""
        try:
            await self._read(opened, take)
        except BaseException:
            self._forward = self._gaps = None
            raise

    async def _read(self, opened: Collection[OpenLog], take: Take) -> None:
        while self.ready_in_s <= 0 and await self._read_forward(take):
            if self._forward_pages % FORWARD_IN_A_ROW == 0 and self.ready_in_s <= 0:
                await self._read_gaps(opened, take)
        while not self.is_behind and self.ready_in_s <= 0:
            if not await self._read_gaps(opened, take):
                return

    async def _read_forward(self, take: Take) -> bool:
        """One page, if there is another one."""
        if self._forward is None:
            self._begin_forward()
        asked_ms = self._clock.now_ms()
        page = await self._next(self._forward)
        if page is None:
            self._forward, self.until_ms = None, self._asked_ms
            return False
        self._asked_ms = asked_ms
        self._forward_pages += 1
        self._recent_ms.extend(event.at_ms for event in page)
        await take(page)
        return True

    def _begin_forward(self) -> None:
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        is_quiet = len(self._recent_ms) < REREAD_EVENTS_MAX
        deep = is_quiet and now_s >= self._deep_at_s + DEEP_EVERY_S
        self._deep_at_s = now_s if deep else self._deep_at_s
        start_ms = forward_start_ms(
            now_ms=now_ms,
            until_ms=now_ms if self.until_ms is None else self.until_ms,
            recent_ms=self._recent_ms,
            deep=deep,
        )
        self._recent_ms.clear()
        self._forward_pages, self._asked_ms = 0, now_ms
        self._forward = self._source.sweep(start_ms=start_ms)

    async def _read_gaps(self, opened: Collection[OpenLog], take: Take) -> bool:
        """One page of what is missing, if something is and there is another one."""
        if self._gaps is None:
            self._begin_gaps(opened)
        page = await self._next(self._gaps)
        if page is not None:
            await take(page)
            return True
        self._gaps = None
        now_s = self._clock.monotonic_s()
        for each in self._looked_for:
            each.looked(now_s)
        self._looked_for = ()
        return False

    def _begin_gaps(self, opened: Collection[OpenLog]) -> None:
        now_s = self._clock.monotonic_s()
        due = sorted(
            (each for each in opened if each.gap_since_s is not None and each.next_look_s <= now_s),
            key=lambda each: each.next_look_s,
        )
        if not due:
            return
        # A name that CloudWatch does not know spoils the whole call: who may have none is asked for alone.
        together = [each for each in due if each.is_known] if due[0].is_known else due[:1]
        by_stream = {each.stream: each for each in together}
        gaps = [(stream, gap) for stream, each in by_stream.items() if (gap := each.gap())]
        if not gaps:
            return
        window = window_of(gaps)
        self._looked_for = tuple(by_stream[stream] for stream in window.streams)
        self._gaps = self._source.sweep(
            start_ms=window.from_ms, end_ms=window.to_ms, streams=window.streams
        )

    async def _next(self, pages: Pages | None) -> Sequence[LogEvent] | None:
        """The next page, which costs a call; None after the last one, which costs none."""
        if pages is None:
            return None
        page = await anext(pages, None)
        if page is not None:
            self._calls = self._calls.take(1, now_s=self._clock.monotonic_s())
        return page
