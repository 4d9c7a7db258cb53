"""What draws on the account's quotas."""

from __future__ import annotations

from dstackd.store.engine import Database
from dstackd.store.live import live_by_type
from tests.store.rows import accept, answer, intend, rows, run


async def test_machines_count_from_the_intent_to_their_end(database: Database) -> None:
    """By type and market: asked for, running and about to go; what is over does not count. Found by an index."""
    jobs = [f"job-{number}" for number in range(5)]
    await accept(database, *jobs)
    await answer(database, await intend(database, *jobs[:4]), "i-0", "i-1", "i-2", "i-3")
    await intend(database, jobs[4], launch_id="launch-2")
    await run(database, "UPDATE attempt SET ended_at_ms = 1 WHERE job_id = 'job-0'")
    await run(database, "UPDATE attempt SET market = 'on-demand' WHERE job_id = 'job-1'")
    found = await database.read(live_by_type)
    assert sorted(found) == [("m5.large", "on-demand", 1), ("m5.large", "spot", 3)]
    plan = await rows(
        database,
        "EXPLAIN QUERY PLAN SELECT instance_type, market, count(*) FROM attempt"
        " WHERE ended_at_ms IS NULL GROUP BY instance_type, market",
    )
    assert "attempt_ended" in plan[0]["detail"]
