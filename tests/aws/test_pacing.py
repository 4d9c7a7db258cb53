"""The gate before EC2: in which order calls leave, when, and what a throttle changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.aws.lane import DELAY_SPREAD_S
from dstackd.aws.operations import OPERATIONS
from dstackd.aws.pacing import SLEEP_MAX_S, machines_of
from dstackd.core.ec2_limits import Ec2Limits
from dstackd.core.token_bucket import BucketSize
from tests.aws.played_gate import (
    DESCRIBE,
    PUBLISHED,
    RUN,
    TERMINATE,
    Gate,
    held,
    played,
    refusals,
)

CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "operation": st.sampled_from([RUN, RUN, TERMINATE, DESCRIBE, "DescribeSubnets"]),
            "machines": st.integers(1, 300),
            "after_s": st.one_of(st.just(0.0), st.floats(0, 20)),
            "delay_s": st.floats(0, DELAY_SPREAD_S),
            "answer_s": st.floats(0, 3),
        }
    ),
    max_size=25,
)
SMALL = replace(PUBLISHED, describe_burst=3, describe_per_s=1, terminate_instances_burst=4)


@settings(deadline=None, max_examples=40)
@given(CALLS, st.sampled_from([PUBLISHED, SMALL]))
def test_aws_refuses_no_call(calls: list[dict[str, Any]], limits: Ec2Limits) -> None:
    """Whenever calls come, and however long each is on its way, they reach AWS when it accepts them."""

    async def story() -> None:
        gate = Gate(limits)
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(partial(gate.call, **call))
        assert len(gate.arrivals) == len(calls)
        assert gate.is_idle()
        for operation in {call["operation"] for call in calls}:
            arrivals = gate.of(operation)
            requests = [(at_s, 1) for at_s, _ in arrivals]
            assert refusals(limits.requests(operation), requests) == 0
            machines = limits.machines(operation)
            assert machines is None or refusals(machines, arrivals) == 0

    played(story)


@settings(deadline=None, max_examples=40)
@given(CALLS, st.lists(st.floats(0, 30), min_size=25, max_size=25))
def test_a_cancelled_call_leaves_nothing_behind(
    calls: list[dict[str, Any]], ends_s: list[float]
) -> None:
    """Wherever a call is when it is cancelled, it holds no room, and those behind it go on."""

    async def story() -> None:
        gate = Gate(replace(SMALL, calls_concurrent_max=2))

        async def cut(call: dict[str, Any], end_s: float) -> None:
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    await gate.time.sleep(end_s)
                    group.cancel_scope.cancel()

                group.start_soon(cancel)
                await gate.call(**call)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for call, end_s in zip(calls, ends_s, strict=False):
                group.start_soon(cut, call, end_s)
            group.start_soon(partial(gate.call, RUN, "stays", machines=1))
        assert (RUN, "stays") in gate.passed
        assert gate.is_idle()
        assert all(stats.waiting == 0 for stats in gate.recorder.stats.values())

    played(story)


def test_a_call_that_is_cancelled_as_its_turn_comes_gives_it_back() -> None:
    """It was not sent, so that neither its room nor its tokens are used."""

    async def story() -> None:
        gate = Gate(replace(PUBLISHED, calls_concurrent_max=2))
        async with gate.pacing.turn(RUN, machines=1):
            waiting = asyncio.create_task(gate.call(RUN, machines=900))
            await gate.time.sleep(0.001)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert gate.is_idle()
        start_s = gate.time.monotonic_s()
        await gate.call(RUN, machines=900)
        assert gate.time.monotonic_s() == start_s
        assert [machines for _, machines in gate.of(RUN)] == [900]

    played(story)


def test_a_burst_goes_out_at_once_and_the_rest_at_the_refill() -> None:
    """Of ten launches four leave in no time and two a second follow, in the order in which they came."""

    async def story() -> None:
        gate = Gate()
        start_s = gate.time.monotonic_s()
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(partial(gate.call, RUN, str(number), machines=1))
        assert [name for _, name in gate.passed] == [str(number) for number in range(10)]
        left_s = [round(at_s - start_s, 3) for at_s, _ in gate.of(RUN)]
        assert left_s == [0, 0, 0, 0, 0.5, 1, 1.5, 2, 2.5, 3]
        stats = gate.recorder.stats["ec2:RunInstances"]
        assert stats.paced_seconds_total == pytest.approx(sum(left_s), abs=0.01)
        assert (stats.attempts, stats.waiting) == (0, 0)

    played(story)


def test_waiting_costs_little() -> None:
    """However many wait for the same tokens, one of them looks at the clock."""

    async def story() -> None:
        gate = Gate()
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(partial(gate.call, RUN, machines=1))
        asked_by_calls = 2 * len(gate.passed)
        assert gate.time.sleeps - asked_by_calls <= len(gate.passed)

    played(story)


def test_those_behind_a_cancelled_call_go_on_by_themselves() -> None:
    """The next in line takes over the watch on the clock from the one that is cancelled."""

    async def story() -> None:
        gate = Gate()
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(partial(gate.call, RUN, machines=1))
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(_cancel_soon, scope, gate)
                group.start_soon(partial(gate.call, RUN, "behind", machines=1, after_s=0.02))
                await gate.call(RUN, "cancelled", machines=1)
        assert [name for _, name in gate.passed] == ["", "", "", "", "behind"]

    played(story)


async def _cancel_soon(scope: anyio.CancelScope, gate: Gate) -> None:
    await gate.time.sleep(0.1)
    scope.cancel()


def test_tokens_that_come_back_are_noticed() -> None:
    """A call that waits long for machines leaves earlier, and holds no room until then."""

    async def story() -> None:
        gate = Gate()
        start_s = gate.time.monotonic_s()
        async with anyio.create_task_group() as group:
            async with gate.pacing.turn(RUN, machines=990):
                group.start_soon(partial(gate.call, RUN, machines=900))
                await gate.time.sleep(0.001)
                refusal = "it exceeded its request rate limit"
                gate.pacing.refused(RUN, "RequestLimitExceeded", refusal, sent_s=start_s)
            await gate.call(DESCRIBE, after_s=2)
            assert gate.pacing._calls == 0
        assert gate.of(RUN)[0][0] - start_s <= SLEEP_MAX_S + 0.01

    played(story)


def test_machines_are_counted_as_well() -> None:
    """A thousand machines go out in ten calls; the next hundred wait until AWS would take them."""

    async def story() -> None:
        gate = Gate(replace(PUBLISHED, run_instances_burst=100))
        start_s = gate.time.monotonic_s()
        async with anyio.create_task_group() as group:
            for _ in range(11):
                group.start_soon(partial(gate.call, RUN, machines=100))
        *_, ninth, tenth, eleventh = (at_s - start_s for at_s, _ in gate.of(RUN))
        assert (ninth, tenth, eleventh) == pytest.approx((0, 0.5, 50.5), abs=0.01)

    played(story)


def test_the_most_urgent_goes_first() -> None:
    """Where room is short, terminations go before questions and questions before launches."""

    async def story() -> None:
        gate = Gate(replace(PUBLISHED, calls_concurrent_max=2))
        async with held(gate, DESCRIBE, times=2) as release, anyio.create_task_group() as group:
            for operation in (RUN, DESCRIBE, RUN, TERMINATE, DESCRIBE, TERMINATE):
                group.start_soon(partial(gate.call, operation, machines=1, answer_s=1))
            await gate.time.sleep(0.001)
            assert gate.recorder.stats["ec2:RunInstances"].waiting == 2
            release.set()
        expected = [TERMINATE, TERMINATE, DESCRIBE, DESCRIBE, RUN, RUN]
        assert [operation for operation, _ in gate.passed] == expected

    played(story)


def test_launches_leave_room_for_the_rest() -> None:
    """Half of the room is the most that launches have, however slow they are."""

    async def story() -> None:
        gate = Gate(replace(PUBLISHED, run_instances_burst=50))
        async with held(gate, RUN, times=5), anyio.create_task_group() as group:
            group.start_soon(partial(gate.call, RUN, machines=1))
            await gate.call(TERMINATE, machines=1)
            await gate.call(DESCRIBE)
            assert gate.passed == [(TERMINATE, ""), (DESCRIBE, "")]
            group.cancel_scope.cancel()
        assert gate.is_idle()

    played(story)


async def _second_of_two(
    message: str, *, code: str = "RequestLimitExceeded", machines: int = 999
) -> float:
    """How long a call waits after AWS refused one for a hundred machines."""
    gate = Gate(replace(PUBLISHED, run_instances_burst=50))
    async with gate.pacing.turn(RUN, machines=100):
        gate.pacing.refused(RUN, code, message, sent_s=gate.time.monotonic_s())
    start_s = gate.time.monotonic_s()
    await gate.call(DESCRIBE)
    assert gate.time.monotonic_s() == start_s
    await gate.call(RUN, machines=machines)
    return gate.time.monotonic_s() - start_s


@pytest.mark.parametrize(
    ("message", "low_s", "high_s"),
    [
        # A token at half the refill; the hundred machines were not counted.
        ("throttled on ec2:RunInstances because it exceeded its request rate limit.", 0.9, 1),
        # A full bucket, which grows at half the refill at first.
        ("throttled on ec2:RunInstances because it exceeded its resource rate limit.", 500, 530),
        # The hundred may have been counted.
        ("Request limit exceeded.", 50, 50),
    ],
)
def test_a_throttle_slows_the_bucket_that_was_empty(
    message: str, low_s: float, high_s: float
) -> None:
    """AWS's message says which; where it does not, the machines stay spent. Other operations go on."""
    assert low_s <= round(played(lambda: _second_of_two(message)), 3) <= high_s


@pytest.mark.parametrize("code", ["InvalidParameterValue", "InsufficientInstanceCapacity"])
def test_other_errors_slow_nothing(code: str) -> None:
    """A profile that EC2 does not see yet, or a lack of capacity, says nothing about the rate."""
    assert played(lambda: _second_of_two("text", code=code, machines=800)) == 0


def test_every_operation_has_its_published_buckets() -> None:
    """The figures are those of EC2's developer guide, for each operation that we may call."""
    sizes = {
        operation: (PUBLISHED.requests(operation), PUBLISHED.machines(operation))
        for name, operation in OPERATIONS
        if name == "ec2"
    }
    assert sizes.pop(RUN) == (BucketSize(5, 2), BucketSize(1000, 2))
    assert sizes.pop(TERMINATE) == (BucketSize(100, 5), BucketSize(1000, 20))
    assert sizes.pop("CreateSecurityGroup") == (BucketSize(50, 5), None)
    assert sizes.pop("CancelSpotInstanceRequests") == (BucketSize(50, 5), None)
    assert all(operation.startswith("Describe") for operation in sizes)
    assert set(sizes.values()) == {(BucketSize(100, 20), None)}
    assert machines_of(RUN, {"MinCount": 1, "MaxCount": 7}) == 7
    assert machines_of(TERMINATE, {"InstanceIds": ["i-1", "i-2"]}) == 2
    assert machines_of(DESCRIBE, {"MaxResults": 1000}) == 0
