"""A job is launched at its time, and not before."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest

from dstackd.controllers.holding import Holding
from dstackd.store import jobs, lease
from tests.builders import spec_json
from tests.controllers.installation import BACKEND, Installation

HOUR_MS = 3_600_000


def moment(world: Installation, *, in_ms: int) -> str:
    """A time as an application writes it."""
    at_s = (world.clock.now_ms() + in_ms) / 1000
    return datetime.fromtimestamp(at_s, UTC).isoformat(" ", timespec="milliseconds")


def later(world: Installation, *, in_ms: int = HOUR_MS, spec: str | None = None) -> None:
    """A job whose time lies ahead."""
    statement = "INSERT INTO job (id, spec, run_at) VALUES ('job-1', ?, ?)"
    world.sql(statement, spec or spec_json(), moment(world, in_ms=in_ms))


async def test_a_job_runs_at_its_time(world: Installation) -> None:
    """Until then it is queued, says what it waits for, and has no attempt; then it goes through its whole life."""
    later(world)
    due_ms = world.clock.now_ms() + HOUR_MS
    await world.rounds(20)
    job = world.job()
    assert (job["phase"], job["reason"], job["attempt"]) == ("queued", "scheduled", 0)
    assert job["message"].startswith("waits for its time, ")
    world.clock.advance((due_ms - world.clock.now_ms() - 30_000) / 1000)
    await world.until_over()
    assert world.job()["phase"] == "succeeded"
    (attempt,) = world.attempts()
    assert due_ms <= attempt["launched_at_ms"] < due_ms + 60_000


async def test_it_sleeps_until_then(world: Installation) -> None:
    """The next look is at the job's time, not at the loop's."""
    later(world, in_ms=3_000)
    await world.daemon.intake.step()
    assert await world.daemon.holding.step() == pytest.approx(3.0, abs=0.01)
    later_visit = world.job()["next_visit_at_ms"]
    assert later_visit == world.job()["run_at_ms"]


async def test_a_time_that_has_passed_is_at_once(world: Installation) -> None:
    """It is the planner's in the same pass."""
    later(world, in_ms=-1)
    await world.daemon.intake.step()
    assert (world.job()["reason"], world.job()["held"]) == ("accepted", 0)


async def test_a_held_job_can_be_cancelled(world: Installation) -> None:
    """Within a round, without ever having been launched."""
    later(world)
    await world.rounds(1)
    world.cancel()
    await world.until_over(rounds_max=2)
    assert (world.job()["phase"], world.job()["attempt"]) == ("cancelled", 0)


@pytest.mark.parametrize("in_ms", [None, -1, HOUR_MS * 2])
async def test_a_time_can_be_moved(in_ms: int | None, world: Installation) -> None:
    """To now, and it runs; to later, and it waits for that."""
    later(world)
    await world.rounds(2)
    to = None if in_ms is None else moment(world, in_ms=in_ms)
    world.sql("UPDATE job SET run_at = ?", to)
    if in_ms is None or in_ms < 0:
        await world.until_over()
        assert world.job()["phase"] == "succeeded"
        return
    await world.rounds(2)
    job = world.job()
    assert (job["phase"], job["reason"], job["held"]) == ("queued", "scheduled", 1)
    assert job["next_visit_at_ms"] == job["run_at_ms"]


async def test_a_queued_job_can_be_sent_to_later(world: Installation) -> None:
    """What was accepted for now and is not launched yet is held from that moment on."""
    world.insert(spec_json())
    await world.daemon.intake.step()
    world.sql("UPDATE job SET run_at = ?", moment(world, in_ms=HOUR_MS))
    await world.rounds(5)
    assert (world.job()["reason"], world.job()["attempt"]) == ("scheduled", 0)


async def test_the_elements_of_an_array_wait_for_its_time(world: Installation) -> None:
    """Each of them is held."""
    later(world, spec=spec_json(array=3))
    await world.rounds(2)
    held = world.sql("SELECT reason, held FROM job WHERE array_parent = 'job-1'")
    assert [(row["reason"], row["held"]) for row in held] == [("scheduled", 1)] * 3


async def test_many_are_let_go_together(world: Installation) -> None:
    """More than one pass takes, in one step."""
    at = moment(world, in_ms=1000)
    world.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001)"
        " INSERT INTO job (spec, run_at) SELECT ?, ? FROM n",
        spec_json(),
        at,
    )
    await world.daemon.intake.step()
    world.clock.advance(2.0)
    await world.daemon.holding.step()
    (left,) = world.sql("SELECT count(*) AS n FROM job WHERE held = 1")
    assert left["n"] == 0


async def test_retry_within_counts_from_its_time(world: Installation) -> None:
    """A job for later is not given up for the time in which it did not want to run."""
    later(world, spec=spec_json(retry={"on": ["no-capacity"], "within": "10m"}))
    world.cloud.faults.capacity["*|*|*"] = 0
    await world.rounds(1)
    world.clock.advance(HOUR_MS / 1000)
    await world.rounds(3)
    assert (world.job()["phase"], world.job()["reason"]) == ("queued", "no_capacity")
    world.clock.advance(600.0)
    await world.until_over(rounds_max=3)
    assert world.job()["reason"] == "retries_exhausted"


async def test_no_other_backend_launches_a_job_before_its_time(world: Installation) -> None:
    """What waits for long at a backend may be another's, but not what wants to wait."""
    later(world)
    await world.daemon.intake.step()
    world.sql("UPDATE job SET backend = 'gone'")
    found = partial(
        jobs.waiting_elsewhere, backend=BACKEND, since_ms=world.clock.now_ms() + 1, count_max=9
    )
    assert await world.database.read(found) == []


async def test_a_job_whose_backend_has_no_daemon_is_let_go(world: Installation) -> None:
    """By another one's, within a minute of its time; from then on it is anybody's."""
    later(world, in_ms=1_000)
    await world.daemon.intake.step()
    world.sql("UPDATE job SET backend = 'gone'")
    clock, wakes = world.clock, world.daemon.wakes
    owned = world.database.owned(await an_owner(world))
    holding = Holding(owned, clock=clock, wakes=wakes, interval_s=5.0)
    await holding.step()
    clock.advance(2.0)
    await holding.step()
    assert world.job()["held"] == 1
    clock.advance(60.0)
    await holding.step()
    assert (world.job()["held"], world.job()["backend"]) == (0, "gone")


async def an_owner(world: Installation) -> lease.Tenure:
    """A daemon of a backend `b`."""
    world.sql("INSERT INTO backend (name, region, bucket, created_at_ms) VALUES ('b', 'r', 'u', 1)")
    seen = await world.database.read(partial(lease.read_lease, backend="b"))
    taken = await world.database.write(partial(lease.take, backend="b", seen=seen, holder="h"))
    assert taken is not None
    tenure = lease.Tenure("b", clock=world.clock)
    tenure.begin(taken, asked_at_s=world.clock.monotonic_s())
    return tenure
