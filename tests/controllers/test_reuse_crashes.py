"""The daemon dies behind every single effect of a life of two jobs that share a machine: nothing twice, nothing lost, nothing left.

As in `test_crashes.py`, each scenario runs undisturbed first, then once for each of its effects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dstackd import protocol
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.fuse import Fuse, is_crash
from tests.controllers.installation import Installation
from tests.controllers.reusing import (
    LINES,
    PLAIN,
    a_spec,
    check_money,
    idle,
    leftovers,
    quick,
    runs,
)

ROUNDS_MAX = 150
ROUND_S = 9.0
DEATHS_MAX = 24
"""Behind as many effects from the second job's row on: by then its (last) attempt has a machine."""


def nothing(_: Installation) -> None:
    """Undisturbed."""


def leaves_first(world: Installation) -> None:
    """The machine's own decision is there before the daemon's claim."""
    for machine in idle(world):
        key = protocol.reuse_key(machine, 1)
        if world.cloud.bucket.load(key) is None:
            world.cloud.bucket.store(key, protocol.REUSE_LEAVE)


def dies_at_the_claim(world: Installation) -> None:
    """The host fails before the machine can read that it was claimed."""
    for machine in world.cloud.machines:
        claim = world.cloud.bucket.load(protocol.reuse_key(machine.instance_id, 1))
        if claim is not None and ("job-2", 1) not in machine.ends and machine.alive:
            machine.go_down("Server.InternalError")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What befalls the idle machine, and what the second job has to show for it."""

    befalls: Callable[[Installation], None] = nothing
    second: str = a_spec(reuse="5s")
    machines: int = 1
    attempts: int = 1
    away_s: float = 0.0
    take_s: float = 2.0
    part: int | None = None
    """It dies behind every other effect of both jobs' lives, beginning with this one; None: only behind those that come after
    the second job's row, because before it all scenarios are the same.
    """


SCENARIOS = {
    "taken, odd": Scenario(part=1),
    "taken, even": Scenario(part=2),
    "away": Scenario(away_s=900.0, machines=2),
    "away for a moment": Scenario(away_s=40.0),
    "left": Scenario(befalls=leaves_first, machines=2),
    "dead": Scenario(befalls=dies_at_the_claim, machines=2, attempts=2, take_s=1000.0),
    "retried": Scenario(
        second=spec_json([Script(lines=LINES, exit_code=1), PLAIN], reuse="30s", retry=True),
        attempts=2,
    ),
}


async def live(
    world: Installation, scenario: Scenario, fuse: Fuse, *, away_s: float, order: int
) -> int:
    """The second job is inserted while the first one's machine is idle; passes until all is over and removed. Returns how
    many effects came before the second job.
    """
    before = 0
    quick(world)
    world.cloud.faults.take_s = scenario.take_s
    world.insert(a_spec(reuse="90s"))
    for _ in range(ROUNDS_MAX):
        try:
            assert await world.daemon.one_round(order=order) == []
        except BaseException as error:
            if not is_crash(error):
                raise
            world.restart()
            world.clock.advance(away_s)
        scenario.befalls(world)
        is_second_there = bool(world.sql("SELECT id FROM job WHERE id = 'job-2'"))
        if not is_second_there and world.job()["phase"] == "succeeded":
            world.insert(scenario.second, job_id="job-2")
            before = len(fuse.effects)
        elif is_second_there and world.job("job-2")["finished_at_ms"] and not leftovers(world):
            return before
        world.clock.advance(ROUND_S)
    rows = world.sql("SELECT id, phase, message FROM job")
    raise AssertionError(f"never ended: {rows}, left over: {leftovers(world)}")


def check(world: Installation, scenario: Scenario, *, exactly: bool) -> None:
    """Every job ran once an attempt, its log is whole, no machine too many, and the money adds up."""
    ran = runs(world)
    assert set(ran.values()) == {1}, f"something ran twice: {ran}"
    machines = len(world.cloud.machines)
    assert machines == scenario.machines if exactly else machines <= 2
    for job_id in ("job-1", "job-2"):
        job, attempts = world.job(job_id), world.attempts(job_id)
        assert (job["phase"], job["exit_code"], job["boot_failures"]) == ("succeeded", 0, 0)
        ran_here = [each for each in attempts if each["started_at_ms"] is not None]
        assert job["ran_attempts"] == len(ran_here) == sum(key[0] == job_id for key in ran)
        for attempt in ran_here:
            lines = world.lines(job_id, attempt["number"])
            assert [line.log for line in lines] == [f"line {n + 1}" for n in range(LINES)]
        assert {each["outcome"] for each in ran_here} == {"exited"}
    if exactly:
        assert len(world.attempts("job-2")) == scenario.attempts
    check_money(world)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_death_behind_any_effect_changes_nothing(name: str, world: Installation) -> None:
    """Whatever the daemon has just done when it dies: each job runs once, and no machine is left."""
    scenario = SCENARIOS[name]
    undisturbed = Fuse()
    world.start_over(seed=0, wrap=undisturbed.around)
    before = await live(world, scenario, undisturbed, away_s=0.0, order=0)
    # Undisturbed, nobody is away.
    check(world, scenario, exactly=scenario.away_s == 0.0)
    deaths = range(before, before + DEATHS_MAX)
    if scenario.part is not None:
        deaths = range(scenario.part, len(undisturbed.effects) + 1, 2)
    for blow_at in deaths:
        fuse = Fuse(blow_at)
        world.start_over(seed=blow_at, wrap=fuse.around)
        try:
            await live(world, scenario, fuse, away_s=scenario.away_s, order=blow_at)
            check(world, scenario, exactly=scenario.away_s == 0.0)
        except AssertionError as error:
            error.add_note(f"died behind effect {blow_at}: {fuse.effects[:blow_at][-3:]}")
            raise
