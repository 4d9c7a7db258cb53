"""The job's output on its way to the spool. Law: never waits for the network; counts what the job
wrote, whether or not it could be kept.
"""

from __future__ import annotations

import threading
import time

from dstackd import protocol
from dstackd.runner.lines import LineSplitter, texts_of
from dstackd.runner.spool import Spool

STDOUT, STDERR = "stdout", "stderr"


class JobLog:
    """Numbers the lines of both sources in the order in which they arrive."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._splitters = {STDOUT: LineSplitter(), STDERR: LineSplitter()}
        self._lock = threading.Lock()
        self._at_ms = 0
        self.arrived = threading.Event()
        self.closed = threading.Event()
        self.lines = 0
        self.size_bytes = 0
        """UTF-8 bytes of the lines' texts, without line ends."""
        self.lost_lines = 0
        """Lines that the disk did not take."""

    def feed(self, source: str, chunk: bytes) -> None:
        """Bytes from a pipe; ignored once closed."""
        with self._lock:
            if not self.closed.is_set():
                self._keep(source, self._splitters[source].feed(chunk))

    def next_record(self) -> bytes | None:
        """The next line for CloudWatch, `<ms> <message>`; None when there is none now."""
        return self._spool.read()

    def close(self) -> None:
        """No more output: the last unfinished lines count now."""
        with self._lock:
            if self.closed.is_set():
                return
            for source, splitter in self._splitters.items():
                self._keep(source, splitter.finish())
            self.closed.set()
        self.arrived.set()

    def _keep(self, source: str, lines: list[bytes]) -> None:
        # The wall clock may be set back; CloudWatch wants a batch in time order.
        self._at_ms = max(self._at_ms, int(time.time() * 1000))
        records = []
        for line in lines:
            for text in texts_of(line, source=source):
                self.lines += 1
                self.size_bytes += len(text.encode())
                message = protocol.encode_log_line(
                    protocol.LogLine(n=self.lines, source=source, text=text)
                )
                records.append(f"{self._at_ms} {message}".encode())
        if not records:
            return
        if not self._spool.append(records):
            self.lost_lines += len(records)
        self.arrived.set()
