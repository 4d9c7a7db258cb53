"""The daemon dies behind every single effect of a job's life, and the life still ends as it should.

Each scenario first runs undisturbed to count its effects; then it runs once for each of them, dies there, stays away
for a while, and a new daemon goes on with what was written down.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from dstackd import protocol
from dstackd.core.instance import InstanceState
from dstackd.core.limits import Limits
from dstackd.simulated.faults import Faults, Script
from tests.builders import spec_json
from tests.controllers.fuse import Fuse, is_crash
from tests.controllers.installation import Installation

LINES = 4
ROUNDS_MAX = 150
ROUND_S = 9.0
STRIDE = 1 if os.environ.get("CRASH_POINTS") == "all" else 3
"""The suite takes every third effect of a life; `make simulate CRASHES=1` takes them all."""
LIMITS = Limits(boot_timeout_s=60.0, heartbeat_timeout_s=150.0)
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
    away_s: tuple[float, ...] = (0.0,)
    """How long no daemon is there after the death: first one, then the other."""
    deaths_min: int = 1
    """The first effect behind which it dies; what comes earlier is another scenario's life."""


def no_spot(faults: Faults) -> None:
    """The first choice is sold out."""
    faults.capacity |= {"m5.large|us-east-1a|spot": 0}


def nothing_at_all(faults: Faults) -> None:
    """Everything is sold out."""
    faults.capacity |= {"*": 0}


def one_of_two(faults: Faults) -> None:
    """There is less than what is asked for."""
    faults.capacity |= {"m5.large|us-east-1a|spot": 1}


def busy(faults: Faults) -> None:
    """EC2 does not take the launch at once."""
    faults.throttle["RunInstances"] = 3


def slow_to_boot(faults: Faults) -> None:
    """No command begins before a cancel is heard; and EC2 does not take the launch at once."""
    faults.throttle["RunInstances"] = 3
    faults.boot_s = 50.0


def slow_to_go(faults: Faults) -> None:
    """An old machine is there long after its last word, longer than the second attempt takes."""
    faults.shutdown_s = 100.0


def silent_end(faults: Faults) -> None:
    """Machines do not hear the first order to go."""
    faults.lose_call["TerminateInstances"] = 1
    faults.shutdown_s = 30.0


PLAIN = Script(lines=LINES, run_s=10.0)
RECLAIMED = Script(lines=LINES, reclaim_after_s=4.0, run_s=9.0)
ENDLESS = Script(lines=LINES, run_s=30_000.0)
SEALING = Script(lines=LINES, run_s=10.0, seal_s=25.0)
CANCELLED = Scenario(
    spec_json(ENDLESS), phase="cancelled", exit_code=143, cancel_in="running", lines={1: 0}
)
UNBORN = replace(CANCELLED, exit_code=None, attempts=0, lines={}, machines=0)
TWICE = Scenario(spec_json([RECLAIMED, PLAIN]), attempts=2, lines={1: 2, 2: LINES})
NOT_BOOTED = replace(TWICE, ran=1, lines={2: LINES})

SCENARIOS = {
    "plain": Scenario(spec_json(PLAIN)),
    "rejected": Scenario('{"commands": 7}', "rejected", exit_code=None, attempts=0, lines={}),
    "inputs": Scenario(spec_json(PLAIN, inputs=[{"source": "INPUTS/code", "target": "code"}])),
    "array": Scenario(spec_json(PLAIN, array=2), job_ids=("job-1-0", "job-1-1")),
    "sold out first": Scenario(spec_json(PLAIN), set_up=no_spot, away_s=(0.0, 900.0)),
    "partial fill": Scenario(
        spec_json(PLAIN, array=2), job_ids=("job-1-0", "job-1-1"), set_up=one_of_two
    ),
    "throttled": Scenario(spec_json(PLAIN), set_up=busy),
    "failed": Scenario(spec_json(replace(PLAIN, exit_code=3)), "failed", exit_code=3),
    "tried again": replace(
        TWICE,
        spec=spec_json([replace(PLAIN, exit_code=3), PLAIN], retry={"on": ["error"]}),
        lines={1: LINES, 2: LINES},
    ),
    "reclaimed": TWICE,
    "overlapping": replace(TWICE, set_up=slow_to_go, deaths_min=12),
    "lost": replace(
        TWICE, spec=spec_json([Script(lines=LINES, dies_after_s=4.0, run_s=9.0), PLAIN])
    ),
    "silent": replace(
        TWICE, spec=spec_json([Script(lines=LINES, hangs_after_s=4.0, run_s=9.0), PLAIN])
    ),
    "never booted": replace(NOT_BOOTED, spec=spec_json([Script(never_boots=True), PLAIN])),
    "failed to boot": replace(NOT_BOOTED, spec=spec_json([Script(fails_at="inputs"), PLAIN])),
    "timed out": Scenario(
        spec_json(ENDLESS, max_duration="10s"), "failed", exit_code=143, lines={1: 0}
    ),
    "not heard": Scenario(spec_json(replace(PLAIN, lingers=True)), set_up=silent_end),
    "cancelled in queued": replace(UNBORN, cancel_in="queued", set_up=nothing_at_all),
    "cancelled in launching": replace(
        CANCELLED, exit_code=None, cancel_in="launching", set_up=slow_to_boot, lines={}, ran=0
    ),
    "cancelled in booting": replace(
        CANCELLED, exit_code=None, cancel_in="booting", set_up=slow_to_boot, lines={}, ran=0
    ),
    "cancelled in running": replace(CANCELLED, away_s=(0.0, 900.0)),
    "cancelled in sealing": Scenario(spec_json(SEALING), cancel_in="sealing"),
    "cancelled in terminating": Scenario(
        spec_json(PLAIN), cancel_in="terminating", set_up=slow_to_go
    ),
}
"""Every path of one job's life; those of a machine that is used again are in `test_reuse_crashes.py`."""


async def live(
    world: Installation, scenario: Scenario, *, away_s: float = 0.0, order: int = 0
) -> None:
    """Passes until the job is over and its leftovers are removed, with one death at most on the way."""
    faults = world.cloud.faults
    faults.pending_s, faults.boot_s, faults.shutdown_s = (
        4.0,
        8.0,
        8.0,
    )  # a short life has fewer passes
    scenario.set_up(faults)
    world.insert(scenario.spec.replace("INPUTS", str(world.inputs_root)))
    for _ in range(ROUNDS_MAX):
        try:
            assert await world.daemon.one_round(order=order) == []
        except BaseException as error:
            if not is_crash(error):
                raise
            world.restart()
            world.clock.advance(away_s)
        at_most_one_runs(world)
        job = world.job()
        if job["phase"] == scenario.cancel_in and not job["cancel_requested"]:
            world.cancel()
        if job["finished_at_ms"] is not None and not _leftovers(world):
            return
        world.clock.advance(ROUND_S)
    raise AssertionError(f"never ended: {world.job()}, left over: {_leftovers(world)}")


def at_most_one_runs(world: Installation) -> None:
    """Of the attempts of one job."""
    running = Counter(
        machine.job.job_id
        for machine in world.cloud.machines
        if machine.commands_run and machine.job is not None
    )
    assert all(count == 1 for count in running.values()), running


def _leftovers(world: Installation) -> list[object]:
    """What costs money, or holds the jobs' environment, or would be looked at for ever."""
    keys = world.cloud.bucket.keys()
    ends = (protocol.PREFIX + "launches/", protocol.INBOX_PREFIX, protocol.HEARTBEAT_PREFIX)
    open_attempts = world.sql("SELECT job_id FROM attempt WHERE ended_at_ms IS NULL")
    open_machines = world.sql("SELECT instance_id FROM machine WHERE gone_at_ms IS NULL")
    alive = [each.instance_id for each in world.cloud.machines if not _terminated(each.state)]
    return [
        *(key for key in keys if key.startswith(ends)),
        *(*open_attempts, *open_machines, *alive),
    ]


def _terminated(state: InstanceState) -> bool:
    return state is InstanceState.TERMINATED


def check(world: Installation, scenario: Scenario) -> None:
    """The promises, for each job of the scenario."""
    machines = scenario.attempts if scenario.machines is None else scenario.machines
    launches = len(world.cloud.machines)
    assert launches == machines * len(scenario.job_ids), "one machine an attempt"
    for job_id in scenario.job_ids:
        job = world.job(job_id)
        assert (job["phase"], job["exit_code"]) == (scenario.phase, scenario.exit_code)
        assert job["message"]
        attempts = world.attempts(job_id)
        assert [each["number"] for each in attempts] == list(range(1, scenario.attempts + 1))
        assert job["ran_attempts"] == (scenario.attempts if scenario.ran is None else scenario.ran)
        costs = [attempt["cost_usd"] for attempt in attempts]
        assert job["cost_usd"] == pytest.approx(sum(costs))
        for attempt in attempts:
            assert attempt["outcome"] is not None
            assert attempt["cost_usd"] > 0
            check_lines(world, attempt, scenario.lines.get(attempt["number"], 0))


def check_lines(world: Installation, attempt: dict[str, Any], count: int) -> None:
    """All that was written is there, in order and once; and a last word counts as many."""
    lines = world.lines(attempt["job_id"], attempt["number"])
    assert [line.log for line in lines] == [f"line {n + 1}" for n in range(count)]
    assert attempt["log_lines_seen"] == count
    assert attempt["log_lines_sent"] in (None, count)
    assert attempt["done_at_ms"] is None or attempt["log_lines_sent"] == count


def cases() -> Iterator[tuple[str, float]]:
    """Each scenario, and for how long nobody starts another daemon."""
    for name, scenario in SCENARIOS.items():
        for away_s in scenario.away_s:
            yield name, away_s


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("name", "away_s"), list(cases()))
async def test_a_death_behind_any_effect_changes_nothing(
    name: str, away_s: float, world: Installation
) -> None:
    """Whatever the daemon has just done when it dies, however long it is away and in whatever order its loops run: the same
    end, and no second machine.
    """
    scenario = SCENARIOS[name]
    (world.inputs_root / "code").mkdir(parents=True)
    world.limits = LIMITS
    undisturbed = Fuse()
    world.start_over(seed=0, wrap=undisturbed.around)
    await live(world, scenario)
    check(world, scenario)
    # Not the same third in every scenario: they share their beginnings.
    first = scenario.deaths_min + zlib.crc32(name.encode()) % STRIDE
    for blow_at in range(first, len(undisturbed.effects) + 1, STRIDE):
        fuse = Fuse(blow_at)
        world.start_over(seed=blow_at, wrap=fuse.around)
        try:
            await live(world, scenario, away_s=away_s, order=blow_at)
            check(world, scenario)
        except AssertionError as error:
            error.add_note(f"died behind effect {blow_at}: {fuse.effects[:blow_at][-3:]}")
            raise
