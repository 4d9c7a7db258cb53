"""The jobs' output, from CloudWatch into files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstackd import protocol
from dstackd.controllers import logs
from dstackd.errors import StorageFailed
from dstackd.protocol import LogLine
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.fuse import Crash, Fuse
from tests.controllers.installation import Installation
from tests.controllers.many_logs import follow_many


def texts(world: Installation) -> list[str]:
    """The lines of the first attempt."""
    return [line.log for line in world.lines()]


def verdicts(world: Installation) -> list[str]:
    """What was said about the first attempt's log, in order; the last is what the attempt says."""
    rows = world.sql(
        "SELECT message FROM event WHERE job_id = 'job-1' AND kind = 'log_verdict' ORDER BY id"
    )
    said = [str(row["message"]) for row in rows]
    assert said[-1:] == [world.attempts()[0]["log_verdict"]]
    return said


async def test_late_and_doubled_events_come_out_once_and_in_order(world: Installation) -> None:
    """Half of the events show a minute late, half of them twice."""
    faults = world.cloud.faults
    faults.late_share, faults.late_s, faults.doubled_share = 0.5, 25.0, 0.5
    world.insert(spec_json(Script(lines=60, run_s=120.0)))
    await world.until_over()
    assert texts(world) == [f"line {n + 1}" for n in range(60)]
    (attempt,) = world.attempts()
    assert attempt["log_lines_seen"] == attempt["log_lines_sent"] == 60
    assert verdicts(world) == ["complete"]


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
    assert verdicts(world)[-1] == f"incomplete ({missing} missing)"
    world.restart()
    await world.rounds(3)
    assert attempt == world.attempts()[0]


async def test_a_line_that_comes_after_the_end_is_taken_in(world: Installation) -> None:
    """The job does not wait for ever, but what comes soon afterwards is in the file, and the verdict is mended."""
    faults = world.cloud.faults
    faults.late_share, faults.late_s = 1.0, 110.0
    world.insert(spec_json(Script(lines=5)))
    await world.until_over()
    assert verdicts(world) == ["incomplete (5 missing)"]
    await world.rounds(15)
    assert texts(world) == [f"line {n + 1}" for n in range(5)]
    assert verdicts(world)[-1] == "complete"


async def test_a_machine_without_a_last_word_leaves_it_unconfirmed(world: Installation) -> None:
    """How many lines there were nobody knows; each attempt has a verdict of its own, whatever its job does."""
    dies = Script(lines=9, run_s=100.0, dies_after_s=60.0)
    world.insert(spec_json([dies, Script(lines=4)], retry={"max_attempts": 2}))
    await world.until_over()
    await world.rounds(3)
    first, second = world.attempts()
    arrived = len(texts(world))
    assert 0 < arrived < 9
    assert first["log_verdict"] == f"unconfirmed ({arrived} lines arrived)"
    assert second["log_verdict"] == "complete"


async def test_an_attempt_that_never_ran_has_no_verdict(world: Installation) -> None:
    """Where no command began there is no log to judge."""
    world.insert(spec_json(Script(fails_at="document")))
    await world.until_over()
    assert {attempt["log_verdict"] for attempt in world.attempts()} == {""}


async def test_more_lines_than_calls_are_read_in_time(world: Installation) -> None:
    """A job that writes faster than CloudWatch may be asked is behind, never wrong: the rest is read after its end."""
    world.cloud.faults.log_page_events = 10
    world.insert(spec_json(Script(lines=800, run_s=30.0)))
    await world.until_over()
    assert verdicts(world)[-1].startswith("incomplete")
    await world.rounds(60, every_s=2.0)
    assert texts(world) == [f"line {n + 1}" for n in range(800)]
    assert verdicts(world)[-1] == "complete"


async def test_a_foreign_writer_cannot_fill_the_disk(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes into the group under a job's name fills no more of the disk than a job could."""
    monkeypatch.setattr(logs, "FILE_MARGIN_BYTES", 0)
    world.wrap = lambda ports: replace(ports, log_quota_bytes=4000)
    world.restart()
    world.insert(spec_json(Script(lines=5, run_s=100.0)))
    await world.until_phase("running")
    for n in range(1, 200):
        line = LogLine(n, "stdout", "x" * 100)
        world.cloud.logs.write("job-1/1", protocol.encode_log_line(line))
    await world.until_over()
    await world.rounds(15)
    assert 4000 < world.files.path("job-1", 1).stat().st_size <= 5000


async def test_a_late_line_of_a_silent_job_is_shown(world: Installation) -> None:
    """Nothing that follows tells that a line is missing, and it is shown all the same, long before the job's end."""
    faults = world.cloud.faults
    faults.late_share, faults.late_s = 1.0, 90.0
    world.insert(spec_json(Script(lines=1, run_s=500.0)))
    await world.until_phase("running")
    await world.until(lambda: bool(world.lines()), every_s=5.0)
    assert (texts(world), world.job()["phase"]) == (["line 1"], "running")


async def test_lines_behind_a_lost_one_are_shown_while_the_job_runs(world: Installation) -> None:
    """A hole is waited for, but not until the end of a job of days."""
    world.insert(spec_json(Script(lines=30, run_s=900.0)))
    await world.until_phase("running")
    world.cloud.faults.lost_share = 1.0
    await world.rounds(10)
    world.cloud.faults.lost_share = 0.0
    await world.until(lambda: any(line.missing for line in world.lines()))
    assert world.job()["phase"] == "running"
    await world.until_over(rounds_max=300)
    (hole,) = [line for line in world.lines() if line.missing]
    assert verdicts(world)[-1] == f"incomplete ({hole.missing} missing)"


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


async def test_lines_that_were_written_and_not_counted_are_counted(world: Installation) -> None:
    """The daemon dies between the file and the table, after the attempt's end: the next one finds the log whole, and says so."""
    world.cloud.faults.lose_call["FilterLogEvents"] = 10_000
    world.insert(spec_json(Script(lines=5)))
    await world.until_over()
    assert verdicts(world) == ["incomplete (5 missing)"]
    world.cloud.faults.lose_call.clear()
    world.wrap = Fuse(blow_at=1).around
    world.restart()
    with pytest.raises(Crash, match="log lines"):
        await world.daemon.logs.step()
    world.wrap = lambda ports: ports
    world.restart()
    await world.rounds(2)
    assert len(texts(world)) == 5
    assert verdicts(world)[-1] == "complete"


async def test_one_sweep_serves_all_jobs(world: Installation) -> None:
    """Twenty jobs cost no more calls than one."""
    world.insert(spec_json(Script(lines=2), array=20))
    await world.until_over()
    world.cloud.calls.clear()
    world.insert(spec_json(Script(lines=2), array=20), job_id="again")
    await world.until_phase("running", "again-0")
    world.cloud.calls.clear()
    for _ in range(5):
        world.clock.advance(1.0)
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


async def test_many_jobs_are_followed_with_few_calls(world: Installation) -> None:
    """A tenth of the events late, a tenth twice: every line of 100 jobs is there once and in order, each verdict is
    right, and CloudWatch is asked as often as for one job: at most twice a second, never five times in one.
    """
    done = await follow_many(world, jobs=100, lines=30)
    assert (done.in_order, done.complete, done.lines) == (100, 100, 3000)
    assert done.calls_a_second <= 2.0
    assert done.calls_in_a_second_max <= 5
