"""How many statements the work on many rows takes: a handful, whatever the number of jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from dstackd.clock import SystemClock
from dstackd.controllers.intake import Intake
from dstackd.core.phase import Phase, Reason
from dstackd.store.engine import Database
from dstackd.store.jobs import queued_jobs
from dstackd.store.moves import Move, save_moves, visit_later
from dstackd.wake import Wakes
from tests.store import rows

JOBS = 100


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements that go to the database, without BEGIN and COMMIT."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401 - as SQLAlchemy gives it
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    engines = {database._writer.sync_engine, database._reader.sync_engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield seen
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


async def submit_many(database: Database) -> None:
    """A hundred different jobs."""
    for number in range(JOBS):
        spec = json.dumps({"commands": [f"echo {number}"]})
        await rows.run(database, "INSERT INTO job (spec) VALUES (:spec)", spec=spec)


async def test_taking_in_a_hundred(either: Database) -> None:
    """A read, the guard (SQLite), one update of all rows, one insert of all events; and a look at what there is beside."""
    await submit_many(either)
    intake = Intake(
        either, admit=lambda _: None, clock=SystemClock(), wakes=Wakes(), interval_s=1.0
    )
    with counted(either) as statements:
        await intake._take_in()
    assert await phases(either) == {"queued": JOBS}
    writes = [each for each in statements if not each.startswith("SELECT")]
    assert len(writes) == 2, statements
    assert len(statements) <= 6, statements


async def test_looking_at_and_ending_a_hundred(either: Database) -> None:
    """One read of the queue; then the guard (SQLite), an update, an insert, and the waking of those that need them."""
    await submit_many(either)
    await rows.run(either, "UPDATE job SET phase = 'queued', version = 1")
    with counted(either) as looking:
        jobs = await either.read(lambda c: queued_jobs(c, due_at_ms=1, count_max=JOBS))
    assert len(jobs) == JOBS
    assert len(looking) == 1, looking
    moves = [
        Move(job.id, job.version, job.phase, 5, phase=Phase.FAILED, reason=Reason.NO_OFFERING)
        for job in jobs
    ]
    with counted(either) as ending:
        await either.write(lambda c: save_moves(c, moves))
    assert await phases(either) == {"failed": JOBS}
    assert len(ending) <= 4, ending


async def test_putting_a_hundred_off(either: Database) -> None:
    """One update."""
    await submit_many(either)
    ids = [row["id"] for row in await rows.rows(either, "SELECT id FROM job")]
    with counted(either) as statements:
        await either.write(
            lambda c: visit_later(c, [(job_id, 0) for job_id in ids], next_visit_at_ms=7)
        )
    assert len(statements) == 1, statements
    assert await rows.rows(either, "SELECT DISTINCT next_visit_at_ms AS at FROM job") == [{"at": 7}]


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 2**70])
async def test_a_value_that_no_column_takes_stops_no_other_row(
    either: Database,
    value: Any,  # noqa: ANN401 - text or number
) -> None:
    """In a statement of many rows as in one of its own: it is made legible, and the others are as they were written."""
    await rows.accept(either, "job-1", "job-2")
    wrong = {"message": value} if isinstance(value, str) else {"next_visit_at_ms": value}
    moves = [
        Move("job-1", 1, Phase.QUEUED, 5, reason=Reason.NO_OFFERING, **wrong),
        Move("job-2", 1, Phase.QUEUED, 5, reason=Reason.NO_OFFERING, message="as it is"),
    ]
    await either.write(lambda c: save_moves(c, moves))
    found = await rows.rows(either, "SELECT version, message FROM job ORDER BY id")
    assert [row["version"] for row in found] == [2, 2]
    assert found[1]["message"] == "as it is"


async def phases(database: Database) -> dict[str, int]:
    """How many jobs are where."""
    found = await rows.rows(database, "SELECT phase, count(*) AS n FROM job GROUP BY phase")
    return {row["phase"]: row["n"] for row in found}
