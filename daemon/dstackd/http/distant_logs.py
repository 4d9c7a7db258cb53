"""Lines that reached another daemon's file, out of CloudWatch, for who reads here. Law: reads only; one call at a time and one a
second, whatever the number of readers; memory does not grow with the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import anyio
from anyio.lowlevel import checkpoint

from dstackd import protocol
from dstackd.core.log_assembly import LogAssembly
from dstackd.core.log_line import StoredLine
from dstackd.ports import Clock, LogEvent, LogSource

CALL_EVERY_S = 1.0
"""FilterLogEvents takes 5 calls a second, and the log loop makes 2 of them (`log_reads.CALLS`)."""
EVENTS_A_STEP = 2000
"""Between two turns of everything else."""
BEFORE_MS = 86_400_000
"""So much before the launch, as it was noted here, the machine's clock may say it is."""


class DistantLogs:
    """One daemon's way to what its files lack."""

    def __init__(self, source: LogSource, *, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._turn = anyio.Lock()
        self._next_call_s = 0.0

    async def lines(
        self, job_id: str, attempt: int, *, hole: StoredLine, is_open: bool, launched_at_ms: int
    ) -> AsyncGenerator[list[StoredLine]]:
        """Those of the hole, in order and once; the parts that are not there either come as smaller holes. `is_open`: also what
        is behind it, for nobody knows how many lines there are. Raises CloudError.
        """
        assembly = LogAssembly(hole.n)
        assembly.expected = None if is_open else hole.last_n
        pages = self._source.sweep(
            start_ms=launched_at_ms - BEFORE_MS, streams=[protocol.log_stream(job_id, attempt)]
        )
        while (is_open or assembly.is_short) and (page := await self._next(pages)) is not None:
            for start in range(0, len(page), EVENTS_A_STEP):
                for event in page[start : start + EVENTS_A_STEP]:
                    line = protocol.decode_log_line(event.message)
                    if line is not None and (is_open or line.n <= hole.last_n):
                        assembly.add(line.n, event.at_ms, line.source, line.text)
                yield assembly.take_ready()
                await checkpoint()
        yield assembly.close()

    async def _next(self, pages: AsyncIterator[Sequence[LogEvent]]) -> Sequence[LogEvent] | None:
        async with self._turn:
            now_s = self._clock.monotonic_s()
            await anyio.sleep(max(0.0, self._next_call_s - now_s))
            self._next_call_s = max(self._next_call_s, now_s) + CALL_EVERY_S
            return await anext(pages, None)
