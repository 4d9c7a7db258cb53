"""One seed from its beginning to its verdict. Law: the same seed and the same faults give the same trace, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import anyio

from tests.simulation.faults import FAULTS
from tests.simulation.invariants import Watcher, judge
from tests.simulation.jobs import Wish, submit, wishes
from tests.simulation.rivals import RivalWorld, two_daemons
from tests.simulation.stage import Stage
from tests.simulation.virtual_time import LoopClock, VirtualTimeLoop
from tests.simulation.world import World

CRASHES = 4
DEATHS_MIN = 3
"""A daemon that got through better than that dies at the end, when all is quiet."""
HOURS_MAX = 3
QUIET_S = 260.0
"""After the last job's end: late lines are waited for 120 s, and a loop that AWS refuses may pause for 90 s."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a seed."""

    seed: int
    jobs: int
    deaths: int
    machines: int
    calls: int
    virtual_s: float
    cpu_s: float
    """What it took of a processor."""
    faults: tuple[str, ...]
    struck: Counter[str]
    """What was met with: faults, crashes, errors, phases, outcomes; and how often."""
    violations: tuple[str, ...]
    trace: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the whole trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:12]


def run_seed(seed: int, *, stage: Stage, without: Collection[str] = ()) -> Report:
    """Live the seed's world."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_live(seed, stage, without))


def chosen_faults(seed: int, without: Collection[str]) -> tuple[str, ...]:
    """About half of all faults."""
    dice = random.Random(f"faults-{seed}")
    return tuple(name for name in FAULTS if dice.random() < 0.5 and name not in without)


async def _live(seed: int, stage: Stage, without: Collection[str]) -> Report:
    began_s = time.process_time()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    clock = LoopClock(loop, seed=seed)
    rows = wishes(seed)
    faults = chosen_faults(seed, without)
    async with stage.scene(clock) as scene:
        kind = RivalWorld if two_daemons.__name__ in faults else World
        world = kind(seed=seed, clock=clock, scene=scene, crashes=CRASHES)
        await _play(world, rows, faults)
        met = world.struck + _met(world)
    return Report(
        seed=seed,
        jobs=len(rows),
        deaths=world.deaths,
        machines=len(world.cloud.machines),
        calls=sum(world.cloud.calls.values()),
        virtual_s=clock.monotonic_s(),
        cpu_s=time.process_time() - began_s,
        faults=faults,
        struck=met,
        violations=tuple(world.violations),
        trace=tuple(world.trace),
    )


def _met(world: World) -> Counter[str]:
    """What only shows at the end."""
    met: Counter[str] = Counter()
    met.update(f"phase {row['phase']}" for row in world.sql("SELECT phase FROM job"))
    met.update(f"outcome {row['outcome']}" for row in world.sql("SELECT outcome FROM attempt"))
    reused = world.sql("SELECT count(*) AS reused FROM attempt WHERE reused")
    met["reused"] = reused[0]["reused"]
    faults, events = world.cloud.faults, world.cloud.logs._events
    written = sum(sum(machine.written.values()) for machine in world.cloud.machines)
    distinct = {(event.stream, event.message) for event in events}
    met["lost_lines"] = written - len(distinct)
    late_ms = max(faults.late_s, faults.log_lag_s) * 1000
    met["late_lines"] = sum(event.ingested_at_ms - event.at_ms >= late_ms for event in events)
    if faults.invisible_s:
        met["unseen"] = len(world.cloud.machines)
    if faults.untagged_s:
        met["untagged"] = len(world.cloud.machines)
    if faults.machine_skew_s:
        met["wrong_machine_clocks"] = len(events)
    met["open_requests"] = len(world.cloud._account.waiting)
    return met


async def _play(world: World, rows: list[Wish], faults: tuple[str, ...]) -> None:
    watcher = Watcher(world)
    async with anyio.create_task_group() as group:
        group.start_soon(world.daemons)
        group.start_soon(watcher.watch)
        for name in faults:
            dice = random.Random(f"{name}-{world.seed}")
            group.start_soon(FAULTS[name], world, dice)
        await submit(world, rows)
        await _until_over(world)
        watcher.look()
        if not world.violations:
            await judge(world, rows)
        group.cancel_scope.cancel()


async def _until_over(world: World) -> None:
    """Until every job is over and every machine gone, and a daemon has had a while to write that down; or until something is broken."""
    quiet_s = 0.0
    while quiet_s < QUIET_S and not world.violations:
        await anyio.sleep(5.0)
        is_over = _is_over(world)
        if not is_over:
            quiet_s = 0.0
        elif world.daemon_up:
            quiet_s += 5.0
        if is_over and world.deaths < DEATHS_MIN and world.hazards is not None:
            world.hazards.die_next()
            quiet_s = 0.0
        if world.clock.monotonic_s() > HOURS_MAX * 3600:
            open_rows = world.sql(
                "SELECT id, phase, reason, message FROM job WHERE finished_at_ms IS NULL"
            )
            world.blame(f"not over after {HOURS_MAX} h: {open_rows[:3]}")


def _is_over(world: World) -> bool:
    open_jobs = world.look_up("SELECT 1 FROM job WHERE finished_at_ms IS NULL LIMIT 1")
    open_attempts = world.look_up("SELECT 1 FROM attempt WHERE ended_at_ms IS NULL LIMIT 1")
    alive = any(
        world.is_ours(machine) and machine.terminated_at_ms is None
        for machine in world.cloud.machines
    )
    return not (open_jobs or open_attempts or alive)
