"""What EC2 took from a job is read with the queue."""

from __future__ import annotations

import pytest

from dstackd.core.avoidance import pool
from dstackd.core.instance import Market
from dstackd.store import jobs
from dstackd.store.engine import Database
from tests.builders import NOW_MS
from tests.store.rows import accept, intend, run

ATTEMPT = """INSERT INTO attempt (job_id, number, launch_id, launch_index, instance_type, zone, market, price_usd_h, outcome)
VALUES (:job, :number, 'launch-1', 0, :type, 'z1', 'spot', 0.1, :outcome)"""


@pytest.mark.parametrize(
    ("outcomes", "interruptions", "reclaimed"),
    [
        ((), 0, ""),
        (("exited",), 0, ""),
        (("interrupted",), 1, "m1.large"),
        (("interrupted", "interrupted"), 2, "m2.large"),
        (("interrupted", "exited"), 1, ""),
        (("lost", "boot_failed", "interrupted"), 1, "m3.large"),
    ],
)
async def test_interruptions_are_counted_and_the_last_pool_is_known(
    database: Database, outcomes: tuple[str, ...], interruptions: int, reclaimed: str
) -> None:
    """Only what EC2 took counts, and only the last attempt's pool is avoided; other jobs' attempts are theirs."""
    await accept(database, "job-0", "job-1", "job-2")
    await intend(database, "job-0")  # so that there is a launch
    for job_id, past in (("job-1", outcomes), ("job-2", ("interrupted",) * 3)):
        for number, outcome in enumerate(past, start=1):
            kind = f"m{number}.large"
            await run(database, ATTEMPT, job=job_id, number=number, type=kind, outcome=outcome)
        await run(database, "UPDATE job SET attempt = :n WHERE id = :id", n=len(past), id=job_id)
    found = await database.read(
        lambda connection: jobs.queued_jobs(connection, due_at_ms=NOW_MS * 2, count_max=9)
    )
    job = {each.id: each for each in found}["job-1"]
    expected = pool(reclaimed, "z1", Market.SPOT) if reclaimed else ""
    assert (job.interruptions, job.reclaimed) == (interruptions, expected)
