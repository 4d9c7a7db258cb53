"""The jobs' output, from CloudWatch into files."""

from __future__ import annotations

from dstackd.errors import StorageFailed
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation


def texts(world: Installation) -> list[str]:
    """The lines of the first attempt."""
    return [line.log for line in world.lines()]


async def test_late_and_doubled_events_come_out_once_and_in_order(world: Installation) -> None:
    """Half of the events show a minute late, half of them twice."""
    faults = world.cloud.faults
    faults.late_share, faults.late_s, faults.doubled_share = 0.5, 25.0, 0.5
    world.insert(spec_json(Script(lines=60, run_s=120.0)))
    await world.until_over()
    assert texts(world) == [f"line {n + 1}" for n in range(60)]
    (attempt,) = world.attempts()
    assert attempt["log_lines_seen"] == attempt["log_lines_sent"] == 60


async def test_what_is_lost_is_named(world: Installation) -> None:
    """Events that never arrive hold the job up for a bound only; the file and the attempt say what is missing."""
    world.cloud.faults.lost_share = 0.3
    world.insert(spec_json(Script(lines=40)))
    await world.until_over()
    await world.rounds(15)
    lines = world.lines()
    missing = sum(line.missing for line in lines)
    assert missing > 0
    assert [n for line in lines for n in range(line.n, line.last_n + 1)] == list(range(1, 41))
    (attempt,) = world.attempts()
    assert (attempt["log_lines_sent"], attempt["log_lines_seen"]) == (40, 40 - missing)


async def test_a_line_that_comes_after_the_end_is_taken_in(world: Installation) -> None:
    """The job does not wait for ever, but what comes soon afterwards is in the file."""
    faults = world.cloud.faults
    faults.late_share, faults.late_s = 1.0, 110.0
    world.insert(spec_json(Script(lines=5)))
    await world.until_over()
    await world.rounds(15)
    assert texts(world) == [f"line {n + 1}" for n in range(5)]


async def test_a_restart_neither_loses_nor_doubles_lines(world: Installation) -> None:
    """A new daemon goes on where the file ends, also behind a line that was cut off by the crash."""
    world.insert(spec_json(Script(lines=40, run_s=120.0)))
    await world.until_phase("running")
    for _ in range(4):
        await world.rounds(3)
        path = world.files.path("job-1", 1)
        with path.open("a") as file:
            file.write('{"n": 99, "at_ms')
        world.restart()
    await world.until_over()
    assert texts(world) == [f"line {n + 1}" for n in range(40)]


async def test_one_sweep_serves_all_jobs(world: Installation) -> None:
    """Twenty jobs cost no more calls than one."""
    world.insert(spec_json(Script(lines=2), array=20))
    await world.until_over()
    world.cloud.calls.clear()
    world.insert(spec_json(Script(lines=2), array=20), job_id="again")
    await world.until_phase("running", "again-0")
    world.cloud.calls.clear()
    for _ in range(5):
        await world.daemon.logs.step()
    assert world.cloud.calls["FilterLogEvents"] == 5


async def test_a_disk_that_takes_no_lines_loses_none(world: Installation) -> None:
    """While the file cannot be written the loop says so and goes on; afterwards every line is there, once."""
    world.insert(spec_json(Script(lines=30, run_s=200.0)))
    await world.until_phase("running")
    await world.rounds(2)
    folder = world.files.path("job-1", 1).parent
    aside = folder.with_name("aside")
    folder.rename(aside) if folder.exists() else aside.mkdir(parents=True)
    folder.touch()  # a file where the folder belongs: no line can be written
    world.clock.advance(30.0)
    errors = [error for _ in range(3) for error in await world.daemon.one_round()]
    assert any(isinstance(error, StorageFailed) for error in errors)
    folder.unlink()
    aside.rename(folder)
    await world.until_over()
    await world.rounds(3)
    assert texts(world) == [f"line {n + 1}" for n in range(30)]


async def test_events_that_no_runner_wrote_are_passed_over(world: Installation) -> None:
    """Any job may write to the group; what is no line harms neither the daemon nor the other lines."""
    world.insert(spec_json(Script(lines=5, run_s=60.0)))
    await world.until_phase("running")
    for message in ('{"n": 1e999, "source": "stdout", "log": "x"}', "[" * 50_000, "hello"):
        world.cloud.logs.write("job-1/1", message)
    await world.until_over()
    assert texts(world) == [f"line {n + 1}" for n in range(5)]
