"""Who waits for whom, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.clock import SystemClock
from dstackd.core.dependency import Need
from dstackd.core.phase import Phase, Reason
from dstackd.spec.errors import SpecError
from dstackd.spec.model import Dependency, DependencyEnd
from dstackd.store.dependencies import (
    add_dependencies,
    dependency_problems,
    doomed_by,
    forget_needs,
    needs_now,
    needs_of,
)
from dstackd.store.engine import Database, open_database
from dstackd.store.moves import FAR_MS, Move, save_moves
from tests.builders import NOW_MS
from tests.store import rows

ANY = DependencyEnd.ANY


def on(*job_ids: str) -> Sequence[Dependency]:
    """Their success is needed."""
    return [Dependency(job_id) for job_id in job_ids]


async def hold(database: Database, wanted: dict[str, Sequence[Dependency]]) -> None:
    """As intake leaves jobs that wait for others."""
    await database.write(partial(add_dependencies, wanted=wanted))
    for job_id in wanted:
        await rows.run(
            database,
            "UPDATE job SET phase = 'queued', reason = 'dependency', held = 1, version = 1, next_visit_at_ms = :far"
            " WHERE id = :id",
            far=FAR_MS,
            id=job_id,
        )


def ended(job_id: str, phase: Phase = Phase.CANCELLED) -> Move:
    """The end of a job that was just submitted."""
    reason = Reason.CANCEL_REQUESTED
    return Move(job_id, 0, Phase.SUBMITTED, NOW_MS, phase=phase, reason=reason)


async def due(database: Database) -> list[str]:
    """Held jobs that are to be looked at."""
    found = await rows.rows(
        database, "SELECT id FROM job WHERE held = 1 AND next_visit_at_ms = 0 ORDER BY id"
    )
    return [row["id"] for row in found]


async def test_the_end_of_a_job_makes_those_due_that_need_it(either: Database) -> None:
    """In the same transaction, with a higher version; nobody else is touched, and a move that ends nothing wakes nobody."""
    await rows.submit(either, "a", "b", "c", "d")
    await hold(either, {"c": on("a", "b"), "d": on("b")})
    queued = Move("b", 0, Phase.SUBMITTED, NOW_MS, phase=Phase.QUEUED, reason=Reason.ACCEPTED)
    await either.write(partial(save_moves, moves=[queued]))
    assert await due(either) == []
    await either.write(partial(save_moves, moves=[ended("a")]))
    assert await due(either) == ["c"]
    versions = await rows.rows(either, "SELECT id, version FROM job WHERE id IN ('c', 'd')")
    assert {row["id"]: row["version"] for row in versions} == {"c": 2, "d": 1}


async def test_a_deleted_job_makes_those_due_that_need_it(either: Database) -> None:
    """Whoever deletes a row that others wait for does not leave them waiting for ever; one that is over was waited for by nobody."""
    await rows.submit(either, "a", "b", "c", "d")
    await hold(either, {"c": on("a"), "d": on("b")})
    await rows.run(either, "DELETE FROM job WHERE id = 'a'")
    assert await due(either) == ["c"]
    assert await either.read(partial(needs_of, job_ids=["c"])) == {
        "c": [Need("a", DependencyEnd.SUCCESS, None)]
    }


async def test_needs_are_read_with_where_the_others_are(either: Database) -> None:
    """As they were written, until the job waits no more."""
    await rows.submit(either, "a", "b", "c")
    await hold(either, {"c": [Dependency("a", ANY), *on("b")]})
    await either.write(partial(save_moves, moves=[ended("a")]))
    needs = {
        "c": [Need("a", ANY, Phase.CANCELLED), Need("b", DependencyEnd.SUCCESS, Phase.SUBMITTED)]
    }
    assert await either.read(partial(needs_of, job_ids=["b", "c"])) == needs
    wanted = [Dependency("b"), Dependency("nobody", ANY)]
    assert await either.read(partial(needs_now, wanted=wanted)) == [
        needs["c"][1],
        Need("nobody", ANY, None),
    ]
    await either.write(partial(forget_needs, job_ids=["c"]))
    assert await either.read(partial(needs_of, job_ids=["c"])) == {}


async def test_the_doomed_are_found_through_every_need_of_success(either: Database) -> None:
    """However deep; a need of any end stops it, and so does a job that is not held."""
    await rows.submit(either, "a", "b", "c", "d", "e", "f")
    await hold(
        either,
        {"b": on("a"), "c": on("b", "a"), "d": [Dependency("c", ANY)], "e": on("d"), "f": on("c")},
    )
    found = await either.read(partial(doomed_by, job_ids=["a"], count_max=10))
    assert {each.job_id for each in found} == {"b", "c", "f"}
    assert {each.job_id: each.via for each in found}["f"] == "c"
    assert len(await either.read(partial(doomed_by, job_ids=["a"], count_max=1))) == 1


async def problems(
    database: Database, wanted: dict[str, Sequence[Dependency]]
) -> dict[str, SpecError]:
    """What intake would refuse."""
    return await database.write(partial(dependency_problems, wanted=wanted))


async def test_a_circle_through_accepted_jobs_is_found(either: Database) -> None:
    """New jobs may close a circle with those that wait already, over several of these."""
    await rows.submit(either, "a", "b", "c", "d")
    await hold(either, {"a": on("b"), "b": on("c")})
    assert await problems(either, {"c": on("d")}) == {}
    found = await problems(either, {"c": on("a")})
    assert "the jobs c, a and b need each other in a circle" in str(found["c"])
    found = await problems(either, {"c": on("d"), "d": on("a")})
    assert set(found) == {"c", "d"}


async def test_an_end_meanwhile_is_not_missed(postgres_url: str) -> None:
    """Where one daemon accepts a job that needs one which another daemon ends at the same moment, one of them waits for the other,
    and the new job is made due or sees the end: never neither.
    """
    async with (
        open_database(postgres_url, clock=SystemClock()) as mine,
        open_database(postgres_url, clock=SystemClock()) as other,
    ):
        await rows.submit(mine, "a", "b")
        checked, may_go = anyio.Event(), anyio.Event()

        async def accept(connection: AsyncConnection) -> None:
            assert await dependency_problems(connection, {"b": on("a")}) == {}
            checked.set()
            await may_go.wait()
            await add_dependencies(connection, {"b": on("a")})
            queued = Move("b", 0, Phase.SUBMITTED, NOW_MS, phase=Phase.QUEUED, changes={"held": 1})
            await save_moves(connection, [queued])

        async def end() -> None:
            await checked.wait()
            await other.write(partial(save_moves, moves=[ended("a")]))

        async def let_go() -> None:
            await checked.wait()
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            for _ in range(500):  # a daemon that does not wait has ended it meanwhile
                if await rows.rows(mine, waiting):
                    break
                await anyio.sleep(0.01)
            may_go.set()

        async with anyio.create_task_group() as group:
            group.start_soon(mine.write, accept)
            group.start_soon(end)
            group.start_soon(let_go)
        assert await due(mine) == ["b"]


@pytest.mark.parametrize("count", [1, 1200])
async def test_many_at_once(either: Database, count: int) -> None:
    """More than fit into one list of a statement."""
    ids = [f"j{number}" for number in range(count)]
    await rows.submit(either, *ids)
    found = await problems(either, {each: on("nobody") for each in ids})
    assert set(found) == set(ids)
    await hold(either, {ids[-1]: on(*ids[:99])} if count > 1 else {})
    await either.write(partial(save_moves, moves=[ended(each) for each in ids[:-1]]))
    assert await due(either) == (ids[-1:] if count > 1 else [])
