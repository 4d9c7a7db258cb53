"""Log lines of jobs while they run. Law: one thread a follower; each line once and in order, also across a restart of the daemon."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dstackd.demo import api

_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class FollowedLine:
    """A line of a job's output; `n` counts from 1 in each attempt."""

    job: str
    attempt: int
    n: int
    text: str


class Follower:
    """Follows one job from its first line to its end."""

    def __init__(self, socket_path: Path, *, job: str, job_id: str) -> None:
        """`job` is the name under which the lines are passed on."""
        self._socket_path = socket_path
        self._job = job
        self._job_id = job_id
        self._lines: queue.SimpleQueue[FollowedLine] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._after = ""
        self.ended = threading.Event()
        """Set once the daemon has said that no line can come any more."""
        threading.Thread(target=self._follow, name=f"follow {job}", daemon=True).start()

    def take(self) -> list[FollowedLine]:
        """The lines that have come since the last call."""
        return [self._lines.get() for _ in range(self._lines.qsize())]

    def stop(self) -> None:
        """Follow no further than the current connection."""
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.is_set() and not self.ended.is_set():
            target = f"/v1/jobs/{self._job_id}/logs?follow=1{self._after}"
            try:
                for entry in api.json_lines(self._socket_path, target):
                    self._take_in(entry)
            except api.Unavailable:
                pass  # the daemon is away: it is asked again behind the last line
            self._stopped.wait(_AGAIN_S)

    def _take_in(self, entry: dict[str, Any]) -> None:
        if "end" in entry:
            self.ended.set()
            return
        last_n = entry["n"] + entry.get("missing", 1) - 1
        self._after = f"&after={entry['attempt']}:{last_n}"
        if "log" in entry:
            line = FollowedLine(self._job, entry["attempt"], entry["n"], entry["log"])
            self._lines.put(line)


def stored_lines(socket_path: Path, job_id: str) -> dict[int, list[str]]:
    """What the daemon has of a job's output, by attempt. Raises api.Unavailable."""
    lines: dict[int, list[str]] = {}
    for entry in api.json_lines(socket_path, f"/v1/jobs/{job_id}/logs"):
        if "log" in entry:
            lines.setdefault(entry["attempt"], []).append(entry["log"])
    return lines
