"""How much one pass and one job cost in SQL and in API calls: the same on every machine, so a budget can be a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation

IDLE_PASS_STATEMENTS = 18
"""Three of them are of the loops for schedules and for jobs that are held, which look again after seconds, not with every pass."""
LIFE_STATEMENTS = 140
"""What one job adds to the passes that happen anyway, from its row to its end."""
HUNDRED_STATEMENTS_EACH = 1.6
"""The same for each job of an array of a hundred."""
LIFE_CALLS = 60


class Counted:
    """Statements since the count began, transactions' own ones not counted."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def note(self, *arguments: object) -> None:
        """SQLAlchemy's before_cursor_execute."""
        text = str(arguments[2])
        if not text.startswith(("BEGIN", "PRAGMA")):
            self.statements.append(text)


@contextmanager
def counting(world: Installation) -> Iterator[Counted]:
    """What the daemon's two connections execute meanwhile."""
    counted = Counted()
    engines = (world.database._writer.sync_engine, world.database._reader.sync_engine)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", counted.note)
    try:
        yield counted
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", counted.note)


async def test_an_idle_pass_costs_little(world: Installation) -> None:
    """A pass of all loops with nothing to do reads a fixed number of times and writes nothing."""
    await world.rounds(1)
    with counting(world) as counted:
        await world.daemon.one_round()
    assert len(counted.statements) <= IDLE_PASS_STATEMENTS, counted.statements
    assert all(statement.startswith("SELECT") for statement in counted.statements)


async def statements_of(world: Installation, spec: str) -> int:
    """Statements of a life beyond those of as many idle passes."""
    await world.rounds(1)
    with counting(world) as idle:
        await world.daemon.one_round()
    world.insert(spec)
    rounds = 0

    def is_over() -> bool:
        nonlocal rounds
        rounds += 1
        return world.job()["finished_at_ms"] is not None

    with counting(world) as counted:
        await world.until(is_over)
    return len(counted.statements) - rounds * len(idle.statements)


async def test_a_life_costs_a_fixed_number_of_statements(world: Installation) -> None:
    """From the row to the end."""
    count = await statements_of(world, spec_json(Script()))
    assert count <= LIFE_STATEMENTS


async def test_a_hundred_jobs_share_their_statements(world: Installation) -> None:
    """Jobs that move together are read and saved together."""
    count = await statements_of(world, spec_json(Script(), array=100))
    assert count / 100 <= HUNDRED_STATEMENTS_EACH


async def test_calls_do_not_grow_with_the_jobs(world: Installation) -> None:
    """A hundred jobs cost as many API calls as one: pages, not jobs."""
    world.insert(spec_json(Script()))
    await world.until_over()
    one = sum(world.cloud.calls.values())
    world.cloud.calls.clear()
    world.insert(spec_json(Script(), array=100), job_id="many")
    await world.until_over("many")
    assert sum(world.cloud.calls.values()) <= one + 2 <= LIFE_CALLS
