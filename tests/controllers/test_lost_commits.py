"""The database commits, its answer is lost, and the daemon goes on: nobody knows whether it was done, and it was.

As with a death behind an effect, each commit of a life is taken in turn; but this daemon lives, and what it has in memory
may be wrong from now on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from dstackd.errors import StorageFailed
from dstackd.store.engine import Database
from tests.controllers.installation import Installation, Ports
from tests.controllers.reusing import quick
from tests.controllers.scenario import LIMITS, ROUND_S, ROUNDS_MAX, Scenario, at_most_one_runs
from tests.controllers.scenarios import SCENARIOS

T = TypeVar("T")

NAMES = ("plain", "array", "reclaimed", "failed to boot", "cancelled in running", "inputs")


class Unanswered(Database):
    """Commits the write number `at`, counted from 1, and says that the connection has broken."""

    def __init__(self, inner: Database, *, at: int) -> None:
        super().__init__(inner._writer, inner._reader, url=inner.url, clock=inner._clock)
        self._at = at
        self.writes = 0

    @override
    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        result = await super().write(work)
        self.writes += 1
        if self.writes == self._at:
            raise StorageFailed("connection was closed in the middle of operation")
        return result


async def live(world: Installation, scenario: Scenario) -> None:
    """Passes until the job is over and nothing of it goes on."""
    quick(world)
    scenario.set_up(world.cloud.faults)
    world.insert(scenario.spec.replace("INPUTS", str(world.inputs_root)))
    for _ in range(ROUNDS_MAX):
        for error in await world.daemon.one_round():
            assert isinstance(error, StorageFailed)
        at_most_one_runs(world)
        job = world.job()
        if job["phase"] == scenario.cancel_in and not job["cancel_requested"]:
            world.cancel()
        if job["finished_at_ms"] is not None and not goes_on(world):
            return
        world.clock.advance(ROUND_S)
    raise AssertionError(f"never ended: {world.job()}, {goes_on(world)}")


def goes_on(world: Installation) -> list[object]:
    """Attempts and machines that are not over."""
    return [
        *world.sql("SELECT job_id FROM attempt WHERE ended_at_ms IS NULL"),
        *world.sql("SELECT instance_id FROM machine WHERE gone_at_ms IS NULL"),
    ]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
async def test_a_commit_whose_answer_is_lost_changes_nothing(
    name: str, world: Installation
) -> None:
    """Whichever commit it is: the same end, no second machine, no cost or event counted twice."""
    scenario = SCENARIOS[name]
    (world.inputs_root / "code").mkdir(parents=True)
    world.limits = LIMITS
    writes, at = 1, 0
    while at < writes:
        made: list[Unanswered] = []

        def wrap(ports: Ports, made: list[Unanswered] = made, at: int = at) -> Ports:
            made.append(Unanswered(ports.database, at=at))
            return replace(ports, database=made[-1])

        world.start_over(seed=at, wrap=wrap)
        try:
            await live(world, scenario)
            scenario.check(world, died=False)
            check_history(world)
        except AssertionError as error:
            error.add_note(f"the answer of commit {at} was lost")
            raise
        writes = max(writes, made[-1].writes) if at == 0 else writes
        at += 1


def check_history(world: Installation) -> None:
    """Each move begins where the one before ended, so that none is told twice."""
    where: dict[str, str] = {}
    for event in world.sql("SELECT * FROM event WHERE kind = 'phase' ORDER BY id"):
        assert event["phase_from"] == where.get(event["job_id"], "submitted"), event
        where[event["job_id"]] = event["phase_to"]
