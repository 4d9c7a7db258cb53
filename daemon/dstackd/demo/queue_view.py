"""The queue as anybody may read it. Law: plain SQL on a read-only connection; never writes, never waits for the daemon."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "rejected"})
_BUSY_S: Final = 10.0
"""A database that a killed daemon left is repaired by the next one that opens it."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a job; None is what is not known yet."""

    number: int
    market: str
    instance_id: str | None
    instance_type: str
    outcome: str | None
    started_at_ms: int | None
    artifact_bytes: int | None
    log_lines_sent: int | None
    log_lines_seen: int


@dataclass(frozen=True, slots=True)
class JobView:
    """One row of `job` and its attempts."""

    id: str
    name: str
    """As the demo calls it; an element of an array is `name[index]`."""
    array_parent: str | None
    attempts: tuple[AttemptView, ...]
    phase: str
    reason: str
    message: str
    exit_code: int | None
    cost_usd: float
    submitted_at_ms: int
    finished_at_ms: int | None

    @property
    def is_over(self) -> bool:
        return self.phase in TERMINAL

    @property
    def last(self) -> AttemptView | None:
        """The current attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def log_lines(self) -> int:
        """Seen so far, over all attempts."""
        return sum(attempt.log_lines_seen for attempt in self.attempts)

    @property
    def artifact_bytes(self) -> int:
        return sum(attempt.artifact_bytes or 0 for attempt in self.attempts)


@dataclass(frozen=True, slots=True)
class LaunchView:
    """One intent of RunInstances."""

    client_token: str
    count: int
    state: str


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of the history. `phase` None: the job waits, and the message says for what."""

    id: int
    at_ms: int
    job_id: str
    phase: str | None
    attempt: int | None
    message: str


class QueueView:
    """Reads the queue's file."""

    def __init__(self, database: Path, *, names: Mapping[str, str]) -> None:
        """`names`: what the demo calls the jobs, by id."""
        self._names = dict(names)
        self._connection = sqlite3.connect(
            f"{database.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None
        )

    def close(self) -> None:
        self._connection.close()

    def jobs(self) -> list[JobView]:
        """Every job in the order of insertion, with its attempts, as of one moment."""
        self._connection.execute("BEGIN")
        try:
            attempts: dict[str, list[AttemptView]] = {}
            for job_id, *columns in self._connection.execute(_ATTEMPTS):
                attempts.setdefault(job_id, []).append(AttemptView(*columns))
            rows = self._connection.execute(_JOBS).fetchall()
        finally:
            self._connection.execute("COMMIT")
        return [self._job(*row, attempts=tuple(attempts.get(row[0], ()))) for row in rows]

    def launches(self) -> list[LaunchView]:
        """Every intent."""
        return [LaunchView(*row) for row in self._connection.execute(_LAUNCHES)]

    def events(self, *, after: int) -> list[EventView]:
        """What happened to jobs behind the event with the number `after`."""
        rows = self._connection.execute(_EVENTS, (after,))
        return [EventView(*row) for row in rows]

    def name(self, job_id: str) -> str:
        """What the demo calls the job; elements are known once `jobs` has seen them."""
        return self._names.get(job_id, job_id)

    def _job(
        self,
        job_id: str,
        parent: str | None,
        index: int | None,
        *columns: Any,  # noqa: ANN401 - in the order of JobView's fields
        attempts: tuple[AttemptView, ...],
    ) -> JobView:
        if parent is not None:
            self._names[job_id] = f"{self._names.get(parent, parent)}[{index}]"
        return JobView(job_id, self.name(job_id), parent, attempts, *columns)


_JOBS = """SELECT id, array_parent, array_index, phase, coalesce(reason, ''), message, exit_code, cost_usd,
    submitted_at_ms, finished_at_ms FROM job ORDER BY seq"""
_ATTEMPTS = """SELECT job_id, number, market, instance_id, instance_type, outcome, started_at_ms,
    artifact_bytes, log_lines_sent, log_lines_seen FROM attempt ORDER BY job_id, number"""
_LAUNCHES = "SELECT client_token, count, state FROM launch ORDER BY created_at_ms"
_EVENTS = """SELECT id, at_ms, job_id, phase_to, attempt, message FROM event
    WHERE id > ? AND job_id IS NOT NULL AND kind IN ('submitted', 'phase', 'waiting') ORDER BY id"""
