"""Paths of two jobs that share a machine, by name. Law: as in `scenario.py`; most of them begin to die at the second job's row,
because up to there all of them are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dstackd import protocol
from dstackd.core.limits import Limits
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.fuse import Fuse
from tests.controllers.installation import DEFAULT_LIMITS, Installation
from tests.controllers.reusing import (
    LINES,
    PLAIN,
    a_spec,
    check_money,
    dies_in_round,
    idle,
    leftovers,
    quick,
    runs,
)

ROUNDS_MAX = 150
ROUND_S = 9.0


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
class Sharing:
    """What befalls the idle machine, and what the second job has to show for it."""

    befalls: Callable[[Installation], None] = nothing
    second: str = a_spec(reuse="5s")
    machines: int = 1
    attempts: int = 1
    away_s: float = 0.0
    take_s: float = 2.0
    whole: bool = False
    """Whether it dies behind the effects of the first job's life too."""
    limits: Limits = DEFAULT_LIMITS

    async def live(self, world: Installation, fuse: Fuse, *, away_s: float, order: int) -> int:
        """See `crash_points.Path`: the second job is inserted while the first one's machine is idle."""
        before = 0
        quick(world)
        world.cloud.faults.take_s = self.take_s
        world.insert(a_spec(reuse="90s"))
        now = 0
        for _ in range(ROUNDS_MAX):
            if await dies_in_round(world, order=now, away_s=away_s):
                now = order
            self.befalls(world)
            is_second_there = bool(world.sql("SELECT id FROM job WHERE id = 'job-2'"))
            if not is_second_there and world.job()["phase"] == "succeeded":
                world.insert(self.second, job_id="job-2")
                before = len(fuse.effects)
            elif is_second_there and world.job("job-2")["finished_at_ms"] and not leftovers(world):
                return 1 if self.whole else before
            world.clock.advance(ROUND_S)
        rows = world.sql("SELECT id, phase, message FROM job")
        raise AssertionError(f"never ended: {rows}, left over: {leftovers(world)}")

    def check(self, world: Installation, *, died: bool) -> None:
        """Every job ran once an attempt, its log is whole, no machine too many, and the money adds up. Undisturbed, and after
        a death that nobody was away for, it is known how many machines and attempts there were.
        """
        del died
        exactly = self.away_s == 0.0
        ran = runs(world)
        assert set(ran.values()) == {1}, f"something ran twice: {ran}"
        machines = len(world.cloud.machines)
        assert machines == self.machines if exactly else machines <= 2
        for job_id in ("job-1", "job-2"):
            check_job(world, job_id)
        if exactly:
            assert len(world.attempts("job-2")) == self.attempts
        check_money(world)


def check_job(world: Installation, job_id: str) -> None:
    """It ran as often as the table says, and every line of it is there."""
    job, attempts = world.job(job_id), world.attempts(job_id)
    assert (job["phase"], job["exit_code"], job["boot_failures"]) == ("succeeded", 0, 0)
    ran_here = [each for each in attempts if each["started_at_ms"] is not None]
    there = sum(key[0] == job_id for key in runs(world))
    assert job["ran_attempts"] == len(ran_here) == there
    for attempt in ran_here:
        lines = world.lines(job_id, attempt["number"])
        assert [line.log for line in lines] == [f"line {n + 1}" for n in range(LINES)]
    assert {each["outcome"] for each in ran_here} == {"exited"}


SHARING = {
    "shared": Sharing(whole=True),
    "shared, away": Sharing(away_s=900.0, machines=2),
    "shared, away for a moment": Sharing(away_s=40.0),
    "shared, left": Sharing(befalls=leaves_first, machines=2),
    "shared, dead": Sharing(befalls=dies_at_the_claim, machines=2, attempts=2, take_s=1000.0),
    "shared, tried again": Sharing(
        second=spec_json([Script(lines=LINES, exit_code=1), PLAIN], reuse="30s", retry=True),
        attempts=2,
    ),
}
