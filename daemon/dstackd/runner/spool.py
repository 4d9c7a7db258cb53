"""A queue on disk: lines wait here until CloudWatch has taken them. Law: one appender at a time, one
reader; a record is whole or not there.

A segment is removed once the one behind it has been read, too: whoever reads sends what it read before it
reads that much more, so that after a crash the disk holds all that was not sent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

SEGMENT_BYTES = 16 * 1024 * 1024
READ_BYTES = 262_144


class Spool:
    """Records (bytes without a line feed) in the order in which they were appended."""

    def __init__(self, folder: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._write_number = 0
        self._write_fd = self._create(0)
        self._written_bytes = 0
        self._read_number = 0
        self._read_fd = os.open(self._path(0), os.O_RDONLY)
        self._read_bytes = 0
        self._ready: deque[bytes] = deque()
        self._closed = False

    def append(self, records: Sequence[bytes]) -> bool:
        """Write the records, all or none; False when the disk does not take them."""
        chunk = b"".join(record + b"\n" for record in records)
        try:
            if self._written_bytes >= self._segment_bytes:
                self._roll()
            written = 0
            while written < len(chunk):
                at = self._written_bytes + written
                written += os.pwrite(self._write_fd, chunk[written:], at)
        except OSError:
            # Only for who reads after a crash: what comes next is written over it.
            with suppress(OSError):
                os.ftruncate(self._write_fd, self._written_bytes)
            return False
        self._written_bytes += len(chunk)
        return True

    def read(self) -> bytes | None:
        """The next record; None when all have been read for now."""
        if not self._ready:
            self._read_more()
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Close the files; they stay, and nothing can be appended or read any more."""
        if not self._closed:
            self._closed = True
            os.close(self._write_fd)
            os.close(self._read_fd)

    def _read_more(self) -> None:
        """Some records, if there are any. What an append has not come to the end of may be taken back."""
        while True:
            # In this order: what was rolled meanwhile has been written to its end.
            last = self._read_number == self._write_number
            end = self._written_bytes if last else os.fstat(self._read_fd).st_size
            if self._read_bytes < end:
                self._take(end - self._read_bytes)
                return
            if last:
                return
            self._next_segment()

    def _take(self, size_bytes: int) -> None:
        chunk = os.pread(self._read_fd, min(size_bytes, READ_BYTES), self._read_bytes)
        if b"\n" not in chunk:  # a record that is longer
            chunk = os.pread(self._read_fd, size_bytes, self._read_bytes)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        self._ready.extend(whole.split(b"\n")[:-1])

    def _roll(self) -> None:
        number = self._write_number + 1
        fresh = self._create(number)
        old, self._write_fd = self._write_fd, fresh
        self._written_bytes = 0
        self._write_number = number
        os.close(old)

    def _next_segment(self) -> None:
        os.close(self._read_fd)
        if self._read_number > 0:
            os.unlink(self._path(self._read_number - 1))
        self._read_number += 1
        self._read_fd = os.open(self._path(self._read_number), os.O_RDONLY)
        self._read_bytes = 0

    def _create(self, number: int) -> int:
        # O_CLOEXEC is Python's default: the job does not get the file.
        return os.open(self._path(number), os.O_WRONLY | os.O_CREAT, 0o600)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:06d}.log")
