"""The jobs' output, from CloudWatch into files. Law: one sweep over all streams, whatever the number of jobs.

Lines carry their number, so that late, doubled and reordered events come out once and in order. `log_reads` says what is
read when. An attempt's log stays open until all its lines are here, or for a while after its end in which none came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import structlog
from anyio import to_thread
from anyio.lowlevel import checkpoint

from dstackd import protocol
from dstackd.core.log_assembly import LogAssembly
from dstackd.core.log_line import StoredLine
from dstackd.core.log_windows import OVERLAP_MS
from dstackd.core.open_log import Key, OpenLog, WantedLog
from dstackd.errors import OperatingError, StorageFailed
from dstackd.log_files import LogFiles
from dstackd.log_reads import LogReads
from dstackd.ports import Clock, LogEvent, LogSource
from dstackd.store import logs as store
from dstackd.store.engine import Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

CLOCK_SKEW_S = 300.0
"""How far a machine's clock may be behind ours at its first line."""
SAVE_S = 5.0
"""Between two saves of a running job's line count."""
LATE_S = 120.0
"""How long late lines are taken in, from an attempt's end or its last late line on."""
REOPEN_S = 3600.0
"""After an attempt's end, how long a daemon that starts still looks for its late lines."""
HOLE_MAX_S = 300.0
"""How long lines wait behind a hole while the job runs."""
PENDING_ALL_MAX = 200_000
"""Lines of all attempts that wait behind holes: some 100 MB."""
EVENTS_A_STEP = 2000
"""Between two turns of the other loops."""
FILE_MARGIN_BYTES = 64 * 1024 * 1024


class Logs:
    """Sweeps, assembles, writes. `quota_bytes`: what a machine sends of one attempt at most; None: no bound."""

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
        quota_bytes: int | None = None,
    ) -> None:
        self._database = database
        self._reads = LogReads(source, clock=clock)
        self._files = files
        self._clock = clock
        self._wakes = wakes
        self._busy_s = interval_s
        self.interval_s = idle_s
        # A machine's quota counts each line as CloudWatch does, which is nearly what the line takes in the file.
        self._file_bytes_max = (
            None if quota_bytes is None else quota_bytes * 5 // 4 + FILE_MARGIN_BYTES
        )
        self._open: dict[Key, OpenLog] = {}
        self._streams: dict[str, OpenLog] = {}
        self._closed: set[Key] = set()
        self._unwritten: set[Key] = set()
        """Logs whose last lines could not be written."""
        self._saved: dict[Key, tuple[float, int]] = {}
        self._cursor_s = clock.monotonic_s()

    async def step(self) -> float:
        """One sweep, if an attempt may still write."""
        wanted = await self._wanted()
        await self._close_and_open(wanted)
        if not self._open:
            self._reads.forget()
            return self.interval_s
        now_s = self._clock.monotonic_s()
        for each in self._open.values():
            each.note_gap(now_s)
        failure: OperatingError | None = None
        try:
            await self._reads.read(self._open.values(), self._take)
            self._give_up_holes()
            self._save_cursor()
        except OperatingError as error:
            failure = error
        await self._save_counts(wanted)
        if failure is not None:
            raise failure
        return max(self._reads.ready_in_s, 0.05) if self._reads.is_behind else self._busy_s

    @property
    def _tenure(self) -> int:
        """The number of this ownership; 0 where there is none."""
        tenure = self._database.tenure
        return 0 if tenure is None else tenure.lease.fence

    async def _wanted(self) -> dict[Key, WantedLog]:
        ended_after_ms = self._clock.now_ms() - int(REOPEN_S * 1000)
        wanted = await self._database.read_own(
            partial(store.wanted_logs, ended_after_ms=ended_after_ms)
        )
        return {(each.job_id, each.attempt): each for each in wanted}

    async def _close_and_open(self, wanted: Mapping[Key, WantedLog]) -> None:
        self._closed &= wanted.keys()
        for key, each in list(self._open.items()):
            if key in wanted:
                each.learn(wanted[key], now_s=self._clock.monotonic_s())
            if key not in wanted or self._is_over(each):
                self._close(each)
        fresh = [
            await self._begin(key, entry)
            for key, entry in wanted.items()
            if key not in self._open and key not in self._closed
        ]
        starts_ms = [each.assembly.last_at_ms for each in fresh if each is not None]
        if starts_ms and self._reads.until_ms is None:
            # The read begins that much before.
            self._reads.until_ms = max(
                min(starts_ms) + OVERLAP_MS, self._files.read_cursor(tenure=self._tenure) or 0
            )

    def _is_over(self, each: OpenLog) -> bool:
        is_late = self._clock.monotonic_s() > each.quiet_since_s + LATE_S
        was_looked_for = each.looks > 0 or not each.has_gap
        return each.entry.has_ended and is_late and was_looked_for and not self._reads.is_behind

    def _close(self, each: OpenLog) -> None:
        """What is missing now stays missing, and the file says so; unless it has arrived at another host, where readers find it."""
        if not each.is_full and each.seen >= each.entry.lines_seen:
            self._append(each, each.assembly.close())
        self._drop(each)
        self._closed.add(each.key)

    def _drop(self, each: OpenLog) -> None:
        del self._open[each.key], self._streams[each.stream]
        self._saved.pop(each.key, None)

    async def _begin(self, key: Key, entry: WantedLog) -> OpenLog | None:
        end = await to_thread.run_sync(self._files.end, *key)
        is_whole = entry.lines_sent is not None and end.last_n >= entry.lines_sent
        is_saved = end.last_n - end.missing <= entry.lines_seen
        if entry.has_ended and is_whole and is_saved:
            self._closed.add(key)
            return None
        asked_at_ms = entry.asked_at_ms - int(CLOCK_SKEW_S * 1000)
        last_at_ms = end.last_at_ms or asked_at_ms
        assembly = LogAssembly(end.last_n + 1, last_at_ms=last_at_ms, lost=end.missing)
        assembly.expected = entry.lines_sent
        fresh = OpenLog(
            entry,
            assembly,
            size_bytes=end.size_bytes,
            quiet_since_s=self._clock.monotonic_s(),
            is_known=end.last_n > 0,
            must_look=key in self._unwritten,
        )
        self._unwritten.discard(key)
        self._open[key] = self._streams[fresh.stream] = fresh
        return fresh

    async def _take(self, page: Sequence[LogEvent]) -> None:
        for start in range(0, len(page), EVENTS_A_STEP):
            self._take_some(page[start : start + EVENTS_A_STEP])
            await checkpoint()

    def _take_some(self, events: Sequence[LogEvent]) -> None:
        touched: dict[str, OpenLog] = {}
        find, decode = self._streams.get, protocol.decode_log_line
        for event in events:
            each = find(event.stream)
            if each is not None and (line := decode(event.message)) is not None:
                each.assembly.add(line.n, event.at_ms, line.source, line.text)
                touched[event.stream] = each
        for each in touched.values():
            each.is_known = True
            self._append(each, each.assembly.take_ready())

    def _append(self, each: OpenLog, lines: list[StoredLine]) -> None:
        """Raises StorageFailed; what could not be written is read from CloudWatch again, from the file's end on."""
        if not lines:
            return
        each.quiet_since_s = self._clock.monotonic_s()
        room_bytes = (
            None if self._file_bytes_max is None else self._file_bytes_max - each.size_bytes
        )
        try:
            written, size_bytes = self._files.append(
                *each.key, lines, room_bytes=0 if each.is_full else room_bytes
            )
        except OSError as error:
            self._drop(each)
            self._unwritten.add(each.key)
            message = f"{self._files.path(*each.key)}: {error.strerror or error}"
            raise StorageFailed(message) from error
        each.size_bytes += size_bytes
        if written < len(lines):
            each.unkept += sum(not line.missing for line in lines[written:])
            if not each.is_full:
                log.warning("log_file_full", job_id=each.entry.job_id, attempt=each.entry.attempt)
            each.is_full = True

    def _give_up_holes(self) -> None:
        """Holes that have been waited for long enough; and the largest ones, when too much waits behind holes."""
        now_s = self._clock.monotonic_s()
        for each in list(self._open.values()):
            since_s = each.gap_since_s
            if each.assembly.pending and since_s is not None and now_s > since_s + HOLE_MAX_S:
                self._append(each, each.assembly.give_up_hole())
                each.gap_since_s = None
        while sum(each.assembly.pending for each in self._open.values()) > PENDING_ALL_MAX:
            largest = max(self._open.values(), key=lambda each: each.assembly.pending)
            self._append(largest, largest.assembly.give_up_hole())

    async def _save_counts(self, wanted: Mapping[Key, WantedLog]) -> None:
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        due: list[tuple[str, int, int]] = []
        for key, each in self._open.items():
            entry, seen = wanted[key], each.seen
            saved_s, saved = self._saved.get(key, (now_s - SAVE_S, entry.lines_seen))
            if seen > max(saved, entry.lines_seen) and (
                entry.lines_sent is not None or now_s - saved_s >= SAVE_S
            ):
                due.append((*key, seen))
        if not due:
            return

        await self._database.write(
            lambda connection: store.save_seen(connection, due, now_ms=now_ms)
        )
        for job_id, attempt, seen in due:
            self._saved[job_id, attempt] = (now_s, seen)
        self._wakes.machines.ring()

    def _save_cursor(self) -> None:
        """Up to where a daemon that starts need not read again. What waits behind holes is in memory only. Raises
        StorageFailed.
        """
        now_s, until_ms = self._clock.monotonic_s(), self._reads.until_ms
        if until_ms is None or now_s < self._cursor_s + SAVE_S:
            return
        holes_ms = [
            each.assembly.last_at_ms for each in self._open.values() if each.assembly.pending
        ]
        oldest_ms = until_ms - int(HOLE_MAX_S * 1000)
        self._cursor_s = now_s
        try:
            read_ms = max(oldest_ms, min([until_ms, *holes_ms]))
            self._files.write_cursor(read_ms, tenure=self._tenure)
        except OSError as error:
            message = f"{self._files.directory}: {error.strerror or error}"
            raise StorageFailed(message) from error
