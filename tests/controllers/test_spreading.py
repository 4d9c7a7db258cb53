"""Where jobs go: after an interruption, within a quota, and in many batches."""

from __future__ import annotations

from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation

TAKEN = Script(run_s=3000.0, reclaim_after_s=20.0)


async def test_auto_avoids_what_was_reclaimed_and_then_buys(world: Installation) -> None:
    """Another pool after the first interruption, on-demand after the second."""
    scripts = [TAKEN, TAKEN, Script(exit_code=0)]
    world.insert(spec_json(scripts, instance_types=["m5.large"], retry={"on": ["interruption"]}))
    await world.until_over()
    pools = [(each["market"], each["zone"]) for each in world.attempts()]
    assert [market for market, _ in pools] == ["spot", "spot", "on-demand"]
    assert pools[0] != pools[1]
    assert world.job()["phase"] == "succeeded"


async def test_batches_are_spread_over_pools(world: Installation) -> None:
    """Three batches of near-equal price land in three zones."""
    world.insert(spec_json(Script(run_s=1.0), array=250, instance_types=["m5.large"]))
    await world.rounds(3, every_s=1.0)
    requests = {machine.request.launch_id: machine.request for machine in world.cloud.machines}
    assert len(requests) == 3
    assert len({request.zone for request in requests.values()}) == 3
