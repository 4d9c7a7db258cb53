"""The job's output out of its pipes. Law: the pipe is read to its end whatever becomes of what was read: a job
whose pipe nobody reads stands still, and one whose pipe was closed gets SIGPIPE.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import IO

from dstackd.runner.job_log import JobLog
from dstackd.runner.unexpected import Unexpected

PIPE_BYTES = 65_536


class PipeReader:
    """Feeds the log with one of the job's outputs, in a thread of its own."""

    def __init__(
        self, source: str, pipe: IO[bytes], *, log: JobLog, say: Callable[[str], None]
    ) -> None:
        self._source = source
        self._pipe = pipe
        self._log = log
        self._unexpected = Unexpected(source, say)
        self._is_at_end = False
        self._thread = threading.Thread(target=self._run, name=source, daemon=True)

    def start(self) -> None:
        """Raises RuntimeError where there is no room for a thread."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until all was read."""
        self._thread.join(timeout_s)

    @property
    def is_well(self) -> bool:
        """Whether it reads, or has read all."""
        return self._is_at_end or self._thread.is_alive()

    def _run(self) -> None:
        # What cannot be read has been said, and `is_well` tells it.
        with contextlib.suppress(OSError), self._pipe:
            while (chunk := self._read()) != b"":
                if chunk is not None:
                    self._feed(chunk)
            self._is_at_end = True

    def _read(self) -> bytes | None:
        """What there is, nothing at the end, None to ask again. Raises OSError when the pipe is of no use any more."""
        try:
            return os.read(self._pipe.fileno(), PIPE_BYTES)
        except OSError as error:
            self._unexpected.met(error)
            raise
        except Exception as error:  # noqa: BLE001 - the job must not stand still
            time.sleep(self._unexpected.met(error))
        return None

    def _feed(self, chunk: bytes) -> None:
        try:
            self._log.feed(self._source, chunk)
        except Exception as error:  # noqa: BLE001 - the log has counted what it lost
            # No pause: the job waits for this thread.
            self._unexpected.met(error)
