"""An old copy of the queue is put back: what it does not know of costs nothing for long."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from dstackd.core.instance import InstanceState
from dstackd.simulated.faults import Script
from dstackd.store.backup import back_up
from tests.builders import spec_json
from tests.controllers.installation import Installation


async def test_what_was_launched_since_is_ended_and_what_ran_runs_again(
    world: Installation,
) -> None:
    """The reaper ends machines of launches that the copy has not; a job whose end it has not is followed to an end, with its own
    machine gone; the owner's mark is the same, so no machine is a stranger's.
    """
    world.insert(spec_json(Script(run_s=30.0)), job_id="before")
    await world.until_phase("running", "before")
    copy = world.directory / "copy.db"
    back_up(world.directory / "queue.db", copy)
    world.insert(spec_json(Script(run_s=10_000.0)), job_id="after")
    await world.until_over("before")
    await world.until_phase("running", "after")
    (forgotten,) = [each["instance_id"] for each in world.attempts("after")]
    with closing(sqlite3.connect(copy)) as old:
        old.backup(world._plain)
    world.restart()
    assert world.sql("SELECT id FROM job") == [{"id": "before"}]
    await world.until(
        lambda: all(
            each.state is InstanceState.TERMINATED
            for each in world.cloud.machines
            if each.instance_id == forgotten
        )
    )
    await world.until_over("before")
    assert world.sql("SELECT count(*) AS n FROM event WHERE kind = 'orphan'") == [{"n": 1}]
