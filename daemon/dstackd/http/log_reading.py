"""One reader's way through the stored log of a job. Law: constant memory, each line once and in order, and a hole is told.

The row is read before the file: what the file holds then is at least what the row speaks of.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio.to_thread
import structlog

from dstackd.errors import CloudError
from dstackd.http.distant_logs import DistantLogs
from dstackd.http.following import FollowBoard
from dstackd.http.log_steps import (
    Position,
    Selection,
    Step,
    attempt_of,
    is_elsewhere,
    is_over,
    lacking_at_end,
    lines_seen,
    missing_at_end,
    next_step,
)
from dstackd.http.responses import json_line
from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import Clock
from dstackd.store.queries import LogProgress

log = structlog.get_logger(__name__)

CHUNK_BYTES = 262_144
INLINE_BYTES = 32_768
"""Up to this much is read in the loop itself: a thread costs more than 0.1 ms of parsing."""


class LogReader:
    """Where one reader is, and what comes next."""

    def __init__(
        self,
        log_files: LogFiles,
        *,
        job_id: str,
        asked: Selection,
        board: FollowBoard,
        clock: Clock,
        distant: DistantLogs | None = None,
    ) -> None:
        """`distant`: where lines are that have arrived at another daemon; None: nowhere."""
        self._log_files = log_files
        self._job_id = job_id
        self._asked = asked
        self._board = board
        self._clock = clock
        self._distant = distant
        self._at = Position(attempt=asked.first, last_n=asked.after, skipped=asked.after)

    async def entries(self, progress: LogProgress) -> AsyncGenerator[bytes, None]:
        """JSON lines in chunks, the end last. An empty chunk means that a wait begins.

        Without an end the daemon is stopping: ask again behind the last line.
        """
        while True:
            async for chunk in self._stored(progress):
                yield chunk
            now_s = self._clock.monotonic_s()
            step = next_step(progress, self._at, self._asked, now_s=now_s)
            is_last_word = step is not Step.WAIT and is_over(progress, self._at.attempt)
            async for chunk in self._behind_the_file(progress, is_last_word=is_last_word):
                yield chunk
            match step:
                case Step.WAIT:
                    if self._at.quiet_since_s is None and is_over(progress, self._at.attempt):
                        self._at.quiet_since_s = now_s
                    yield b""
                    fresh = await self._board.next(self._job_id)
                    if fresh is None:
                        return
                    progress = fresh
                case Step.NEXT_ATTEMPT:
                    self._count_missing(missing_at_end(progress, self._at))
                    numbers = (each.number for each in progress.attempts)
                    self._at.move_on(min(n for n in numbers if n > self._at.attempt))
                case Step.END:
                    self._count_missing(missing_at_end(progress, self._at))
                    yield json_line({"end": self._end(progress)})
                    return

    async def _stored(self, progress: LogProgress) -> AsyncIterator[bytes]:
        """Everything of the attempt that is stored behind the position."""
        while lines := await self._read_chunk():
            self._at.quiet_since_s = None
            for is_hole, some in groupby(lines, key=lambda line: line.missing > 0):
                if not is_hole:
                    if shown := self._show_all(some):
                        yield shown
                    continue
                for hole in some:
                    async for chunk in self._hole(progress, hole):
                        yield chunk

    async def _hole(self, progress: LogProgress, hole: StoredLine) -> AsyncIterator[bytes]:
        """A hole of the file; its lines, where they have arrived at another daemon."""
        if is_elsewhere(progress, self._at, hole):
            async for chunk in self._from_afar(progress, hole, tells_holes=True):
                yield chunk
        if shown := self._show_all([hole]):
            yield shown

    async def _behind_the_file(
        self, progress: LogProgress, *, is_last_word: bool
    ) -> AsyncIterator[bytes]:
        """Lines that have arrived at another daemon; with the last word, also what is not to be had."""
        at = self._at
        hole = lacking_at_end(progress, at, is_last_word=is_last_word)
        seen = lines_seen(progress, at.attempt)
        if hole is None or (not is_last_word and at.asked_up_to >= seen):
            return
        at.asked_up_to = seen
        async for chunk in self._from_afar(progress, hole, tells_holes=is_last_word):
            yield chunk
        if is_last_word and (shown := self._show_all([hole])):
            yield shown

    async def _from_afar(
        self, progress: LogProgress, hole: StoredLine, *, tells_holes: bool
    ) -> AsyncIterator[bytes]:
        """What CloudWatch has of the hole behind the position."""
        at, attempt = self._at, attempt_of(progress, self._at.attempt)
        first_n = max(hole.n, at.last_n + 1)
        if self._distant is None or attempt is None or hole.last_n < first_n:
            return
        wanted = StoredLine(first_n, missing=hole.last_n - first_n + 1)
        found = self._distant.lines(
            self._job_id,
            at.attempt,
            hole=wanted,
            is_open=tells_holes and attempt.lines_sent is None,
            launched_at_ms=attempt.launched_at_ms,
        )
        try:
            async for lines in found:
                if not tells_holes and any(line.missing for line in lines):
                    return
                if shown := self._show_all(lines):
                    yield shown
        except CloudError as error:
            log.warning("log_not_read", job_id=self._job_id, problem=str(error))

    async def _read_chunk(self) -> list[StoredLine]:
        at = self._at
        pending_bytes = _size_bytes(self._log_files.path(self._job_id, at.attempt)) - at.offset
        if pending_bytes <= 0:
            return []
        read = partial(
            self._log_files.read,
            self._job_id,
            at.attempt,
            offset=at.offset,
            bytes_max=CHUNK_BYTES,
        )
        is_small = pending_bytes <= INLINE_BYTES
        lines, at.offset = read() if is_small else await anyio.to_thread.run_sync(read)
        return lines

    def _show_all(self, lines: Iterable[StoredLine]) -> bytes:
        return b"".join(shown for line in lines if (shown := self._show(line)) is not None)

    def _show(self, line: StoredLine) -> bytes | None:
        """The line as the reader gets it; None when the reader has it already."""
        at = self._at
        if line.last_n <= at.last_n:
            return None  # also a hole whose lines came from elsewhere
        first_n = max(line.n, at.last_n + 1)
        at.last_n = line.last_n
        shown: dict[str, Any] = {"attempt": at.attempt, "n": first_n}
        if line.missing:
            missing = line.last_n - first_n + 1
            at.holes += missing
            self._count_missing(missing)
            return json_line({**shown, "missing": missing})
        at.lines += 1
        return json_line({**shown, "at_ms": line.at_ms, "source": line.source, "log": line.log})

    def _count_missing(self, missing: int | None) -> None:
        known = self._at.missing
        self._at.missing = None if known is None or missing is None else known + missing

    def _end(self, progress: LogProgress) -> dict[str, Any]:
        return {
            "phase": progress.phase,
            "reason": progress.reason,
            "message": progress.message,
            "exit_code": progress.exit_code,
            "lines": self._at.lines,
            "missing": self._at.missing,
            "verdicts": {
                str(each.number): each.verdict
                for each in progress.attempts
                if each.verdict and self._asked.attempt in {None, each.number}
            },
        }


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
