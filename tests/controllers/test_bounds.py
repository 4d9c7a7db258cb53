"""The operator's bounds and budgets hold over whole lives, and nobody is forgotten behind them."""

from __future__ import annotations

from dstackd.core.bounds import Bounds
from tests.builders import spec_json
from tests.controllers.installation import Installation

ROUNDS_MAX = 400


async def peak_of(world: Installation, bounds: Bounds) -> int:
    """Run until every job is over; the most machines that attempts held at once."""
    world.daemon.planning._allowed = bounds
    peak = 0
    for _ in range(ROUNDS_MAX):
        await world.daemon.one_round()
        (live,) = world.sql("SELECT count(*) AS n FROM attempt WHERE ended_at_ms IS NULL")
        peak = max(peak, int(live["n"]))
        if not world.sql("SELECT 1 FROM job WHERE finished_at_ms IS NULL"):
            return peak
        world.clock.advance(10)
    message = f"{ROUNDS_MAX} rounds, and jobs still wait"
    raise AssertionError(message)


async def test_max_machines_is_never_exceeded(world: Installation) -> None:
    """Twelve jobs and room for three: three at a time, and all twelve come to their end."""
    for number in range(12):
        world.insert(spec_json(), job_id=f"j{number}")

    assert await peak_of(world, Bounds(max_machines=3)) == 3
    assert world.sql("SELECT count(*) AS n FROM job WHERE phase = 'succeeded'") == [{"n": 12}]


async def test_a_budget_reserves_the_worst_case(world: Installation) -> None:
    """Six jobs of an hour and money for two at a time: what a job did not need is there for the next one."""
    for number in range(6):
        world.insert(spec_json(max_duration="1h"), job_id=f"j{number}")

    assert await peak_of(world, Bounds(budget_per_day_usd=0.2)) == 2
    assert world.sql("SELECT count(*) AS n FROM job WHERE phase = 'succeeded'") == [{"n": 6}]


async def test_a_job_over_its_own_budget_is_never_launched(world: Installation) -> None:
    """Its worst case costs more than it may: it fails with the figures, and no machine was asked for."""
    world.insert(spec_json(max_duration="100h", budget=1), job_id="dear")

    assert await peak_of(world, Bounds()) == 0
    (job,) = world.sql("SELECT phase, reason, message FROM job")
    assert (job["phase"], job["reason"]) == ("failed", "budget_exhausted")
    assert "max_duration" in job["message"]
