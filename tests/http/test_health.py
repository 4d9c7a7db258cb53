"""Health: what a probe, an operator and a restart policy may rely on."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import anyio
import anyio.lowlevel
import pytest
from aiohttp import ClientSession

from dstackd.clock import SystemClock
from dstackd.http.probe import Probe
from dstackd.vitals import ApiCalls, LoopPulse
from tests.http.world import World, get, running

PAGES = ("/livez", "/readyz", "/healthz")


async def read_text(session: ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as response:
        return response.status, await response.text()


def a_loop(world: World, name: str, *, interval_s: float = 1.0) -> LoopPulse:
    pulse = world.vitals.add_loop(name, interval_s=interval_s, now_s=world.clock.monotonic_s())
    pulse.succeeded(world.clock.monotonic_s())
    return pulse


def calls(*, success_at_ms: int | None, error_at_ms: int | None) -> ApiCalls:
    errors = [] if error_at_ms is None else [("RequestLimitExceeded", 2)]
    code = errors[0][0] if errors else ""
    return ApiCalls("ec2", "DescribeInstances", 10, errors, 1.5, success_at_ms, error_at_ms, code)


async def test_a_healthy_daemon_passes_everywhere() -> None:
    """All three pages say 200 on both listeners, and nothing may keep their answers."""
    async with running() as world:
        a_loop(world, "intake")
        for session in (world.api, world.web):
            for path in PAGES:
                async with session.get(path) as response:
                    assert response.status == 200, await response.text()
                    assert response.headers["Cache-Control"] == "no-store"
                async with session.head(path) as response:
                    assert (response.status, await response.read()) == (200, b"")


async def test_a_wedged_loop_fails_liveness() -> None:
    """/livez turns to 503 when a loop ends no pass for too long, and names it; a loop that fails its passes is alive."""
    async with running() as world:
        slow, failing = a_loop(world, "reaper"), a_loop(world, "intake")
        failing.failed(world.clock.monotonic_s(), "Throttled")
        assert await read_text(world.web, "/livez") == (200, "ok\n")
        world.clock.ahead_s = 100.0
        failing.failed(world.clock.monotonic_s(), "Throttled")
        status, text = await read_text(world.web, "/livez")
        assert status == 503
        assert re.search(r"\[-\]loop reaper failed: no pass has ended for 1\d\d s", text)
        assert "[+]loop intake ok" in text
        slow.succeeded(world.clock.monotonic_s())
        _, text = await read_text(world.web, "/livez?verbose")
        assert text == "[+]loop reaper ok\n[+]loop intake ok\nlivez check passed\n"


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("first_pass_done", False, "start failed: the first pass over AWS is not done yet"),
        ("standing_by_for", "web1:ab/cd", "lease failed: standing by: web1:ab/cd owns the backend"),
        ("schema_current", "0000", "schema failed: the schema is at 0000, this program needs 0001"),
    ],
)
async def test_not_ready_says_why(attribute: str, value: object, reason: str) -> None:
    """/readyz is 503 with the reason until the start is over and the schema is right; /livez does not care."""
    async with running() as world:
        setattr(world.vitals, attribute, value)
        status, text = await read_text(world.web, "/readyz")
        assert status == 503
        assert f"[-]{reason}" in text
        assert (await read_text(world.web, "/livez"))[0] == 200


async def test_a_broken_database_is_not_ready_but_alive() -> None:
    """A database that cannot be read fails /readyz and /healthz with the reason, and never /livez."""
    async with running() as world:
        await world.sql("ALTER TABLE job RENAME TO gone")
        status, text = await read_text(world.web, "/readyz")
        assert status == 503
        assert "[-]database failed: StorageFailed" in text
        status, health = await get(world.web, "/healthz")
        assert (status, health["status"]) == (503, "fail")
        assert (await read_text(world.web, "/livez"))[0] == 200


async def test_health_in_full() -> None:
    """/healthz has a check for database, schema, start, each loop, each AWS operation, the queue and the machines."""
    async with running() as world:
        a_loop(world, "intake")
        world.calls.append(calls(success_at_ms=7, error_at_ms=5))
        await world.insert_job(submitted_at_ms=world.clock.now_ms() - 60_000)
        async with world.web.get("/healthz") as response:
            assert response.headers["Content-Type"].startswith("application/health+json")
        _, health = await get(world.web, "/healthz")
        found = health["checks"]
        assert (health["status"], health["releaseId"]) == ("pass", "1.2.3")
        assert found["loop:age"][0]["componentId"] == "intake"
        assert 0 <= found["loop:age"][0]["observedValue"] < 10
        assert found["aws:calls"][0]["componentId"] == "ec2:DescribeInstances"
        assert found["aws:calls"][0]["errors"] == {"RequestLimitExceeded": 2}
        assert found["machines:live"][0]["observedValue"] == 0
        assert 60 <= found["queue:oldestAge"][0]["observedValue"] < 90
        assert {"database:responseTime", "schema:revision", "start:firstPass"} < found.keys()


async def test_standing_by_is_healthy() -> None:
    """A daemon that waits for a backend that another one owns is alive and well, says whose it is, and reaps nothing."""
    async with running() as world:
        world.vitals.first_pass_done, world.vitals.standing_by_for = False, "web1:ab/cd"
        status, health = await get(world.web, "/healthz")
        (lease,) = health["checks"]["backend:lease"]
        assert (status, health["status"]) == (200, "pass")
        assert (lease["observedValue"], lease["owner"]) == ("standby", "web1:ab/cd")
        assert (await read_text(world.web, "/livez"))[0] == 200
        _, metrics = await read_text(world.web, "/metrics")
        assert "dstackd_standing_by 1.0" in metrics
        async with world.api.post("/v1/machines/reap") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "standby")


async def test_commits_that_are_not_noticed_are_a_warning() -> None:
    """A daemon that has to look for new jobs works, later: health says why, a metric that it is so."""
    async with running() as world:
        world.vitals.watch_problem = "LISTEN does not work behind this pooler"
        status, health = await get(world.web, "/healthz")
        (check,) = health["checks"]["queue:commits"]
        assert (status, health["status"]) == (200, "warn")
        assert (check["observedValue"], check["output"]) == (False, world.vitals.watch_problem)
        _, metrics = await read_text(world.web, "/metrics")
        assert "dstackd_commits_noticed 0.0" in metrics


async def test_aws_trouble_is_a_warning() -> None:
    """An AWS operation whose last call failed makes health a warning with status 200, and the daemon stays alive and ready."""
    async with running() as world:
        world.calls.append(calls(success_at_ms=5, error_at_ms=7))
        status, health = await get(world.web, "/healthz")
        assert (status, health["status"]) == (200, "warn")
        output = health["checks"]["aws:calls"][0]["output"]
        assert output == "the last call failed: RequestLimitExceeded"
        assert (await read_text(world.web, "/livez"))[0] == 200
        assert (await read_text(world.web, "/readyz"))[0] == 200


async def test_many_who_ask_cost_one_read() -> None:
    """A hundred questions within the age bound run the read once."""
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        await anyio.lowlevel.checkpoint()
        return reads

    probe = Probe(read, clock=SystemClock())
    values = []

    async def ask() -> None:
        values.append((await probe.answer(age_max_s=60, wait_s=5)).value)

    async with anyio.create_task_group() as group:
        group.start_soon(probe.run)
        async with anyio.create_task_group() as askers:
            for _ in range(100):
                askers.start_soon(ask)
        group.cancel_scope.cancel()
    assert values == [1] * 100


async def test_a_read_that_hangs_is_given_up_not_cancelled() -> None:
    """Whoever asks is told after the bound; the read goes on, and its answer is used when it comes."""
    release, begun = anyio.Event(), []

    async def read() -> str:
        begun.append(1)
        await release.wait()
        return "late"

    probe = Probe(read, clock=SystemClock())
    async with anyio.create_task_group() as group:
        group.start_soon(probe.run)
        for _ in range(3):
            answer = await probe.answer(age_max_s=60, wait_s=0.02)
            assert (answer.value, answer.error) == (None, "no answer within 0.02 s")
        release.set()
        assert (await probe.answer(age_max_s=60, wait_s=5)).value == "late"
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert begun == [1]


async def test_health_answers_fast_while_a_writer_holds_the_lock() -> None:
    """Another program's open write transaction does not make the daemon unready: readers never wait for writers."""
    async with running() as world:
        with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO job (spec) VALUES ('{}')")
            assert (await read_text(world.web, "/readyz"))[0] == 200
