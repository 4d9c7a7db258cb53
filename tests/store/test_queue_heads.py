"""The heads of a long queue: no project is hidden behind another one's jobs."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.store.engine import Database
from dstackd.store.jobs import queued_jobs
from dstackd.store.queue_heads import queue_heads
from dstackd.store.tables import JOB
from tests.builders import NOW_MS
from tests.store import rows
from tests.store.test_indices import plan_of


async def heads(connection: AsyncConnection, count_max: int = 4) -> set[str]:
    """Ids of the heads that are due now."""
    found = queue_heads(due_at_ms=NOW_MS, count_max=count_max)
    ids = await connection.execute(select(JOB.c.id).join(found, found.c.seq == JOB.c.seq))
    return set(ids.scalars())


async def queue(database: Database) -> None:
    """Six jobs of one project, then two of another, all due."""
    await rows.submit(database, *(f"job-{number}" for number in range(8)))
    await rows.run(database, "UPDATE job SET project = 'late' WHERE id IN ('job-6', 'job-7')")
    await rows.run(
        database, "UPDATE job SET phase = 'queued', version = 1, next_visit_at_ms = :at", at=NOW_MS
    )


async def test_every_project_is_seen(either: Database) -> None:
    """However many jobs of another project are older."""
    await queue(either)
    assert await either.read(heads) == {"job-0", "job-1", "job-6", "job-7"}


async def test_a_long_queue_is_read_by_turns(either: Database) -> None:
    """A pass that sees no end of the queue sees every project; a short queue comes whole, oldest first."""
    await queue(either)

    async def ids(connection: AsyncConnection, count_max: int) -> list[str]:
        jobs = await queued_jobs(connection, due_at_ms=NOW_MS, count_max=count_max)
        return [job.id for job in jobs]

    assert await either.read(lambda c: ids(c, 4)) == ["job-0", "job-1", "job-6", "job-7"]
    assert await either.read(lambda c: ids(c, 9)) == [f"job-{number}" for number in range(8)]


async def test_priority_comes_before_the_share(either: Database) -> None:
    """A project of low priority gets what is left."""
    await queue(either)
    await rows.run(either, "UPDATE job SET priority = 1 WHERE project = 'main' AND id <> 'job-0'")
    assert await either.read(heads) == {"job-1", "job-2", "job-3", "job-4"}


async def test_who_is_not_due_takes_no_place(either: Database) -> None:
    """Nor does a job that is in another phase."""
    await queue(either)
    await rows.run(
        either, "UPDATE job SET next_visit_at_ms = :at WHERE id = 'job-6'", at=NOW_MS + 1
    )
    await rows.submit(either, "job-8")
    assert await either.read(heads) == {"job-0", "job-1", "job-2", "job-7"}


async def test_only_the_queue_is_read(database: Database) -> None:
    """Jobs that are over, held, not due or on machines are not; nor is any row, but those of the heads."""
    plan = await plan_of(database, lambda c: queued_jobs(c, due_at_ms=NOW_MS, count_max=4))
    assert "SEARCH job USING COVERING INDEX job_queued (phase=? AND held=? AND next_visit" in plan
    assert [line for line in plan.splitlines() if " job " in line][1:] == [
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)"
    ]
