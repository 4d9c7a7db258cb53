"""The jobs' output on the control host: one file an attempt, JSON lines in line order. Law: one writer, any number of readers.

A line is `{"n": 1, "at_ms": ..., "source": "stdout", "log": "text"}` in UTF-8; `n` counts from 1. A hole that will never
be filled is one line `{"n": first missing, "missing": count}`.
"""

from __future__ import annotations

import itertools
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dstackd.core.log_line import StoredLine

__all__ = ["FileEnd", "LogFiles", "StoredLine"]

_SAFE_ID = re.compile(r"[a-z0-9-]{1,80}")
_TAIL_BYTES = 1_048_576
_HOLE = re.compile(rb'[^\\]"missing": ([0-9]+)}')
"""Inside a text, a quotation mark has a backslash before it."""
_CURSOR = "swept.json"

_quoted = json.encoder.encode_basestring
"""What `json.dumps(ensure_ascii=False)` makes of a string."""


@dataclass(frozen=True, slots=True)
class FileEnd:
    """How far an attempt's file goes: its last line's number and time (0: it has none), how many lines are named as
    missing in it, and its size.
    """

    last_n: int = 0
    last_at_ms: int = 0
    missing: int = 0
    size_bytes: int = 0


class LogFiles:
    """Files below one directory: `<job id>/<attempt>.jsonl`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, job_id: str, attempt: int) -> Path:
        """Where the attempt's lines are. Ids that could leave the directory raise ValueError."""
        if not _SAFE_ID.fullmatch(job_id):
            message = f"not a job id: {job_id!r}"
            raise ValueError(message)
        return self.directory / job_id / f"{attempt}.jsonl"

    def append(
        self,
        job_id: str,
        attempt: int,
        lines: Sequence[StoredLine],
        *,
        room_bytes: int | None = None,
    ) -> tuple[int, int]:
        """Write lines at the end, as many of them as `room_bytes` has room for; they must continue what is there. Returns
        how many were written, and their bytes. Raises OSError.
        """
        encoded = [_dump(line).encode("utf-8", "surrogatepass") for line in lines]
        if room_bytes is not None:
            ends = list(itertools.accumulate(map(len, encoded)))
            del encoded[bisect_right(ends, room_bytes) :]
        path = self.path(job_id, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            return len(encoded), file.write(b"".join(encoded))

    def end(self, job_id: str, attempt: int) -> FileEnd:
        """How far the file goes; reads all of it. A torn last line (crash) is cut off."""
        path = self.path(job_id, attempt)
        if not path.exists():
            return FileEnd()
        with path.open("rb+") as file:
            size_bytes = _cut_torn_line(file)
            if not size_bytes:
                return FileEnd()
            file.seek(0)
            missing = _count_missing(file)
            last = _last_line(file, size_bytes)
        return FileEnd(last.last_n, last.at_ms, missing, size_bytes)

    def read_cursor(self, *, tenure: int = 0) -> int | None:
        """The time that `write_cursor` wrote last; None when another daemon has owned the backend since, whose lines are not here."""
        try:
            written = json.loads((self.directory / _CURSOR).read_bytes())
            follows = tenure - int(written.get("tenure", 0)) <= 1
            return int(written["until_ms"]) if follows else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write_cursor(self, until_ms: int, *, tenure: int = 0) -> None:
        """Remember up to which event time the group was read, by the owner of which number. Losing it costs only that more is read
        again.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        fresh = self.directory / f"{_CURSOR}.new"
        fresh.write_text(json.dumps({"until_ms": until_ms, "tenure": tenure}))
        fresh.replace(self.directory / _CURSOR)

    def read(
        self, job_id: str, attempt: int, *, offset: int = 0, bytes_max: int = _TAIL_BYTES
    ) -> tuple[list[StoredLine], int]:
        """(whole lines from byte `offset` on, the offset behind them); nothing new: ([], offset)."""
        path = self.path(job_id, attempt)
        if not path.exists():
            return [], offset
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(bytes_max)
            while chunk and b"\n" not in chunk and (more := file.read(bytes_max)):
                chunk += more
        whole = chunk[: chunk.rfind(b"\n") + 1]
        return [_load(line) for line in whole.splitlines()], offset + len(whole)

    def job_ids(self) -> set[str]:
        """Jobs that have a log here."""
        if not self.directory.exists():
            return set()
        return {entry.name for entry in self.directory.iterdir() if _SAFE_ID.fullmatch(entry.name)}

    def remove(self, job_id: str) -> None:
        """Delete every log of the job."""
        folder = self.path(job_id, 1).parent
        for path in _files(folder):
            path.unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("*.jsonl")) if folder.exists() else ())


def _dump(line: StoredLine) -> str:
    if line.missing:
        return f'{{"n": {line.n}, "missing": {line.missing}}}\n'
    source, log = _quoted(line.source), _quoted(line.log)
    return f'{{"n": {line.n}, "at_ms": {line.at_ms}, "source": {source}, "log": {log}}}\n'


def _cut_torn_line(file: BinaryIO) -> int:
    """Cut off what is behind the last line end; the size then. A line is at most some hundred KB long."""
    size_bytes = file.seek(0, 2)
    start = max(0, size_bytes - _TAIL_BYTES)
    file.seek(start)
    size_bytes = start + file.read().rfind(b"\n") + 1
    file.truncate(size_bytes)
    return size_bytes


def _count_missing(file: BinaryIO) -> int:
    missing, rest = 0, b""
    while chunk := file.read(_TAIL_BYTES):
        chunk = rest + chunk
        whole = chunk.rfind(b"\n") + 1
        missing += sum(int(found) for found in _HOLE.findall(chunk[:whole]))
        rest = chunk[whole:]
    return missing


def _last_line(file: BinaryIO, size_bytes: int) -> StoredLine:
    start = max(0, size_bytes - _TAIL_BYTES)
    file.seek(start)
    return _load(file.read().splitlines()[-1])


def _load(raw: bytes) -> StoredLine:
    value = json.loads(raw)
    return StoredLine(
        n=value["n"],
        at_ms=value.get("at_ms", 0),
        source=value.get("source", ""),
        log=value.get("log", ""),
        missing=value.get("missing", 0),
    )
