"""One reader's way through the stored log of a job. Law: constant memory, each line once and in order, and a hole is told.

The row is read before the file: what the file holds then is at least what the row speaks of.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from dstackd.http.following import FollowBoard
from dstackd.http.log_steps import (
    Position,
    Selection,
    Step,
    is_over,
    missing_at_end,
    next_step,
)
from dstackd.http.responses import json_line
from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import Clock
from dstackd.store.queries import LogProgress

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
    ) -> None:
        self._log_files = log_files
        self._job_id = job_id
        self._asked = asked
        self._board = board
        self._clock = clock
        self._at = Position(attempt=asked.first, last_n=asked.after)

    async def entries(self, progress: LogProgress) -> AsyncGenerator[bytes, None]:
        """JSON lines in chunks, the end last. An empty chunk means that a wait begins.

        Without an end the daemon is stopping: ask again behind the last line.
        """
        while True:
            async for chunk in self._stored():
                yield chunk
            now_s = self._clock.monotonic_s()
            match next_step(progress, self._at, self._asked, now_s=now_s):
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

    async def _stored(self) -> AsyncIterator[bytes]:
        """Everything of the attempt that is stored behind the position."""
        while lines := await self._read_chunk():
            self._at.quiet_since_s = None
            shown = [shown for line in lines if (shown := self._show(line)) is not None]
            if shown:
                yield b"".join(shown)

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

    def _show(self, line: StoredLine) -> bytes | None:
        """The line as the reader gets it; None when the reader has it already."""
        at = self._at
        if line.last_n <= at.last_n:
            return None
        first_n = max(line.n, at.last_n + 1)
        at.last_n = line.last_n
        shown: dict[str, Any] = {"attempt": at.attempt, "n": first_n}
        if line.missing:
            missing = line.last_n - first_n + 1
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
