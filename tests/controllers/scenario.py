"""One path of a job's life. Law: it is lived by daemons that may die, and judged by what they leave behind; who dies when is
`crash_points.py`'s affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from dstackd import protocol
from dstackd.core.limits import Limits
from dstackd.simulated.faults import Faults
from tests.controllers.fuse import Fuse
from tests.controllers.installation import Installation
from tests.controllers.reusing import dies_in_round, leftovers, quick

LINES = 4
ROUNDS_MAX = 150
ROUND_S = 9.0
LIMITS = Limits(
    boot_timeout_s=60.0, prepare_timeout_s=100.0, heartbeat_timeout_s=150.0, seal_timeout_s=200.0
)
"""Shorter than those for EC2, so that waiting takes fewer passes."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked for, what befalls it, and how each job has to end."""

    spec: str
    phase: str = "succeeded"
    exit_code: int | None = 0
    attempts: int = 1
    ran: int | None = None
    """Attempts that ran; None: all of them."""
    machines: int | None = None
    """None: one an attempt."""
    job_ids: tuple[str, ...] = ("job-1",)
    set_up: Callable[[Faults], None] = lambda _: None
    cancel_in: str = ""
    """The phase in which the submitter cancels."""
    lines: dict[int, int] = field(default_factory=lambda: {1: LINES})
    """Attempt -> lines in its file."""
    seals: dict[int, str] = field(default_factory=dict)
    """Attempt -> how its artifacts were sealed; of those that are not named it is not asked."""
    lost_lines: bool = False
    """Whether the lines are written and never arrive."""
    away_s: float = 0.0
    """How long no daemon is there after the death."""
    round_s: float = ROUND_S
    limits: Limits = LIMITS
    first_point: int = 1
    """The first effect behind which it is worth dying; what comes earlier is another scenario's life."""

    async def live(self, world: Installation, fuse: Fuse, *, away_s: float, order: int) -> int:
        """See `crash_points.Path`: until the job is over and its leftovers are removed."""
        del fuse
        quick(world)
        self.set_up(world.cloud.faults)
        world.insert(self.spec.replace("INPUTS", str(world.inputs_root)))
        self._cancel(world)
        now = 0
        for _ in range(ROUNDS_MAX):
            if await dies_in_round(world, order=now, away_s=away_s):
                now = order
            at_most_one_runs(world)
            self._cancel(world)
            if world.job()["finished_at_ms"] is not None and not await what_is_left(world):
                return self.first_point
            world.clock.advance(self.round_s)
        raise AssertionError(f"never ended: {world.job()}, left over: {await what_is_left(world)}")

    def _cancel(self, world: Installation) -> None:
        job = world.job()
        if job["phase"] == self.cancel_in and not job["cancel_requested"]:
            world.cancel()

    def check(self, world: Installation, *, died: bool) -> None:
        """The promises, for each job of the scenario; a death changes none of them."""
        del died
        machines = self.attempts if self.machines is None else self.machines
        launches = len(world.cloud.machines)
        assert launches == machines * len(self.job_ids), "one machine an attempt"
        for job_id in self.job_ids:
            job = world.job(job_id)
            assert (job["phase"], job["exit_code"]) == (self.phase, self.exit_code)
            assert job["message"]
            attempts = world.attempts(job_id)
            assert [each["number"] for each in attempts] == list(range(1, self.attempts + 1))
            assert job["ran_attempts"] == (self.attempts if self.ran is None else self.ran)
            costs = [attempt["cost_usd"] for attempt in attempts]
            assert job["cost_usd"] == pytest.approx(sum(costs))
            for attempt in attempts:
                self._check_attempt(world, attempt)

    def _check_attempt(self, world: Installation, attempt: dict[str, Any]) -> None:
        number = attempt["number"]
        assert attempt["outcome"] is not None
        assert attempt["cost_usd"] > 0
        if number in self.seals:
            assert attempt["seal_verdict"] == self.seals[number]
        if self.lost_lines:
            assert (attempt["log_lines_sent"], attempt["log_lines_seen"]) == (LINES, 0)
            assert attempt["log_verdict"] != "complete"
        else:
            check_lines(world, attempt, self.lines.get(number, 0))


async def what_is_left(world: Installation) -> list[object]:
    """Spot requests that wait too; but what a machine has said that no row ever named is left to the bucket's own rules."""
    named = {row["instance_id"] for row in world.sql("SELECT instance_id FROM machine")}
    kept = [each for each in leftovers(world) if not _is_of_a_stranger(each, named)]
    return [*kept, *await world.cloud.compute.open_requests()]


def _is_of_a_stranger(left: object, named: set[str]) -> bool:
    event = protocol.decode_inbox_key(left) if isinstance(left, str) else None
    return event is not None and event.instance_id not in named


def at_most_one_runs(world: Installation) -> None:
    """Of the attempts of one job."""
    running = Counter(
        machine.job.job_id
        for machine in world.cloud.machines
        if machine.commands_run and machine.job is not None
    )
    assert all(count == 1 for count in running.values()), running


def check_lines(world: Installation, attempt: dict[str, Any], count: int) -> None:
    """All that was written is there, in order and once; and a last word counts as many."""
    lines = world.lines(attempt["job_id"], attempt["number"])
    assert [line.log for line in lines] == [f"line {n + 1}" for n in range(count)]
    assert attempt["log_lines_seen"] == count
    assert attempt["log_lines_sent"] in (None, count)
    assert attempt["done_at_ms"] is None or attempt["log_lines_sent"] == count
