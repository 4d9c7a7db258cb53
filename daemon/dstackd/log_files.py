"""The jobs' output on the control host: one file an attempt, JSON lines in line order. Law: one writer, any number of readers.

A line is `{"n": 1, "at_ms": ..., "source": "stdout", "log": "text"}`; `n` counts from 1. A hole that will never be
filled is one line `{"n": first missing, "missing": count}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dstackd.core.log_line import StoredLine

__all__ = ["LogFiles", "StoredLine"]

_SAFE_ID = re.compile(r"[a-z0-9-]{1,80}")
_TAIL_BYTES = 1_048_576


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

    def append(self, job_id: str, attempt: int, lines: Sequence[StoredLine]) -> None:
        """Write lines at the end; they must continue what is there."""
        path = self.path(job_id, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.writelines(_dump(line) for line in lines)

    def last_n(self, job_id: str, attempt: int) -> int:
        """Number of the last line stored, 0 when there is none. A torn last line (crash) is cut off."""
        path = self.path(job_id, attempt)
        if not path.exists():
            return 0
        with path.open("rb+") as file:
            size = file.seek(0, 2)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            file.truncate(start + len(whole))
        lines = whole.splitlines()
        return _load(lines[-1]).last_n if lines else 0

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
        return json.dumps({"n": line.n, "missing": line.missing}) + "\n"
    value = {"n": line.n, "at_ms": line.at_ms, "source": line.source, "log": line.log}
    return json.dumps(value, ensure_ascii=True) + "\n"


def _load(raw: bytes) -> StoredLine:
    value = json.loads(raw)
    return StoredLine(
        n=value["n"],
        at_ms=value.get("at_ms", 0),
        source=value.get("source", ""),
        log=value.get("log", ""),
        missing=value.get("missing", 0),
    )
