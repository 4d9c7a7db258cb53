"""The jobs' output, from CloudWatch into files. Law: one sweep over all streams, whatever the number of jobs.

Lines carry their number, so that late, doubled and reordered events come out once and in order. A sweep reads
back OVERLAP_S, because CloudWatch may show an event some time after newer ones; what is later still is fetched
by a look at the one stream, once the machine has said how many lines it sent.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from dstackd import protocol
from dstackd.core.log_assembly import LogAssembly
from dstackd.core.log_line import StoredLine
from dstackd.errors import StorageFailed
from dstackd.log_files import LogFiles
from dstackd.ports import Clock, LogEvent, LogSource
from dstackd.store import logs as store
from dstackd.store.engine import Connection, Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

OVERLAP_S = 60.0
CLOCK_SKEW_S = 300.0
"""How far a machine's clock may be behind ours at its first line."""
CATCH_UP_S = 3.0
"""Between two looks at a single stream."""
SAVE_S = 5.0
"""Between two saves of a running job's line count."""
LATE_S = 120.0
"""After an attempt's end, how long late lines are still taken in."""

Key = tuple[str, int]


class Logs:
    """Sweeps, assembles, writes."""

    name = "logs"
    pass_max_s = 600.0

    def __init__(
        self,
        database: Database,
        *,
        source: LogSource,
        files: LogFiles,
        clock: Clock,
        wakes: Wakes,
        interval_s: float,
        idle_s: float,
    ) -> None:
        self._database = database
        self._source = source
        self._files = files
        self._clock = clock
        self._wakes = wakes
        self._busy_s = interval_s
        self.interval_s = idle_s
        self._assemblies: dict[Key, LogAssembly] = {}
        self._swept_until_ms: int | None = None
        self._caught_up_s: dict[Key, float] = {}
        self._saved: dict[Key, tuple[float, int]] = {}

    async def step(self) -> float:
        """One sweep, if an attempt may still write."""
        now_ms = self._clock.now_ms()

        async def read(connection: Connection) -> list[store.WantedLog]:
            return await store.wanted_logs(connection, ended_after_ms=now_ms - int(LATE_S * 1000))

        wanted = {(log.job_id, log.attempt): log for log in await self._database.read(read)}
        self._close_all_but(wanted)
        self._open(wanted.values())
        if not self._assemblies:
            self._swept_until_ms = None
            return self.interval_s
        await self._sweep(now_ms)
        for key in [key for key, log in wanted.items() if self._is_short(key, log)]:
            await self._catch_up(key, wanted[key])
        await self._save_counts(wanted)
        return self._busy_s

    def _open(self, wanted: Iterable[store.WantedLog]) -> None:
        opened: list[int] = []
        for entry in wanted:
            key = (entry.job_id, entry.attempt)
            complete = entry.lines_sent is not None and entry.lines_seen >= entry.lines_sent
            if key not in self._assemblies and not complete:
                self._assemblies[key] = LogAssembly(self._files.last_n(*key) + 1)
                opened.append(entry.asked_at_ms - int(CLOCK_SKEW_S * 1000))
            if key in self._assemblies:
                self._assemblies[key].expected = entry.lines_sent
        if opened and self._swept_until_ms is None:
            self._swept_until_ms = min(opened)

    def _close_all_but(self, wanted: dict[Key, store.WantedLog]) -> None:
        """Attempts whose time is over: what is missing now stays missing, and the file says so."""
        for key in [key for key in self._assemblies if key not in wanted]:
            self._append(key, self._assemblies[key].close())
            del self._assemblies[key]
            self._caught_up_s.pop(key, None)
            self._saved.pop(key, None)

    async def _sweep(self, now_ms: int) -> None:
        until_ms = now_ms if self._swept_until_ms is None else self._swept_until_ms
        start_ms = until_ms - int(OVERLAP_S * 1000)
        async for page in self._source.sweep(start_ms=start_ms):
            self._take(page)
        self._swept_until_ms = now_ms

    def _take(self, page: Iterable[LogEvent]) -> None:
        touched: set[Key] = set()
        for event in page:
            key = protocol.parse_log_stream(event.stream)
            line = protocol.decode_log_line(event.message)
            if key in self._assemblies and line is not None:
                self._assemblies[key].add(line.n, event.at_ms, line.source, line.text)
                touched.add(key)
        for key in touched:
            lines = self._assemblies[key].take_ready()
            if lines:
                self._append(key, lines)

    def _append(self, key: Key, lines: list[StoredLine]) -> None:
        """Raises StorageFailed; what could not be written is read from CloudWatch again, from the file's end on."""
        try:
            self._files.append(*key, lines)
        except OSError as error:
            del self._assemblies[key]
            self._swept_until_ms = None
            message = f"{self._files.path(*key)}: {error.strerror or error}"
            raise StorageFailed(message) from error

    def _is_short(self, key: Key, entry: store.WantedLog) -> bool:
        assembly = self._assemblies.get(key)
        now_s = self._clock.monotonic_s()
        return (
            assembly is not None
            and entry.lines_sent is not None
            and assembly.next_n <= entry.lines_sent
            and now_s - self._caught_up_s.get(key, -CATCH_UP_S) >= CATCH_UP_S
        )

    async def _catch_up(self, key: Key, entry: store.WantedLog) -> None:
        self._caught_up_s[key] = self._clock.monotonic_s()
        start_ms = entry.asked_at_ms - int(CLOCK_SKEW_S * 1000)
        async for page in self._source.sweep(start_ms=start_ms, stream=protocol.log_stream(*key)):
            self._take(page)

    async def _save_counts(self, wanted: dict[Key, store.WantedLog]) -> None:
        now_s = self._clock.monotonic_s()
        due: list[tuple[str, int, int]] = []
        for key, assembly in self._assemblies.items():
            entry, seen = wanted[key], assembly.seen
            saved_s, saved = self._saved.get(key, (now_s - SAVE_S, entry.lines_seen))
            if seen != saved and (entry.lines_sent is not None or now_s - saved_s >= SAVE_S):
                due.append((*key, seen))
        if not due:
            return

        await self._database.write(lambda connection: store.save_seen(connection, due))
        for job_id, attempt, seen in due:
            self._saved[job_id, attempt] = (now_s, seen)
        self._wakes.machines.ring()
