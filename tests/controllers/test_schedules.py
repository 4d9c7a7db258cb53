"""Schedules: each time has its job once, whatever happens meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation

HOUR_S = 3600.0
ENDLESS = Script(run_s=300_000.0)


def add(world: Installation, name: str = "nightly", **columns: object) -> None:
    """An application's row."""
    row = {
        "name": name,
        "cron": "0 * * * *",
        "spec": spec_json(),
        "created_at_ms": world.clock.now_ms(),
        **columns,
    }
    names, places = ", ".join(row), ", ".join("?" for _ in row)
    world.sql(f"INSERT INTO schedule ({names}) VALUES ({places})", *row.values())


def schedule(world: Installation, name: str = "nightly") -> dict[str, object]:
    return world.sql("SELECT * FROM schedule WHERE name = ?", name)[0]


def jobs(world: Installation, name: str = "nightly") -> list[dict[str, object]]:
    """The jobs of a schedule, in the order of their times."""
    pattern = f"schedule/{name}/%"
    return world.sql("SELECT * FROM job WHERE unique_key LIKE ? ORDER BY unique_key", pattern)


def to_the_hour_s(world: Installation, *, minute: int = 0) -> float:
    """Until the next such minute of an hour."""
    past_s = (world.clock.now_ms() / 1000 - minute * 60) % HOUR_S
    return HOUR_S - past_s


async def look(world: Installation, *, after_s: float = 0.0) -> float:
    """One look of the loop; returns for how long it sleeps."""
    world.clock.advance(after_s)
    return await world.daemon.schedules.step()


async def test_each_time_has_its_job(world: Installation) -> None:
    """Inserted by the daemon as any application would, with the schedule's project and priority, named by schedule and time."""
    add(world, project="reports", priority=7)
    await look(world)
    assert jobs(world) == []
    at_ms = schedule(world)["next_run_at_ms"]
    assert at_ms == world.clock.now_ms() + to_the_hour_s(world) * 1000
    await look(world, after_s=to_the_hour_s(world) - 1)
    assert jobs(world) == []
    await look(world, after_s=1.5)
    await look(world)
    (job,) = jobs(world)
    at = datetime.fromtimestamp(int(str(at_ms)) / 1000, UTC)
    assert job["unique_key"] == f"schedule/nightly/{at:%Y-%m-%dT%H:%MZ}"
    assert (job["project"], job["priority"]) == ("reports", 7)
    row = schedule(world)
    assert (row["last_run_at_ms"], row["last_job_id"]) == (at_ms, job["id"])
    assert row["next_run_at_ms"] == int(str(at_ms)) + HOUR_S * 1000
    await world.until_over(str(job["id"]))
    assert world.job(str(job["id"]))["phase"] == "succeeded"


async def test_it_sleeps_until_the_next_time(world: Installation) -> None:
    """Not longer than the fallback, and not shorter than it has to."""
    add(world)
    assert await look(world) == world.daemon.schedules.interval_s
    rest_s = await look(world, after_s=to_the_hour_s(world) - 2)
    assert rest_s == pytest.approx(2.0, abs=0.01)


async def test_a_quiet_schedule_writes_nothing(world: Installation) -> None:
    """Between two times, and for a bad schedule, no row is written."""
    add(world)
    add(world, "bad", cron="x")
    await look(world)
    versions = world.sql("SELECT version, message FROM schedule ORDER BY name")
    for _ in range(5):
        await look(world, after_s=10.0)
    world.restart()
    await look(world)
    assert world.sql("SELECT version, message FROM schedule ORDER BY name") == versions


async def test_two_daemons_and_a_crash_make_one_job(world: Installation) -> None:
    """Whoever looks, and however often, each time is run once."""
    add(world)
    await look(world)
    first = world.daemon
    world.restart()
    for _ in range(3):
        await look(world, after_s=to_the_hour_s(world))
        await first.schedules.step()
        world.restart()
        await look(world)
        for job in jobs(world):
            world.sql("UPDATE job SET cancel_requested = 1 WHERE id = ?", job["id"])
        await world.rounds(1, every_s=1.0)
    assert len(jobs(world)) == 3


async def test_a_job_that_is_there_already_is_taken_for_the_times(world: Installation) -> None:
    """A time whose job was committed and whose schedule was not, as after an edit back and forth, is not run again."""
    add(world)
    await look(world)
    await look(world, after_s=to_the_hour_s(world) + 1)
    (job,) = jobs(world)
    world.sql("UPDATE schedule SET next_run_at_ms = last_run_at_ms, last_job_id = NULL")
    await look(world)
    assert [each["id"] for each in jobs(world)] == [job["id"]]
    assert schedule(world)["last_job_id"] == job["id"]


@pytest.mark.parametrize(("overlap", "count"), [("skip", 1), ("allow", 3)])
async def test_overlap(world: Installation, overlap: str, count: int) -> None:
    """`skip` leaves out the times at which the last job is not over, and says so; `allow` does not."""
    add(world, overlap=overlap, spec=spec_json(ENDLESS))
    await look(world)
    for _ in range(3):
        await look(world, after_s=to_the_hour_s(world))
    found = jobs(world)
    assert len(found) == count
    message = str(schedule(world)["message"])
    assert (f"job {found[0]['id']} is not over (overlap: skip)" in message) == (overlap == "skip")
    for each in found:
        world.cancel(str(each["id"]))
    await world.until_over(*(str(each["id"]) for each in found))
    await look(world, after_s=to_the_hour_s(world))
    assert len(jobs(world)) == count + 1
    assert schedule(world)["message"] == ""


@pytest.mark.parametrize(("catch_up", "count"), [("last", 1), ("none", 0)])
async def test_after_a_downtime(world: Installation, catch_up: str, count: int) -> None:
    """Of the times that nobody was there for, `last` runs the last one, and `none` none; the row says what was left out."""
    add(world, catch_up=catch_up, overlap="allow")
    await look(world)
    await look(world, after_s=to_the_hour_s(world, minute=30) + 5 * HOUR_S)
    assert len(jobs(world)) == count
    message = str(schedule(world)["message"])
    assert ("alone of those since" in message) == (catch_up == "last")
    assert ("not run any more (catch_up: none)" in message) == (catch_up == "none")
    await look(world, after_s=to_the_hour_s(world))
    assert len(jobs(world)) == count + 1


@pytest.mark.parametrize("catch_up", ["last", "none"])
async def test_a_short_downtime_misses_nothing(world: Installation, catch_up: str) -> None:
    """A restart at the time itself is not a missed time."""
    add(world, catch_up=catch_up)
    await look(world)
    await look(world, after_s=to_the_hour_s(world) + 200)
    assert len(jobs(world)) == 1
    assert schedule(world)["message"] == ""


async def test_a_new_schedule_counts_from_its_insert(world: Installation) -> None:
    """A time between the insert and the daemon's first look is not lost."""
    world.clock.advance(to_the_hour_s(world) - 1)
    add(world)
    await look(world, after_s=3.0)
    assert len(jobs(world)) == 1


async def test_a_schedule_that_is_off_does_nothing(world: Installation) -> None:
    """And nothing is caught up once it is on again: nobody was waiting for it."""
    add(world, enabled=0)
    await look(world)
    await look(world, after_s=2 * HOUR_S)
    assert schedule(world)["next_run_at_ms"] is None
    world.sql("UPDATE schedule SET enabled = 1")
    await look(world, after_s=60.0)
    assert jobs(world) == []
    await look(world, after_s=to_the_hour_s(world))
    assert len(jobs(world)) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cron": "0 6 * *"}, 'cron: "0 6 * *" has 4 fields, not 5; write minute, hour'),
        ({"timezone": "Mars"}, 'timezone: "Mars" is no time zone;'),
        ({"cron": "0 0 29 2 1#6"}, "cron: "),
        ({"spec": '{"commands": 7}'}, "spec.commands: 7 is not text"),
        ({"spec": "[]"}, "spec: a list of 0 is not a mapping"),
    ],
)
async def test_a_bad_schedule_says_what_is_wrong(
    world: Installation, columns: dict[str, object], message: str
) -> None:
    """In its row, naming field and fix; the others go on, and so does it once it is mended."""
    add(world, "a-bad-one", **columns)
    add(world)
    await look(world)
    await look(world, after_s=to_the_hour_s(world))
    assert len(jobs(world)) == 1
    assert message in str(schedule(world, "a-bad-one")["message"])
    assert schedule(world, "a-bad-one")["next_run_at_ms"] is None
    world.sql(
        "UPDATE schedule SET cron = '0 * * * *', timezone = 'UTC', spec = ? WHERE name = 'a-bad-one'",
        spec_json(),
    )
    await look(world)
    await look(world, after_s=to_the_hour_s(world))
    assert len(jobs(world, "a-bad-one")) == 1
    assert schedule(world, "a-bad-one")["message"] == ""


async def test_an_edit_counts_from_now_on(world: Installation) -> None:
    """A new cron expression, zone or spec is what the next time goes by."""
    add(world)
    await look(world)
    world.sql("UPDATE schedule SET cron = '30 * * * *', spec = ?", spec_json(name="other"))
    await look(world)
    await look(world, after_s=to_the_hour_s(world, minute=30))
    (job,) = jobs(world)
    assert '"name": "other"' in str(job["spec"])
    assert str(job["unique_key"]).endswith(":30Z")


async def test_zones_are_kept_through_their_changes(world: Installation) -> None:
    """A daily schedule runs once a day by its own zone's clock, in weeks with 23 and 25 hours too."""
    start = datetime(2027, 10, 29, 12, tzinfo=UTC)
    world.clock.advance(start.timestamp() - world.clock.now_ms() / 1000)
    add(world, cron="30 2 * * *", timezone="Europe/Berlin", overlap="allow")
    await look(world)
    for _ in range(96):
        await look(world, after_s=HOUR_S)
    assert [str(job["unique_key"])[17:] for job in jobs(world)] == [
        *("2027-10-30T00:30Z", "2027-10-31T00:30Z", "2027-11-01T01:30Z", "2027-11-02T01:30Z")
    ]
