"""The jobs of one seed. Law: what a job is supposed to do is known before it is inserted, so that its end can be judged."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass, field

import anyio

from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.simulation.needs import drawn_needs
from tests.simulation.world import World

JOBS = 20


@dataclass(frozen=True, slots=True)
class Wish:
    """One row that a submitter inserts."""

    job_id: str
    spec: str
    after_s: float
    scripts: tuple[Script, ...] = ()
    broken: bool = False
    fields: dict[str, object] = field(default_factory=dict)


def wishes(seed: int) -> list[Wish]:
    """At least JOBS rows, in the order of their insertion."""
    dice = random.Random(f"jobs-{seed}")
    return [_wish(dice, number, seed) for number in range(JOBS + dice.randint(0, 4))]


def _wish(dice: random.Random, number: int, seed: int) -> Wish:
    job_id, after_s = f"job-{number}", dice.choice((0.0, 0.0, dice.uniform(0, 60)))
    if dice.random() < 0.05:
        return Wish(job_id, '{"commands": 7}', after_s, broken=True)
    scripts = tuple(_script(dice) for _ in range(dice.randint(1, 3)))
    fields: dict[str, object] = {"resources": {"cpu": 2, "memory": "8GB"}}
    if dice.random() < 0.5:
        fields["spot_policy"] = dice.choice(("spot", "on-demand", "auto"))
    if dice.random() < 0.2:
        fields["max_duration"] = f"{dice.randint(5, 60)}s"
    if dice.random() < 0.3:
        fields["retry"] = {
            "on": ["interruption", "no-capacity", "error"],
            "max_attempts": dice.randint(1, 4),
        }
    if dice.random() < 0.15:
        fields |= {"budget": dice.choice((0.001, 0.025, 0.05, 0.5)), "max_duration": "60s"}
    if dice.random() < 0.25:
        fields |= {"reuse": f"{dice.randint(5, 200)}s", "spot_policy": "auto"}
    if dice.random() < 0.1:
        fields["array"] = dice.randint(1, 4)
    fields |= drawn_needs(str(seed), number)
    return Wish(job_id, spec_json(scripts, **fields), after_s, scripts=scripts, fields=fields)


def _run_s(dice: random.Random) -> float:
    """Few are so long that a bound on silence could hit them."""
    short_s = dice.choice((0.5, 5.0, 20.0, dice.uniform(0, 120)))
    return dice.uniform(300, 700) if dice.random() < 0.04 else short_s


def _script(dice: random.Random) -> Script:
    return Script(
        run_s=_run_s(dice),
        exit_code=dice.choice((0, 0, 0, 1, 137)),
        lines=dice.randint(0, 12),
        files=dice.randint(0, 2),
        seal_s=dice.uniform(0, 5),
        never_boots=dice.random() < 0.03,
        fails_at=dice.choice(("inputs", "start")) if dice.random() < 0.04 else "",
        hangs_after_s=dice.uniform(0, 20) if dice.random() < 0.03 else None,
        dies_after_s=dice.uniform(0, 20) if dice.random() < 0.05 else None,
        reclaim_after_s=dice.uniform(0, 20) if dice.random() < 0.1 else None,
        deaf=dice.random() < 0.05,
        lingers=dice.random() < 0.1,
        rebalance_after_s=dice.uniform(0, 20) if dice.random() < 0.05 else None,
        silence_after_s=dice.uniform(0, 60) if dice.random() < 0.03 else None,
    )


async def submit(world: World, rows: list[Wish]) -> None:
    """Insert every row at its time, in a transaction of its own."""
    for row in rows:
        await anyio.sleep(row.after_s)
        while True:
            try:
                world.sql(
                    "INSERT INTO job (id, spec, submitted_at_ms) VALUES (?, ?, ?)",
                    *(row.job_id, row.spec, world.clock.now_ms()),
                )
            except sqlite3.OperationalError:  # the lock: as any application, it comes again
                await anyio.sleep(0.05)
            else:
                break
        world.tell(f"insert {row.job_id}")
