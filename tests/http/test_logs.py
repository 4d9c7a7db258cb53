"""Logs over the API: every line once and in order, and a hole is told."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from aiohttp import ClientError, ClientResponse

from dstackd.http import following
from dstackd.http.log_steps import LATE_LINES_S
from dstackd.log_files import StoredLine
from tests.http.world import World, get, running

WAIT_S = 15.0


class Follower:
    """Reads a stream line by line, with a bound."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        with anyio.fail_after(WAIT_S):
            line = await self.response.content.readline()
        assert line, "the stream ended without an end"
        value: dict[str, Any] = json.loads(line)
        return value

    async def numbers(self, count: int) -> list[tuple[int, int]]:
        """(attempt, n) of the next lines."""
        lines = [await self.next() for _ in range(count)]
        return [(line["attempt"], line["n"]) for line in lines]

    async def end(self) -> dict[str, Any]:
        """The end, which has to be the next and the last line."""
        value = await self.next()
        assert "end" in value, value
        with anyio.fail_after(WAIT_S):
            assert await self.response.content.readline() == b""
        end: dict[str, Any] = value["end"]
        return end


@asynccontextmanager
async def follow(world: World, job_id: str, query: str = "") -> AsyncIterator[Follower]:
    async with world.api.get(f"/v1/jobs/{job_id}/logs?follow=1{query}") as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "application/x-ndjson"
        yield Follower(response)


async def read(world: World, job_id: str, query: str = "") -> list[dict[str, Any]]:
    async with world.api.get(f"/v1/jobs/{job_id}/logs?{query}") as response:
        assert response.status == 200, await response.text()
        return [json.loads(line) async for line in response.content]


async def a_job(world: World, *, attempts: int = 1) -> str:
    job_id = await world.insert_job()
    for number in range(1, attempts + 1):
        await world.insert_attempt(job_id, number, started_at_ms=1)
    return job_id


async def test_what_is_stored() -> None:
    """Without following, the stored lines of all attempts come in order and then the end, also while the job runs."""
    async with running() as world:
        job_id = await a_job(world, attempts=2)
        world.log(job_id, 1, 1, 2)
        world.log(job_id, 2, 1, 1)
        await world.end_attempt(job_id, 1, lines_sent=2)
        lines = await read(world, job_id)
        assert lines[0] == {"attempt": 1, "n": 1, "at_ms": 1, "source": "stdout", "log": "line 1"}
        assert [(line["attempt"], line["n"]) for line in lines[:-1]] == [(1, 1), (1, 2), (2, 1)]
        end = lines[-1]["end"]
        assert (end["phase"], end["lines"], end["missing"]) == ("submitted", 3, 0)


async def test_positions() -> None:
    """`attempt` picks one attempt, `after` begins behind a line, also of a later attempt."""
    async with running() as world:
        job_id = await a_job(world, attempts=2)
        world.log(job_id, 1, 1, 4)
        world.log(job_id, 2, 1, 3)

        async def numbers(query: str) -> list[tuple[int, int]]:
            lines = (await read(world, job_id, query))[:-1]
            return [(line["attempt"], line["n"]) for line in lines]

        assert await numbers("attempt=2") == [(2, 1), (2, 2), (2, 3)]
        assert await numbers("attempt=1&after=3") == [(1, 4)]
        assert await numbers("attempt=all&after=3") == [(1, 4), (2, 1), (2, 2), (2, 3)]
        assert await numbers("after=2:2") == [(2, 3)]
        assert await numbers("attempt=2&after=2:9") == []


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("attempt=0", 400, "bad_parameter"),
        ("attempt=x", 400, "bad_parameter"),
        ("after=x", 400, "bad_parameter"),
        ("after=:1", 400, "bad_parameter"),
        ("attempt=1&after=2:1", 400, "bad_parameter"),
        ("follow=maybe", 400, "bad_parameter"),
        ("attempt=7", 404, "no_such_attempt"),
        ("attempt=7&follow=1", 404, "no_such_attempt"),
    ],
)
async def test_bad_questions(query: str, status: int, code: str) -> None:
    """What cannot be answered is refused before the stream begins."""
    async with running() as world:
        job_id = await a_job(world)
        found, answer = await get(world.api, f"/v1/jobs/{job_id}/logs?{query}")
        assert (found, answer["error"]["code"]) == (status, code)
        assert (await get(world.api, "/v1/jobs/zzz/logs"))[0] == 404


async def test_holes_are_told() -> None:
    """A stored hole is a line of its own; holes and lines that never came are counted, from the reader's position on."""
    async with running() as world:
        job_id = await a_job(world)
        world.log(job_id, 1, 1, 2)
        world.log_files.append(job_id, 1, [StoredLine(3, missing=4)])
        world.log(job_id, 1, 7, 7)
        await world.end_attempt(job_id, 1, lines_sent=10)
        await world.finish_job(job_id)
        lines = await read(world, job_id)
        assert lines[2] == {"attempt": 1, "n": 3, "missing": 4}
        end = lines[-1]["end"]
        assert (end["lines"], end["missing"], end["exit_code"]) == (3, 4 + 3, 0)
        lines = await read(world, job_id, "after=4")
        assert lines[0] == {"attempt": 1, "n": 5, "missing": 2}
        assert lines[-1]["end"]["missing"] == 2 + 3


async def test_a_machine_that_did_not_say() -> None:
    """When a machine was lost before it said how many lines it wrote, the number of missing ones is null."""
    async with running() as world:
        job_id = await a_job(world)
        world.log(job_id, 1, 1, 2)
        await world.end_attempt(job_id, 1, lines_sent=None)
        await world.finish_job(job_id, "failed", 1)
        assert (await read(world, job_id))[-1]["end"]["missing"] is None


async def test_follow_to_the_end() -> None:
    """A follower gets lines as they come, from before the first attempt on, and the end when the job is over."""
    async with running() as world:
        job_id = await world.insert_job()
        async with follow(world, job_id) as follower:
            await world.insert_attempt(job_id, 1, started_at_ms=1)
            world.log(job_id, 1, 1, 2)
            assert await follower.numbers(2) == [(1, 1), (1, 2)]
            world.log(job_id, 1, 3, 3)
            assert await follower.numbers(1) == [(1, 3)]
            await world.end_attempt(job_id, 1, lines_sent=3)
            await world.finish_job(job_id, "failed", 3)
            end = await follower.end()
        assert (end["phase"], end["exit_code"], end["lines"], end["missing"]) == ("failed", 3, 3, 0)


async def test_follow_across_a_retry() -> None:
    """A follower goes on to the next attempt, but not before the last line of the one before has come."""
    async with running() as world:
        job_id = await a_job(world)
        async with follow(world, job_id) as follower:
            world.log(job_id, 1, 1, 1)
            assert await follower.numbers(1) == [(1, 1)]
            await world.end_attempt(job_id, 1, lines_sent=2)
            await world.insert_attempt(job_id, 2, started_at_ms=1)
            world.log(job_id, 2, 1, 1)
            world.log(job_id, 1, 2, 2)
            assert await follower.numbers(2) == [(1, 2), (2, 1)]
            await world.end_attempt(job_id, 2, lines_sent=1)
            await world.finish_job(job_id)
            assert (await follower.end())["missing"] == 0


async def test_follow_one_attempt() -> None:
    """A follower of one attempt ends with it, while the job goes on."""
    async with running() as world:
        job_id = await a_job(world)
        async with follow(world, job_id, "&attempt=1") as follower:
            world.log(job_id, 1, 1, 1)
            await world.end_attempt(job_id, 1, lines_sent=1)
            assert await follower.numbers(1) == [(1, 1)]
            assert (await follower.end())["phase"] == "submitted"


async def test_late_lines() -> None:
    """After the end of a job a follower waits for lines that were sent, with a bound, and then says how many are missing."""
    async with running() as world:
        job_id = await a_job(world)
        await world.end_attempt(job_id, 1, lines_sent=3)
        await world.finish_job(job_id)
        async with follow(world, job_id) as follower:
            world.log(job_id, 1, 1, 2)
            assert await follower.numbers(2) == [(1, 1), (1, 2)]
            while True:
                world.clock.ahead_s += LATE_LINES_S
                with anyio.move_on_after(2 * following.TICK_S) as scope:
                    line = await follower.next()
                    break
        assert not scope.cancelled_caught
        assert (line["end"]["lines"], line["end"]["missing"]) == (2, 1)


async def test_large_logs() -> None:
    """A log of many chunks arrives whole, with every line once; long lines and any character survive."""
    async with running() as world:
        job_id = await a_job(world)
        odd = "".join(chr(code) for code in (0, 10, 13, 34, 92, 0x2028, 0xD800, 0x1F600))
        lines = [
            StoredLine(n, n, "stderr", f"{n} {odd} " + "x" * (n % 700)) for n in range(1, 5000)
        ]
        lines.append(StoredLine(5000, 1, "stdout", "y" * 600_000))
        world.log_files.append(job_id, 1, lines)
        async with world.api.get(f"/v1/jobs/{job_id}/logs") as response:
            raw = await response.read()
        shown = [json.loads(line) for line in raw.decode(errors="surrogatepass").split("\n")[:-1]]
        assert [(line["n"], line["log"]) for line in shown[:-1]] == [
            (line.n, line.log) for line in lines
        ]
        assert shown[-1]["end"]["lines"] == 5000


async def test_a_torn_line_is_waited_for() -> None:
    """A line that is being written is shown when it is whole, and never in part."""
    async with running() as world:
        job_id = await a_job(world)
        world.log(job_id, 1, 1, 2)
        path = world.log_files.path(job_id, 1)
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        async with follow(world, job_id) as follower:
            assert await follower.numbers(1) == [(1, 1)]
            with path.open("ab") as file:
                file.write(whole[-20:])
            assert await follower.numbers(1) == [(1, 2)]


async def test_readers_that_leave_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many followers are refused with 429; one that leaves, even while nothing is written, makes room."""
    monkeypatch.setattr(following, "FOLLOWERS_MAX", 2)
    async with running() as world:
        job_id = await a_job(world)
        path = f"/v1/jobs/{job_id}/logs"
        async with follow(world, job_id), follow(world, job_id):
            status, answer = await get(world.api, path, follow=1)
            assert (status, answer["error"]["code"]) == (429, "too_many_followers")
            assert (await get(world.api, "/v1/jobs"))[0] == 200
        deadline_s = time.monotonic() + WAIT_S
        while True:
            async with world.api.get(path, params={"follow": "1"}) as response:
                if response.status == 200:
                    break
            assert time.monotonic() < deadline_s, "the places were never free again"
            await anyio.sleep(0.02)


async def test_many_followers() -> None:
    """Fifty followers of ten jobs all get their lines and their ends."""
    async with running() as world:
        jobs = [await a_job(world) for _ in range(10)]
        ends: list[dict[str, Any]] = []

        async def one(job_id: str) -> None:
            async with follow(world, job_id) as follower:
                assert await follower.numbers(2) == [(1, 1), (1, 2)]
                ends.append(await follower.end())

        async with anyio.create_task_group() as group:
            for job_id in jobs * 5:
                group.start_soon(one, job_id)
            for job_id in jobs:
                world.log(job_id, 1, 1, 1)
            for job_id in jobs:
                world.log(job_id, 1, 2, 2)
                await world.end_attempt(job_id, 1, lines_sent=2)
                await world.finish_job(job_id)
        assert [end["lines"] for end in ends] == [2] * 50


async def test_the_stop_does_not_wait_for_followers() -> None:
    """A follower does not hold up the daemon's end, and the stream stops without an end: a client knows to come again."""
    async with running() as world:
        job_id = await a_job(world)
        world.log(job_id, 1, 1, 1)
        async with follow(world, job_id) as follower:
            assert await follower.numbers(1) == [(1, 1)]
            began_s = time.monotonic()
            world.stop()
            with anyio.CancelScope(shield=True), anyio.fail_after(WAIT_S):
                try:
                    left = await follower.response.content.read()
                except ClientError:
                    left = b""
            assert left == b""
            assert time.monotonic() - began_s < 5
