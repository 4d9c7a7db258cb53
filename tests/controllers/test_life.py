"""Whole lives of jobs, pass by pass."""

from __future__ import annotations

from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation


async def test_a_job_runs_and_everything_is_there(world: Installation) -> None:
    """A row becomes a machine; its exit code, lines, artifacts and cost are in the table, and nothing is left over."""
    world.insert(spec_json(Script(exit_code=0, lines=5)))
    await world.until_over()
    job = world.job()
    assert (job["phase"], job["reason"], job["exit_code"]) == ("succeeded", "exited", 0)
    assert world.phases() == [
        *("submitted", "queued", "launching", "booting", "running"),
        *("sealing", "terminating", "succeeded"),
    ]
