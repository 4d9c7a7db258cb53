"""Attempts that their jobs have left while their machines go."""

from __future__ import annotations

import pytest

from dstackd.core.budget import GOING_S
from dstackd.core.cost import machine_cost_usd
from dstackd.core.job import Attempt
from dstackd.store import jobs, leaving, machines
from dstackd.store.engine import Database
from tests.builders import NOW_MS
from tests.store import rows
from tests.store.rows import boot

MINUTE_MS = 60_000


async def leave(database: Database, job_id: str = "job-1") -> None:
    """The job is queued again after its first attempt, whose machine is still there."""
    await rows.run(
        database,
        "UPDATE attempt SET outcome = 'interrupted', done_at_ms = :at WHERE job_id = :id",
        id=job_id,
        at=NOW_MS,
    )
    await rows.run(
        database,
        "UPDATE job SET phase = 'queued', next_visit_at_ms = :far WHERE id = :id",
        id=job_id,
        far=10**15,
    )


async def left(database: Database) -> list[Attempt]:
    """Attempts that are followed by themselves."""
    return await database.read(leaving.leaving_attempts)


async def test_an_attempt_is_leaving_while_its_job_has_moved_on(either: Database) -> None:
    """Not while it runs, not while its job waits for it in terminating, not once it is over."""
    await boot(either)
    assert await left(either) == []
    await leave(either)
    assert [(each.job_id, each.number, each.instance_id) for each in await left(either)] == [
        ("job-1", 1, "i-1")
    ]
    await rows.run(either, "UPDATE job SET phase = 'terminating'")
    assert await left(either) == []
    await rows.run(either, "UPDATE job SET attempt = 2")
    assert len(await left(either)) == 1
    await rows.run(either, "UPDATE attempt SET ended_at_ms = :at", at=NOW_MS)
    assert await left(either) == []


async def test_its_end_adds_its_cost_and_wakes_the_job(either: Database) -> None:
    """Once, however often it is saved."""
    await boot(either)
    await leave(either)
    attempts = await left(either)
    before = await rows.job(either)
    gone_ms = NOW_MS + 10 * MINUTE_MS
    await rows.run(either, "UPDATE machine SET gone_at_ms = :at", at=gone_ms)
    for _ in range(2):
        await either.write(
            lambda connection: leaving.save_left(connection, attempts, now_ms=gone_ms + 500)
        )
    job, attempt = await rows.job(either), await rows.attempt(either)
    cost = machine_cost_usd(attempt["price_usd_h"], from_ms=NOW_MS, until_ms=gone_ms)
    assert attempt["ended_at_ms"] == gone_ms + 500
    assert (attempt["cost_usd"], job["cost_usd"]) == pytest.approx((cost, cost))
    assert job["next_visit_at_ms"] == 0
    assert job["version"] > before["version"]


async def test_a_queued_job_knows_what_its_machine_may_still_cost(either: Database) -> None:
    """Until now, and as long as our estimates give a machine to go."""
    await boot(either)
    await rows.run(either, "UPDATE attempt SET price_usd_h = 3.6")
    await leave(either)
    now_ms = 10**15
    (job,) = await either.read(
        lambda connection: jobs.queued_jobs(connection, due_at_ms=now_ms, count_max=5)
    )
    seconds = (now_ms - NOW_MS) / 1000 + GOING_S
    assert job.leaving == 1
    assert job.leaving_usd == pytest.approx(3.6 * seconds / 3600)
    assert job.spent_usd == pytest.approx(job.cost_usd + job.leaving_usd)


async def test_a_machine_that_leaves_is_still_needed(either: Database) -> None:
    """The reaper leaves it to who follows it."""
    await boot(either)
    await leave(either)
    needed, _ = await either.read(lambda connection: machines.needed(connection, now_ms=NOW_MS))
    assert "i-1" in needed
