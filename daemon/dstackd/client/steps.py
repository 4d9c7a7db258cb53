"""What is asked of the database. Law: generators that yield statements and are sent rows, so that both kinds of connection share them.

A statement has `?` for its values, and none within a text; the connection writes them as its driver wants them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from dstackd.client.jobs import Dialect, Enqueued, JobStatus, NewJob, UnknownJob, row_of, status_of

T = TypeVar("T")


class Statement(NamedTuple):
    """One SQL statement and its values."""

    sql: str
    values: tuple[object, ...] = ()


Rows: TypeAlias = Sequence[Sequence[Any]]
Steps: TypeAlias = Generator[Statement, Rows, T]
"""Yields statements, is sent the rows of each (none: empty), returns the answer."""

STATUS_COLUMNS: Final = (
    *("id", "name", "project", "state", "phase", "reason", "message", "finished", "exit_code"),
    *("attempt", "cost_usd", "submitted_at_ms", "run_at_ms", "started_at_ms", "finished_at_ms"),
)
ROWS_MAX: Final = 100
"""Rows of one INSERT: six values each, and SQLite before 3.32 takes 999 values."""
_COLUMNS: Final = ("id", "spec", "project", "priority", "unique_key", "run_at")
_INSERT: Final = f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES "  # noqa: S608 - our own names
_ONE_ROW: Final = f"({', '.join('?' * len(_COLUMNS))})"


def insert_jobs(jobs: Sequence[NewJob], *, dialect: Dialect) -> Steps[list[Enqueued]]:
    """Each job's id, in their order. A row that is there already, by its id or its unique key, is left as it is."""
    rows = [row_of(job, dialect=dialect) for job in jobs]
    new: set[object] = set()
    for start in range(0, len(rows), ROWS_MAX):
        some = rows[start : start + ROWS_MAX]
        places = ", ".join([_ONE_ROW] * len(some))
        sql = f"{_INSERT}{places} ON CONFLICT DO NOTHING RETURNING id"
        inserted = yield Statement(sql, tuple(value for row in some for value in row))
        new.update(job_id for (job_id,) in inserted)
    answers = []
    for row in rows:
        job_id = str(row[0])
        is_new = job_id in new
        new.discard(job_id)  # of two equal ids in one call, the first one is the row
        answers.append(Enqueued(job_id if is_new else (yield from _present(row)), is_new))
    return answers


def _present(row: Sequence[object]) -> Steps[str]:
    """The id of the row in whose favour this one was not inserted."""
    job_id, _, project, _, unique_key, _ = row
    sql = "SELECT id FROM job WHERE id = ? OR (project = ? AND unique_key = ?)"
    found = yield Statement(sql, (job_id, project, unique_key))
    if not found:
        raise UnknownJob(
            f"a job with the id {job_id} or the unique_key {unique_key} exists, but this transaction does not see it yet: "
            "try again in a new one"
        )
    return str(found[0][0])


def cancel_job(job_id: str) -> Steps[bool]:
    """Whether there is something to end."""
    found = yield Statement("SELECT finished_at_ms FROM job WHERE id = ?", (job_id,))
    if not found:
        raise _unknown(job_id)
    if found[0][0] is not None:
        return False
    yield Statement(
        "UPDATE job SET cancel_requested = 1 WHERE id = ? AND cancel_requested = 0 AND finished_at_ms IS NULL",
        (job_id,),
    )
    return True


def read_status(job_id: str) -> Steps[JobStatus]:
    """One row of `job_status`."""
    sql = f"SELECT {', '.join(STATUS_COLUMNS)} FROM job_status WHERE id = ?"  # noqa: S608 - our own names
    found = yield Statement(sql, (job_id,))
    if not found:
        raise _unknown(job_id)
    return status_of(found[0])


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"there is no job {job_id}; one that another transaction has inserted is seen after its commit"
    )
