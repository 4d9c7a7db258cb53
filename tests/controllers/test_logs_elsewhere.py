"""The jobs' output when another host has taken over: its daemon has none of the lines that the former one wrote to its files."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from dstackd.http.distant_logs import DistantLogs
from dstackd.http.following import FollowBoard
from dstackd.http.log_reading import LogReader
from dstackd.http.log_steps import Selection
from dstackd.log_files import LogFiles, StoredLine
from dstackd.simulated.faults import Script
from dstackd.store import queries
from tests.builders import spec_json
from tests.controllers.installation import Installation


def another_host(world: Installation) -> LogFiles:
    """Takes over; returns the files of the former one."""
    former = world.files
    world.files = LogFiles(world.directory / "logs-there")
    world.restart()
    return former


async def entries(
    world: Installation, files: LogFiles, *, after: int = 0, cloud: bool = True
) -> list[dict[str, Any]]:
    """What a reader is shown on the host with these files; `cloud`: its daemon reaches CloudWatch."""
    found = await world.database.read(partial(queries.log_progress, job_ids=["job-1"]))
    reader = LogReader(
        files,
        job_id="job-1",
        asked=Selection(1, 1, after, follow=False),
        board=FollowBoard(world.database),
        clock=world.clock,
        distant=DistantLogs(world.cloud.logs, clock=world.clock) if cloud else None,
    )
    chunks = [chunk async for chunk in reader.entries(found["job-1"])]
    return [json.loads(line) for line in b"".join(chunks).splitlines()]


def numbers(shown: list[dict[str, Any]]) -> list[int]:
    """Of the lines."""
    return [entry["n"] for entry in shown if "log" in entry]


def missing(shown: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The holes that the reader was told of: first line, how many."""
    return [(entry["n"], entry["missing"]) for entry in shown if "missing" in entry]


async def test_what_the_former_host_has_is_shown_on_each(world: Installation) -> None:
    """A finished log is read from CloudWatch where it is not in the file, and nowhere is a line of it missing."""
    world.insert(spec_json(Script(lines=11)))
    await world.until_over()
    former = another_host(world)
    await world.rounds(3)
    assert world.attempts()[0]["log_verdict"] == "complete"
    calls = world.cloud.calls["FilterLogEvents"]
    assert numbers(await entries(world, former)) == [*range(1, 12)]
    assert world.cloud.calls["FilterLogEvents"] == calls
    assert numbers(await entries(world, world.files)) == [*range(1, 12)]
    assert numbers(await entries(world, world.files, after=7)) == [*range(8, 12)]
    assert world.cloud.calls["FilterLogEvents"] == calls + 2


@pytest.mark.parametrize("reached", [True, False])
async def test_what_cannot_be_read_is_told(world: Installation, *, reached: bool) -> None:
    """CloudWatch refuses, or is not there: the reader hears how many lines this host cannot show."""
    world.insert(spec_json(Script(lines=11)))
    await world.until_over()
    another_host(world)
    world.cloud.faults.deny["FilterLogEvents"] = 1
    shown = await entries(world, world.files, cloud=reached)
    assert (numbers(shown), missing(shown)) == ([], [(1, 11)])
    assert shown[-1]["end"]["missing"] == 11


async def test_a_takeover_in_the_middle_makes_no_verdict_worse(world: Installation) -> None:
    """The new owner reads the attempt from its start, and whatever it gets, no fewer lines have arrived than before."""
    world.insert(spec_json(Script(lines=40, run_s=120.0)))
    await world.until_phase("running")
    await world.rounds(8)
    arrived = world.attempts()[0]["log_lines_seen"]
    assert arrived > 0
    former = another_host(world)
    world.cloud.faults.lose_call["FilterLogEvents"] = 3
    await world.rounds(1)
    assert world.attempts()[0]["log_lines_seen"] == arrived
    await world.until_over()
    await world.rounds(15)
    assert world.attempts()[0]["log_verdict"] == "complete"
    for files in (former, world.files):
        assert numbers(await entries(world, files)) == [*range(1, 41)]
    assert [line.n for line in world.lines()] == [*range(1, 41)]


async def test_lines_that_are_lost_are_missing_on_each_host(world: Installation) -> None:
    """The verdict, the former owner's file and a host without one tell of the same holes."""
    world.cloud.faults.lost_share = 0.3
    world.insert(spec_json(Script(lines=40)))
    await world.until_over()
    await world.rounds(15)
    former = another_host(world)
    await world.rounds(15)
    shown = await entries(world, former)
    lost = sum(count for _, count in missing(shown))
    assert lost > 0
    assert world.attempts()[0]["log_verdict"] == f"incomplete ({lost} missing)"
    for files in (world.files, LogFiles(world.directory / "logs-empty")):
        assert await entries(world, files) == shown


async def test_a_hole_of_this_host_is_filled_from_afar(world: Installation) -> None:
    """What this host's file names as missing and another daemon got is shown in its place."""
    world.insert(spec_json(Script(lines=5)))
    await world.until_over()
    files = LogFiles(world.directory / "logs-there")
    stored = {line.n: line for line in world.lines()}
    files.append("job-1", 1, [stored[1], StoredLine(2, missing=2), stored[4], stored[5]])
    assert numbers(await entries(world, files)) == [1, 2, 3, 4, 5]
    shown = await entries(world, files, cloud=False)
    assert (numbers(shown), missing(shown)) == ([1, 4, 5], [(2, 2)])


async def test_a_running_log_is_shown_where_nobody_follows_it(world: Installation) -> None:
    """A daemon that stands by shows what has arrived at the owner so far, and calls nothing missing that may still come."""
    world.insert(spec_json(Script(lines=40, run_s=120.0)))
    await world.until_phase("running")
    await world.rounds(8)
    arrived = world.attempts()[0]["log_lines_seen"]
    for after in (0, 2):
        shown = await entries(world, LogFiles(world.directory / "logs-there"), after=after)
        assert numbers(shown)[: arrived - after] == [*range(after + 1, arrived + 1)]
        assert (missing(shown), shown[-1]["end"]["missing"]) == ([], 0)


async def test_an_outage_behind_the_end_names_no_hole(world: Installation) -> None:
    """What could not be looked for is not given up: the log stays open until CloudWatch has answered."""
    world.cloud.faults.lose_call["FilterLogEvents"] = 10_000
    world.insert(spec_json(Script(lines=5)))
    await world.until_over()
    await world.rounds(30)
    assert world.lines() == []
    world.cloud.faults.lose_call.clear()
    await world.rounds(10)
    assert [line.log for line in world.lines()] == [f"line {n + 1}" for n in range(5)]
    assert world.attempts()[0]["log_verdict"] == "complete"
