"""A queue on disk: lines wait here until CloudWatch has taken them. Law: one appender at a time, one
reader; a record is whole or not there.

A segment is removed once the one behind it has been read, too: whoever reads sends what it read before it
reads that much more, so that after a crash the disk holds all that was not sent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO

SEGMENT_BYTES = 16 * 1024 * 1024


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
        self._reader: BinaryIO = open(self._path(0), "rb")  # noqa: SIM115 - lives as long as this

    def append(self, records: Sequence[bytes]) -> bool:
        """Write the records, all or none; False when the disk does not take them."""
        chunk = b"".join(record + b"\n" for record in records)
        try:
            if self._written_bytes >= self._segment_bytes:
                self._roll()
            written = os.write(self._write_fd, chunk)
            while written < len(chunk):
                written += os.write(self._write_fd, chunk[written:])
        except OSError:
            os.ftruncate(self._write_fd, self._written_bytes)
            return False
        self._written_bytes += len(chunk)
        return True

    def read(self) -> bytes | None:
        """The next record; None when all have been read for now."""
        while True:
            # In this order: what was rolled meanwhile has been written to its end.
            last = self._read_number == self._write_number
            start = self._reader.tell()
            record = self._reader.readline()
            if record.endswith(b"\n"):
                return record[:-1]
            self._reader.seek(start)
            if last:
                return None
            self._next_segment()

    def close(self) -> None:
        """Close the files; they stay, and nothing can be appended or read any more."""
        if not self._reader.closed:
            os.close(self._write_fd)
            self._reader.close()

    def _roll(self) -> None:
        number = self._write_number + 1
        fresh = self._create(number)
        old, self._write_fd = self._write_fd, fresh
        self._written_bytes = 0
        self._write_number = number
        os.close(old)

    def _next_segment(self) -> None:
        self._reader.close()
        if self._read_number > 0:
            os.unlink(self._path(self._read_number - 1))
        self._read_number += 1
        self._reader = open(self._path(self._read_number), "rb")  # noqa: SIM115 - see above

    def _create(self, number: int) -> int:
        # O_CLOEXEC is Python's default: the job does not get the file.
        return os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:06d}.log")
