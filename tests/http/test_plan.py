"""POST /v1/plan."""

from __future__ import annotations

from typing import Any

from dstackd.core.instance import Market
from dstackd.errors import BlockScope
from tests.http.region import a_region
from tests.http.world import post, running

SPEC = {"commands": ["true"], "instance_types": ["m5.large"]}


async def test_a_plan_is_what_would_be_asked_for() -> None:
    """The offerings in order, with price, size and place; no job, no launch."""
    region = a_region()
    async with running(plan=region.plan) as world:
        status, answer = await post(world.api, "/v1/plan", {"spec": SPEC})
        assert await world.sql("SELECT id FROM job") == []
    assert status == 200
    assert region.cloud.calls["RunInstances"] == 0
    assert (answer["first"], answer["total"], answer["why_none"]) == (0, 6, None)
    assert answer["offerings"][0] == {
        "instance_type": "m5.large",
        "zone": "us-east-1a",
        "subnet": "subnet-a",
        "market": "spot",
        "price_usd_h": 0.035,
        "estimated": False,
        "vcpus": 2,
        "memory_gib": 8,
        "gpu": None,
        "blocked": None,
    }
    markets = [row["market"] for row in answer["offerings"]]
    assert markets == ["spot"] * 3 + ["on-demand"] * 3


async def test_a_gpu_and_an_estimate_are_shown_as_such() -> None:
    """The GPU by name and count; a spot price that nobody has told is marked."""
    spec = {"commands": ["true"], "instance_types": ["g5.xlarge", "m4.large"]}
    async with running(plan=a_region().plan) as world:
        _, answer = await post(world.api, "/v1/plan", {"spec": spec})
    shown: dict[tuple[str, str], Any] = {
        (row["instance_type"], row["market"]): (row["gpu"], row["estimated"])
        for row in answer["offerings"]
    }
    assert shown == {
        ("g5.xlarge", "spot"): ({"name": "A10G", "count": 1}, False),
        ("g5.xlarge", "on-demand"): ({"name": "A10G", "count": 1}, False),
        ("m4.large", "spot"): (None, True),
        ("m4.large", "on-demand"): (None, False),
    }


async def test_what_is_blocked_says_why_and_until_when() -> None:
    """The first open one is pointed at; when all are blocked, it is said what for."""
    region = a_region()
    region.refuse(Market.SPOT, BlockScope.OFFERING)
    async with running(plan=region.plan) as world:
        _, answer = await post(world.api, "/v1/plan", {"spec": SPEC})
        until_ms = region.clock.now_ms() + 180_000
        reason = "InsufficientInstanceCapacity: sold out (wait)"
        assert answer["offerings"][0]["blocked"] == {"until_ms": until_ms, "reason": reason}
        assert answer["first"] == 1
        region.refuse(Market.SPOT, BlockScope.REGION)
        _, answer = await post(world.api, "/v1/plan", {"spec": SPEC})
    assert answer["first"] is None
    assert answer["why_none"].startswith("none of 6 offerings is open: ") or answer[
        "why_none"
    ].startswith("all 6 offerings: ")
    assert reason in answer["why_none"]


async def test_nothing_fits() -> None:
    """The list is empty, and what would help is said."""
    spec = {**SPEC, "max_price": 0.001}
    async with running(plan=a_region().plan) as world:
        status, answer = await post(world.api, "/v1/plan", {"spec": spec})
    assert (status, answer["offerings"], answer["first"], answer["total"]) == (200, [], None, 0)
    assert "raise max_price" in answer["why_none"]


async def test_a_wrong_spec_is_refused_as_in_a_submission() -> None:
    """Field by field; project and priority may be there, as what is planned may be submitted as it is."""
    async with running(plan=a_region().plan) as world:
        status, answer = await post(world.api, "/v1/plan", {"spec": {"comands": 1}})
        assert (status, answer["error"]["code"]) == (422, "bad_job")
        assert {each["field"] for each in answer["error"]["fields"]} >= {"comands", "commands"}
        body = {"spec": SPEC, "project": "p", "priority": 5}
        status, _ = await post(world.api, "/v1/plan", body)
        assert status == 200


async def test_aws_may_not_answer() -> None:
    """The error is AWS's; the next question may be answered."""
    region = a_region()
    region.cloud.faults.lose_call["DescribeInstanceTypes"] = 1
    async with running(plan=region.plan) as world:
        status, answer = await post(world.api, "/v1/plan", {"spec": SPEC})
        assert status == 502
        assert answer["error"]["message"].startswith("AWS: ")
        status, _ = await post(world.api, "/v1/plan", {"spec": SPEC})
        assert status == 200


async def test_a_plan_is_for_the_socket_only_and_needs_a_backend() -> None:
    """TCP shows health and metrics; a daemon without a backend can plan nothing."""
    async with running() as world:
        status, answer = await post(world.web, "/v1/plan", {"spec": SPEC})
        assert (status, answer["error"]["code"]) == (403, "unix_socket_only")
        status, answer = await post(world.api, "/v1/plan", {"spec": SPEC})
        assert (status, answer["error"]["code"]) == (503, "no_backend")
