"""What waits for another job and costs money meanwhile is shown, by the real server."""

from __future__ import annotations

import json

from tests.cli.program import ask
from tests.http.world import World, running


async def idle_machine(world: World, *, until_ms: int = 9_000_000_000_000) -> str:
    """A job that is over and whose machine waits."""
    job_id = await world.insert_job({"commands": ["true"], "reuse": "5m"})
    await world.insert_attempt(
        *(job_id, 1),
        instance_id="i-1",
        outcome="exited",
        exit_code=0,
        ended_at_ms=9,
        released_at_ms=8,
        reused=1,
    )
    await world.sql(
        "INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone, market, price_usd_h, "
        "launched_at_ms, idle_number, idle_since_ms, idle_until_ms, idle_job_id, idle_attempt) "
        "VALUES ('i-1', 'b', 'l', 0, 'm5.large', 'a', 'spot', 0.1, 1, 1, 8, ?, ?, 1)",
        *(until_ms, job_id),
    )
    await world.finish_job(job_id)
    return job_id


async def test_ps_names_what_is_idle() -> None:
    """Also when no job is waiting or running; with --json it is not in the way."""
    async with running() as world:
        job_id = await idle_machine(world)
        table, raw = await ask(world, "ps"), await ask(world, "ps", "--json")
    assert f"i-1 (m5.large, spot) is idle after job {job_id} until 2255-03-14" in table.err
    assert json.loads(raw.out) == []
    assert "idle" not in raw.err


async def test_describe_says_until_when() -> None:
    """And that the attempt had a machine that was used before."""
    async with running() as world:
        job_id = await idle_machine(world)
        waiting = await ask(world, "describe", job_id)
        await world.sql("UPDATE machine SET idle_since_ms = NULL, idle_until_ms = NULL")
        await world.sql("UPDATE attempt SET idle_ms = 252000")
        waited = await ask(world, "describe", job_id)
    assert "not in the cost yet, until 2255-03-14" in waiting.out
    assert "used again" in waiting.out
    assert "waited 4m" in waited.out
