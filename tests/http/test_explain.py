"""GET /v1/jobs/{id}/explain: from rows, the planner's parts and the last look at EC2 to an explanation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dstackd.core.bounds import Bounds
from dstackd.core.instance import Market, Snapshot
from dstackd.errors import BlockScope
from dstackd.store.engine import Database
from dstackd.vitals import Vitals
from tests.http.region import Region, a_region
from tests.http.test_openapi import problems
from tests.http.world import Backend, World, get, running

SPEC = {"commands": ["true"], "instance_types": ["m5.large"]}


async def explained(world: World, job_id: str) -> dict[str, Any]:
    """The answer, which is as the OpenAPI document says."""
    status, answer = await get(world.api, f"/v1/jobs/{job_id}/explain")
    assert status == 200, answer
    assert problems("Explained", answer) == []
    found: dict[str, Any] = answer
    return found


async def queued(world: World, region: Region, job_id: str, **columns: object) -> str:
    """A job that intake has accepted."""
    world.clock.now_ms = region.clock.now_ms  # type: ignore[method-assign]
    now_ms = region.clock.now_ms()
    await world.insert_job(SPEC, id=job_id, submitted_at_ms=now_ms, **columns)
    await world.sql(
        "UPDATE job SET phase = 'queued', reason = 'accepted', phase_since_ms = ? WHERE id = ?",
        *(now_ms, job_id),
    )
    return job_id


async def test_a_submitted_job_waits_for_intake() -> None:
    """Nothing but its row is known, and no backend is needed."""
    async with running() as world:
        answer = await explained(world, await world.insert_job())
        assert answer["phase"] == "submitted"
        assert "read and judge its spec" in answer["waits_for"][0]["text"]
        status, refused = await get(world.api, "/v1/jobs/none/explain")
        assert (status, refused["error"]["code"]) == (404, "no_such_job")


async def test_a_job_for_later() -> None:
    """It waits for its time, which is the next step; the queue is not asked, since it is not in it."""
    region = a_region()
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "later", run_at="2037-01-31 05:00:00")
        statement = (
            "UPDATE job SET held = 1, reason = 'scheduled', message = 'waits for its time',"
            " next_visit_at_ms = run_at_ms WHERE id = ?"
        )
        await world.sql(statement, job_id)
        answer = await explained(world, job_id)
    assert answer["waits_for"][0]["text"] == "waits for its time"
    (step,) = answer["next_steps"]
    assert (step["at_ms"], step["bound"]) == (2_116_990_800_000, "run_at")
    assert answer["queue"] is None


async def test_a_free_queue() -> None:
    """What it would get, from the real catalogue; nobody before it."""
    region = a_region()
    async with running(backend=region.backend) as world:
        answer = await explained(world, await queued(world, region, "a"))
    queue = answer["queue"]
    assert (queue["waits"], queue["open_total"], queue["offerings_total"]) == (None, 6, 6)
    assert queue["would_get"] == "m5.large (spot) in us-east-1a"
    assert (queue["ahead"], queue["ahead_complete"]) == ([], True)


async def test_a_sold_out_market() -> None:
    """Each block with its end; the words are those that the planner will write."""
    region = a_region()
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "a")
        region.refuse(Market.SPOT, BlockScope.REGION)
        answer = await explained(world, job_id)
    queue = answer["queue"]
    assert (queue["open_total"], queue["waits"]["reason"]) == (0, "no_capacity")
    assert queue["offerings"][0]["closed_until_ms"] == region.clock.now_ms() + 180_000
    assert "sold out" in answer["waits_for"][-1]["text"]


async def test_bounds_and_those_before_it() -> None:
    """One machine for all, taken; two jobs came first."""
    region = a_region(Bounds(max_machines=1))
    async with running(backend=region.backend) as world:
        for job_id in ("first", "second"):
            await queued(world, region, job_id)
        urgent = await queued(world, region, "urgent", priority=3)
        last = await queued(world, region, "last")
        busy = await world.insert_job()
        await world.insert_attempt(busy, 1, instance_id="i-1", vcpus=2)
        answer = await explained(world, last)
        first = await explained(world, urgent)
    (bound,) = answer["queue"]["bounds"]
    assert bound == {
        "key": "scheduling.max_machines",
        "limit": 1,
        "used": 1,
        "wanted": 1,
        "unit": "machines",
        "reserved": 0.0,
    }
    assert answer["queue"]["ahead"] == [
        {"count": 1, "why": "of higher priority"},
        {"count": 2, "why": "older, of the same project"},
    ]
    assert "max_machines is 1" in answer["waits_for"][-1]["text"]
    assert first["queue"]["ahead"] == []


async def test_aws_that_does_not_answer_is_said_to() -> None:
    """An explanation is given all the same."""
    region = a_region()
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "a")
        region.cloud.faults.deny["DescribeInstanceTypes"] = 1
        answer = await explained(world, job_id)
    assert answer["queue"] is None
    assert answer["waits_for"][-1]["text"].startswith("AWS to answer: UnauthorizedOperation")


async def test_a_launch_without_an_answer() -> None:
    """What EC2 was asked for, since when, and for how many others."""
    region = a_region()
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "a")
        await world.sql(
            "INSERT INTO launch (id, backend, client_token, request, document, offering, price_usd_h, count, created_at_ms)"
            " VALUES ('l', 'main', 't', '{}', '{}', 'o', 0.1, 3, 77)"
        )
        await world.insert_attempt(job_id, 1)
        await world.sql("UPDATE job SET phase = 'launching' WHERE id = ?", job_id)
        answer = await explained(world, job_id)
    (waiting,) = answer["waits_for"]
    assert waiting["since_ms"] == 77
    assert "m5.large (spot) in z1 was asked for, with 2 other job(s)" in waiting["text"]


async def test_a_booting_machine_has_its_bound() -> None:
    """The key, the value and the moment; what EC2 shows of the machine; then what the end means."""
    region = a_region()
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "a")
        launched_ms = region.clock.now_ms()
        await world.insert_attempt(job_id, 1, instance_id="i-1", launched_at_ms=launched_ms)
        await world.sql("UPDATE job SET phase = 'booting' WHERE id = ?", job_id)
        answer = await explained(world, job_id)
    first, then, *_ = answer["next_steps"]
    assert (first["bound"], first["value_s"]) == ("limits.boot_timeout_s", 600.0)
    assert (first["at_ms"], first["phase"]) == (launched_ms + 600_000, "terminating")
    assert then["phase"] == "queued"
    assert "does not show it yet" in answer["waits_for"][0]["text"]


async def test_a_running_machine_with_its_heartbeat() -> None:
    """The last sign of life counts, as the loops take it; a look at EC2 that is old says nothing."""
    region = a_region()
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "a")
        now_ms = region.clock.now_ms()
        await world.insert_attempt(
            job_id, 1, instance_id="i-1", launched_at_ms=now_ms, started_at_ms=now_ms
        )
        await world.sql("UPDATE job SET phase = 'running', attempt = 1 WHERE id = ?", job_id)
        region.heartbeats["i-1"] = now_ms + 7_000
        answer = await explained(world, job_id)
    first = answer["next_steps"][0]
    assert (first["bound"], first["at_ms"]) == (*("limits.heartbeat_timeout_s", now_ms + 307_000),)


async def test_the_last_look_at_ec2_is_used_while_it_is_fresh() -> None:
    """What the machines loop saw, and nothing once that is minutes old; what is gone by its row is gone."""
    region = a_region()
    snapshots: list[Snapshot] = []

    def backend(database: Database, vitals: Vitals) -> Backend:
        made = region.backend(database, vitals)
        insight = replace(made.insight, snapshot=lambda: snapshots[-1] if snapshots else None)
        return replace(made, insight=insight)

    async with running(backend=backend) as world:
        job_id = await queued(world, region, "a")
        await world.insert_attempt(job_id, 1, instance_id="i-1", launched_at_ms=1, outcome="exited")
        await world.sql("UPDATE job SET phase = 'terminating' WHERE id = ?", job_id)
        snapshots.append(Snapshot(region.clock.now_ms()))
        absent = await explained(world, job_id)
        await world.sql(
            "INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone, market, "
            "price_usd_h, launched_at_ms, gone_at_ms) VALUES ('i-1', 'b', 'l', 0, 't', 'z', 'spot', 1, 1, 2)"
        )
        gone = await explained(world, job_id)
    assert "EC2 to show i-1 terminated" in absent["waits_for"][0]["text"]
    assert gone["waits_for"][0]["text"] == "late log lines"


async def test_an_array_and_a_finished_job() -> None:
    """An array waits for its jobs; who has ended waits for nothing and is told what would help."""
    async with running() as world:
        parent = await world.insert_job(id="arr")
        for at in range(2):
            await world.insert_job(id=f"arr-{at}", array_parent=parent, array_index=at)
        await world.finish_job("arr-0")
        await world.sql("UPDATE job SET phase = 'running' WHERE id = 'arr-1'")
        await world.sql("UPDATE job SET phase = 'running' WHERE id = 'arr'")
        answer = await explained(world, "arr")
        assert answer["waits_for"][0]["text"] == "its jobs: 1 of 2 have ended, 1 running"
        failed = await world.insert_job()
        await world.insert_attempt(
            failed, 1, instance_id="i-1", launched_at_ms=1, outcome="exited", exit_cause="oom"
        )
        await world.finish_job(failed, "failed", 137)
        answer = await explained(world, failed)
    assert (answer["waits_for"], answer["next_steps"]) == ([], [])
    assert "resources.memory" in answer["advice"][0]
