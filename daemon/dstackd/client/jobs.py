"""What an application says of a job, and is told. Law: values only; nothing here has seen a connection."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from dstackd.spec.parse import parse_spec, parse_spec_json

Spec: TypeAlias = Mapping[str, Any] | str
"""A job spec: a mapping, or its JSON text."""
Dialect: TypeAlias = Literal["sqlite", "postgresql"]

POLL_S: Final = 0.5
POLL_MAX_S: Final = 5.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class UnknownJob(LookupError):
    """No row has this id, or the transaction does not see it yet."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """One row to be."""

    spec: Spec
    job_id: str | None = field(default=None, kw_only=True)
    """1 to 64 of a-z, 0-9 and -; None: a random one."""
    project: str = field(default="main", kw_only=True)
    priority: int = field(default=0, kw_only=True)
    """From -1000 to 1000, the highest first."""
    unique_key: str | None = field(default=None, kw_only=True)
    """1 to 200 characters; the project has one job with it, as long as that job's row is kept."""
    run_at: datetime | None = field(default=None, kw_only=True)
    """Not before this moment; it needs a time zone."""


class Enqueued(NamedTuple):
    """A job that is in the queue."""

    job_id: str
    is_new: bool
    """False: a job with the unique key was there already, and this is its id."""


class JobStatus(NamedTuple):
    """One row of the view `job_status`, as far as an application asks. Times are UTC, money is US dollars."""

    id: str
    name: str
    project: str
    state: str
    """waiting, starting, running, finishing, succeeded, failed, cancelled or rejected."""
    phase: str
    reason: str | None
    """Why the job is in its phase, as a word: see CONTRACT.md."""
    message: str
    """The same for people: what it waits for, or how it ended."""
    finished: bool
    exit_code: int | None
    attempt: int
    cost_usd: float
    submitted_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def succeeded(self) -> bool:
        """Over, with exit code 0."""
        return self.phase == "succeeded"


class Patience:
    """How long a wait goes on: looks that come half a second apart at first, and 5 s later."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._pause_s = POLL_S

    def pause_s(self, seen: JobStatus) -> float:
        """Before the next look at a job that is not over. Raises TimeoutError."""
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 1.5, POLL_MAX_S)
        if self._deadline_s is not None and time.monotonic() + pause_s > self._deadline_s:
            raise TimeoutError(
                f"job {seen.id} is not over after {self._timeout_s} s: {seen.phase}, {seen.message}"
            )
        return pause_s


def row_of(job: NewJob, *, dialect: Dialect) -> tuple[object, ...]:
    """The values of the columns id, spec, project, priority, unique_key and run_at. Raises SpecError, ValueError."""
    job_id = secrets.token_hex(8) if job.job_id is None else job.job_id
    run_at = None if job.run_at is None else _moment(job.run_at, dialect=dialect)
    return (job_id, _text_of(job.spec), job.project, job.priority, job.unique_key, run_at)


def status_of(row: Sequence[Any]) -> JobStatus:
    """From the columns in `steps.STATUS_COLUMNS`."""
    *words, finished, exit_code, attempt, cost_usd, submitted, run_at, started, ended = row
    return JobStatus._make(
        (
            *(*words, bool(finished), exit_code, attempt, float(cost_usd)),
            _EPOCH + timedelta(milliseconds=submitted),
            *map(_time_of, (run_at, started, ended)),
        )
    )


def _text_of(spec: Spec) -> str:
    """JSON that the daemon accepts."""
    if isinstance(spec, str):
        parse_spec_json(spec)
        return spec
    plain = dict(spec)
    parse_spec(plain)
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _moment(at: datetime, *, dialect: Dialect) -> datetime | str:
    if at.tzinfo is None:
        raise ValueError(
            f"run_at: {at} has no time zone; give it one, such as datetime.now(UTC) + timedelta(hours=1)"
        )
    utc = at.astimezone(UTC)
    # SQLite's own date functions read this form, and no type of time.
    return (
        utc
        if dialect == "postgresql"
        else utc.replace(tzinfo=None).isoformat(" ", timespec="milliseconds")
    )


def _time_of(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else _EPOCH + timedelta(milliseconds=at_ms)
