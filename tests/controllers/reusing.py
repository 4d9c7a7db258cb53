"""What tests of idle machines have in common. Law: looks at rows and machines, decides nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from dstackd import protocol
from dstackd.core.cost import machine_cost_usd
from dstackd.core.instance import InstanceState
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.fuse import is_crash
from tests.controllers.installation import Installation

LINES = 4
REUSE = "5m"
PLAIN = Script(lines=LINES, run_s=10.0)


def a_spec(script: Script = PLAIN, **fields: object) -> str:
    """A job whose machine waits for another one."""
    return spec_json(script, **{"reuse": REUSE, **fields})


def quick(world: Installation) -> None:
    """A short life has fewer passes."""
    faults = world.cloud.faults
    faults.pending_s, faults.boot_s, faults.shutdown_s = 4.0, 8.0, 8.0


def idle(world: Installation) -> list[str]:
    """Machines that wait for a job now, as the table has them."""
    rows = world.sql(
        "SELECT instance_id FROM machine WHERE idle_until_ms IS NOT NULL AND gone_at_ms IS NULL"
    )
    return [row["instance_id"] for row in rows]


async def until_idle(world: Installation) -> str:
    """Passes until a machine waits; its id."""
    await world.until(lambda: bool(idle(world)), every_s=2.0)
    return idle(world)[0]


def leftovers(world: Installation) -> list[object]:
    """What costs money, or holds the jobs' environment, or would be looked at for ever."""
    ends = tuple(
        protocol.PREFIX + name
        for name in ("launches/", "inbox/", "heartbeats/", "reuse/", "control/")
    )
    alive = [
        each.instance_id
        for each in world.cloud.machines
        if each.state is not InstanceState.TERMINATED
    ]
    return [
        *(key for end in ends for key in world.cloud.bucket.keys(end)),
        *world.sql("SELECT job_id FROM attempt WHERE ended_at_ms IS NULL"),
        *world.sql("SELECT instance_id FROM machine WHERE gone_at_ms IS NULL"),
        *world.sql("SELECT id FROM launch WHERE state = 'intended'"),
        *alive,
    ]


async def until_nothing_is_left(world: Installation) -> None:
    """Passes until every machine is gone and everything of the jobs is removed."""
    await world.until(lambda: not leftovers(world))


def runs(world: Installation) -> Counter[tuple[str, int]]:
    """How often each attempt's commands began to end, over all machines: once is right."""
    return Counter(key for machine in world.cloud.machines for key in machine.ends)


def check_money(world: Installation) -> None:
    """What the attempts cost together is what the machines cost together, and each job has its attempts' sum."""
    machines = world.sql("SELECT price_usd_h, launched_at_ms, gone_at_ms FROM machine")
    whole_usd = sum(
        machine_cost_usd(
            row["price_usd_h"], from_ms=row["launched_at_ms"], until_ms=row["gone_at_ms"]
        )
        for row in machines
    )
    attempts = world.sql("SELECT COALESCE(SUM(cost_usd), 0) AS usd FROM attempt")[0]["usd"]
    jobs = world.sql("SELECT COALESCE(SUM(cost_usd), 0) AS usd FROM job")[0]["usd"]
    assert attempts == pytest.approx(whole_usd)
    assert jobs == pytest.approx(whole_usd)


async def dies_in_round(world: Installation, *, order: int, away_s: float) -> bool:
    """A pass of every loop. True: the daemon died in it, and a new one is there after `away_s`."""
    try:
        assert await world.daemon.one_round(order=order) == []
    except BaseException as error:
        if not is_crash(error):
            raise
        world.restart()
        world.clock.advance(away_s)
        return True
    return False
