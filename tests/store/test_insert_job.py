"""The API's INSERT is the one that an application would write, on either database."""

from __future__ import annotations

from functools import partial

from dstackd.store import held, queries
from dstackd.store.engine import Database
from tests.store.rows import SPEC, job, rows, run


async def test_a_job_with_a_key_and_a_time(either: Database) -> None:
    """The same key again gives the same job, whatever else was asked; `main` is the project of who names none."""
    insert = partial(queries.insert_job, spec=SPEC, unique_key="k", run_at="2037-01-31T05:00:00Z")
    assert await either.write(partial(insert, job_id="a")) == ("a", True)
    again = partial(insert, job_id="b", project="main", priority=5)
    assert await either.write(again) == ("a", False)
    other = partial(insert, job_id="c", project="p", run_at=None)
    assert await either.write(other) == ("c", True)
    row = await job(either, "a")
    assert (row["unique_key"], row["run_at_ms"], row["priority"]) == ("k", 2_116_990_800_000, 0)


async def test_held_jobs_are_found_when_they_are_due(either: Database) -> None:
    """The most overdue first; of two backends each sees its own."""
    for number, backend in ((1, "a"), (2, "b"), (3, "a")):
        await run(
            either,
            "INSERT INTO job (id, spec) VALUES (:id, :spec)",
            id=f"job-{number}",
            spec=SPEC,
        )
        await run(
            either,
            "UPDATE job SET phase = 'queued', held = 1, next_visit_at_ms = :at, backend = :backend WHERE id = :id",
            id=f"job-{number}",
            at=1000 - number,
            backend=backend,
        )
    due = partial(held.held_jobs, due_at_ms=998, count_max=9)
    assert [each.id for each in await either.read(due)] == ["job-3", "job-2"]
    assert [each.id for each in await either.read(partial(due, backend="a"))] == ["job-3"]
    assert await either.read(held.next_held_visit) == 997
    assert await either.read(partial(held.next_held_visit, backend="b")) == 998
    assert len(await rows(either, "SELECT 1 AS n FROM job WHERE held = 1")) == 3
