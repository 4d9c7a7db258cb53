"""One seed from its beginning to its verdict. Law: the same seed and the same faults give the same trace, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from dstackd.simulated.places import REGION
from dstackd.store.backends import ensure_backend
from dstackd.store.engine import Database, open_database
from tests.controllers.installation import BACKEND, _without_fsync
from tests.simulation.faults import FAULTS
from tests.simulation.invariants import Watcher, is_ours, judge
from tests.simulation.jobs import Wish, submit, wishes
from tests.simulation.virtual_time import LoopClock, VirtualTimeLoop
from tests.simulation.world import World

CRASHES = 4
HOURS_MAX = 12
QUIET_S = 150.0
"""After the last job's end: the time of retention and of late lines."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a seed."""

    seed: int
    jobs: int
    deaths: int
    machines: int
    calls: int
    virtual_s: float
    faults: tuple[str, ...]
    violations: tuple[str, ...]
    trace: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the whole trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:12]


def run_seed(
    seed: int, *, directory: Path, template: Path, without: Collection[str] = ()
) -> Report:
    """Live the seed's world. `template` is an empty database file with the newest schema."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_live(seed, directory, template, without))


def chosen_faults(seed: int, without: Collection[str]) -> tuple[str, ...]:
    """About half of all faults."""
    dice = random.Random(f"faults-{seed}")
    return tuple(name for name in FAULTS if dice.random() < 0.5 and name not in without)


async def _live(seed: int, directory: Path, template: Path, without: Collection[str]) -> Report:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    clock = LoopClock(loop, seed=seed)
    path = directory / f"queue-{seed}.db"
    shutil.copyfile(template, path)
    async with open_database(f"sqlite:///{path}", clock=clock) as database:
        await _without_fsync(database)
        await _tell_the_time(database, clock)
        backend = await database.write(
            lambda connection: ensure_backend(
                connection,
                name=BACKEND,
                region=REGION,
                bucket="simulated-bucket",
                subnet=None,
                endpoint_url=None,
                now_ms=clock.now_ms(),
            )
        )
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as plain:
            plain.execute("PRAGMA synchronous = OFF")
            plain.row_factory = sqlite3.Row
            plain.create_function("julianday", 1, _julianday(clock))
            world = World(
                seed=seed,
                clock=clock,
                database=database,
                plain=plain,
                directory=directory,
                owner=str(backend),
                crashes=CRASHES,
            )
            rows = wishes(seed)
            faults = chosen_faults(seed, without)
            await _play(world, rows, faults)
    return Report(
        seed=seed,
        jobs=len(rows),
        deaths=world.deaths,
        machines=len(world.cloud.machines),
        calls=sum(world.cloud.calls.values()),
        virtual_s=clock.monotonic_s(),
        faults=faults,
        violations=tuple(world.violations),
        trace=tuple(world.trace),
    )


def _julianday(clock: LoopClock) -> Callable[[str], float]:
    """SQLite's own function, on our clock: defaults and triggers of the tables ask it for now."""
    return lambda _now: clock.now_ms() / 86_400_000 + 2_440_587.5


async def _tell_the_time(database: Database, clock: LoopClock) -> None:
    for engine in (database._writer, database._reader):
        async with engine.connect() as connection:
            raw: Any = await connection.get_raw_connection()
            await raw.driver_connection.create_function("julianday", 1, _julianday(clock))


async def _play(world: World, rows: list[Wish], faults: tuple[str, ...]) -> None:
    watcher = Watcher(world)
    async with anyio.create_task_group() as group:
        group.start_soon(world.daemons)
        group.start_soon(watcher.watch)
        for name in faults:
            dice = random.Random(f"{name}-{world.seed}")
            group.start_soon(FAULTS[name], world, dice)
        await submit(world, rows)
        await _until_over(world, rows)
        watcher.look()
        if not world.violations:
            judge(world, rows)
        group.cancel_scope.cancel()


async def _until_over(world: World, rows: list[Wish]) -> None:
    """Until every job is over and every machine gone, and a while longer; or until something is broken."""
    quiet_s = 0.0
    while quiet_s < QUIET_S and not world.violations:
        await anyio.sleep(5.0)
        quiet_s = quiet_s + 5.0 if _is_over(world, rows) else 0.0
        if world.clock.monotonic_s() > HOURS_MAX * 3600:
            open_rows = world.sql(
                "SELECT id, phase, reason, message FROM job WHERE finished_at_ms IS NULL"
            )
            world.blame(f"not over after {HOURS_MAX} h: {open_rows[:3]}")


def _is_over(world: World, rows: list[Wish]) -> bool:
    ((counted,),) = [
        tuple(row.values())
        for row in world.sql("SELECT count(*) FROM job WHERE finished_at_ms IS NULL")
    ]
    open_attempts = world.sql("SELECT 1 FROM attempt WHERE ended_at_ms IS NULL LIMIT 1")
    alive = any(
        is_ours(world, machine) and machine.terminated_at_ms is None
        for machine in world.cloud.machines
    )
    return counted == 0 and not open_attempts and not alive and world.deaths >= 0
