"""/v1/machines/reap: every machine of the bucket and what it is, and an operator's look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dstackd import protocol
from dstackd.core.instance import Market
from dstackd.core.orphan import ORPHAN_GRACE_MS, STUCK_AFTER_S
from dstackd.errors import CapacityShortage
from tests.builders import a_request
from tests.http.region import Region, a_region
from tests.http.test_openapi import problems
from tests.http.world import World, get, post, running

PATH = "/v1/machines/reap"


async def launch(region: Region, name: str, *, owner: str = "owner") -> str:
    """A machine with our bucket's tag, which never boots; returns its id."""
    region.cloud.faults.boot_s = 10**6
    tags = {
        protocol.TAG_BUCKET: region.cloud.bucket_name,
        protocol.TAG_OWNER: owner,
        protocol.TAG_LAUNCH: name,
    }
    request = replace(a_request(client_token=name, tags=tuple(tags.items())), launch_id=name)
    (machine,) = await region.cloud.compute.launch(request)
    return machine.instance_id


async def insert_machine(world: World, region: Region, instance_id: str, **columns: object) -> None:
    """Its row, as a launch's answer has written it."""
    values: dict[str, object] = {
        "instance_id": instance_id,
        "backend": "main",
        "launch_id": "l",
        "launch_index": 0,
        "instance_type": "m5.large",
        "zone": "us-east-1a",
        "market": "spot",
        "price_usd_h": 0.36,
        "launched_at_ms": region.clock.now_ms(),
        **columns,
    }
    names, places = ", ".join(values), ", ".join("?" * len(values))
    await world.sql(f"INSERT INTO machine ({names}) VALUES ({places})", *values.values())


def shown(answer: dict[str, Any]) -> dict[str, str]:
    """Machine -> what it is."""
    return {each["instance_id"]: each["standing"] for each in answer["machines"]}


async def test_every_machine_is_shown_as_what_it_is() -> None:
    """Needed, idle, leaving, stuck, answering, nobody's, another's: each with its price so far and with whoever has it."""
    region = a_region()
    async with running(backend=region.backend) as world:
        world.clock.now_ms = region.clock.now_ms  # type: ignore[method-assign]
        ids = {
            name: await launch(region, name)
            for name in ("needed", "idle", "leaving", "stuck", "answering", "orphan")
        }
        foreign = await launch(region, "foreign", owner="another")
        now_ms = region.clock.now_ms()
        job_id = await world.insert_job()
        await world.insert_attempt(job_id, 1, instance_id=ids["needed"])
        await insert_machine(world, region, ids["needed"])
        await insert_machine(
            world, region, ids["idle"], idle_since_ms=now_ms, idle_until_ms=now_ms + 10**7
        )
        await insert_machine(world, region, ids["leaving"], leaving_since_ms=now_ms + 300_000)
        long_ago_ms = now_ms + 300_000 - int(STUCK_AFTER_S * 1000)
        await insert_machine(world, region, ids["stuck"], leaving_since_ms=long_ago_ms)
        await world.sql(
            "INSERT INTO launch (id, backend, client_token, request, document, offering, price_usd_h, count, created_at_ms)"
            " VALUES ('answering', 'main', 't', '{}', '{}', 'o', 0.72, 1, 1)"
        )
        region.clock.advance(360.0)
        status, answer = await get(world.api, PATH)
    assert status == 200
    assert problems("ReapView", answer) == []
    assert shown(answer) == {**{each: name for name, each in ids.items()}, foreign: "foreign"}
    by_id = {each["instance_id"]: each for each in answer["machines"]}
    assert (by_id[ids["needed"]]["job_id"], by_id[ids["needed"]]["attempt"]) == (job_id, 1)
    assert by_id[ids["needed"]]["cost_usd"] == pytest.approx(0.036, abs=0.001)
    assert by_id[ids["answering"]]["cost_usd"] == pytest.approx(0.072, abs=0.001)
    assert by_id[ids["orphan"]]["cost_usd"] is None, "nobody knows its price"
    assert by_id[foreign]["owner"] == "another"
    assert answer["to_reap"] == 1


async def test_looking_changes_nothing_and_reaping_looks_twice() -> None:
    """However often it is looked at, only the call that acts marks; a second one, seconds later, terminates."""
    region = a_region()
    async with running(backend=region.backend) as world:
        world.clock.now_ms = region.clock.now_ms  # type: ignore[method-assign]
        await world.sql(
            "INSERT INTO backend (name, region, bucket, created_at_ms) VALUES ('main', 'r', 'b', 1)"
        )
        orphan, foreign = await launch(region, "a"), await launch(region, "b", owner="another")
        assert shown((await get(world.api, PATH))[1])[orphan] == "young"
        region.clock.advance(ORPHAN_GRACE_MS / 1000 + 1)
        for _ in range(2):
            _, answer = await get(world.api, PATH)
            assert shown(answer)[orphan] == "orphan"
            assert answer["machines"][0]["since_ms"] is None
            region.clock.advance(6.0)
        status, first = await post(world.api, PATH)
        assert (status, first["marked"], first["terminated"]) == (200, [orphan], [])
        region.clock.advance(6.0)
        _, answer = await get(world.api, PATH)
        assert shown(answer)[orphan] == "confirmed"
        assert (await post(world.api, PATH))[1]["terminated"] == [orphan]
        region.clock.advance(1.0)
        _, answer = await get(world.api, PATH)
        assert shown(answer) == {orphan: "leaving", foreign: "foreign"}
        assert answer["to_reap"] == 0


async def test_a_request_that_waits_is_shown_and_cancelled() -> None:
    """By the same rule of two looks."""
    region = a_region()
    async with running(backend=region.backend) as world:
        region.cloud.faults.capacity["*"] = 0
        region.cloud.faults.capacity["m5.large|*|*"] = 0
        region.cloud.faults.left_open = 1
        tags = {protocol.TAG_BUCKET: region.cloud.bucket_name, protocol.TAG_OWNER: "owner"}
        request = a_request(market=Market.SPOT, tags=tuple(tags.items()))
        with pytest.raises(CapacityShortage):
            await region.cloud.compute.launch(request)
        region.clock.advance(130.0)
        _, answer = await get(world.api, PATH)
        (waiting,) = answer["spot_requests"]
        assert (answer["to_reap"], waiting["confirmed"]) == (1, False)
        assert problems("ReapView", answer) == []
        assert (await post(world.api, PATH))[1]["marked_requests"] == [waiting["id"]]
        region.clock.advance(6.0)
        _, done = await post(world.api, PATH)
        assert done["cancelled"] == [waiting["id"]]
        assert problems("Reaped", done) == []


async def test_without_a_backend_or_an_answer_of_aws() -> None:
    """503 and 502, in the one shape of errors."""
    async with running() as world:
        status, answer = await get(world.api, PATH)
        assert (status, answer["error"]["code"]) == (503, "no_backend")
    region = a_region()
    async with running(backend=region.backend) as world:
        region.cloud.faults.deny["DescribeInstances"] = 1
        status, answer = await post(world.api, PATH)
        assert (status, answer["error"]["code"]) == (502, "UnauthorizedOperation")
