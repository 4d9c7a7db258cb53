"""The gate in its place: the real clients before the local cloud, in played time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from dstackd.aws.compute import Ec2Compute
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.session import Clients, open_clients
from dstackd.errors import Throttled
from tests.aws.local_world import LocalWorld
from tests.aws.played_gate import PUBLISHED, RUN, refusals
from tests.aws.played_time import PlayedTime
from tests.aws.worlds import a_request

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def clients_in(time: PlayedTime, world: LocalWorld) -> AsyncIterator[Clients]:
    """Clients to the local cloud whose gate lives in played time."""
    recorder = CallRecorder(time)
    async with open_clients(
        world.access, recorder=recorder, clock=time, sleep=time.sleep
    ) as clients:
        yield clients


def compute_of(clients: Clients, time: PlayedTime, world: LocalWorld) -> Ec2Compute:
    """The world's machines through those clients."""
    path = anyio.Path(world.ground.cache_dir / "instance-types.json")
    return Ec2Compute(clients, world.access, owner=world.owner, clock=time, types_path=path)


async def test_twenty_launches_at_once_stay_within_the_bucket(local_world: LocalWorld) -> None:
    """The real client sends each of them once, at moments that AWS's bucket would accept."""
    time, cloud = PlayedTime(), local_world.ground.cloud
    launched: list[str] = []
    sent: list[tuple[float, int]] = []
    request = await a_request(local_world, "l-20")
    before = cloud.control.counts()["client"].get("ec2:RunInstances", 0)
    async with clients_in(time, local_world) as clients:
        clients.ec2_launch._client.meta.events.register(
            "before-send.ec2", lambda **_: sent.append((time.monotonic_s(), 1))
        )
        compute = compute_of(clients, time, local_world)

        async def launch(number: int) -> None:
            one = replace(request, client_token=f"{request.client_token}-{number}")
            launched.extend(each.instance_id for each in await compute.launch(one))

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(launch, number)
        await compute.terminate(launched)
    assert len(set(launched)) == 20
    assert cloud.control.counts()["client"]["ec2:RunInstances"] - before == len(sent) == 20
    assert refusals(PUBLISHED.requests(RUN), sent) == 0
    assert sent[-1][0] - sent[0][0] == pytest.approx(8)


async def test_what_the_sdk_repeats_waits_as_well(local_world: LocalWorld) -> None:
    """A question that AWS throttles is repeated by the SDK when the slowed bucket allows, freshly signed."""
    time, control = PlayedTime(), local_world.ground.cloud.control
    start_s = time.monotonic_s()
    async with clients_in(time, local_world) as clients:
        signed_s: list[float] = []
        clients.ec2._client.meta.events.register(
            "before-sign.ec2", lambda **_: signed_s.append(time.monotonic_s() - start_s)
        )
        control.fail("ec2:DescribeSubnets", code="RequestLimitExceeded", status=503)
        await clients.ec2.call("DescribeSubnets", MaxResults=5)
    assert signed_s == pytest.approx([0, 1 / 10], abs=0.01)


async def test_a_throttled_launch_is_told_and_not_repeated(local_world: LocalWorld) -> None:
    """The caller hears of it once, and the next launch of anybody waits for the emptied bucket."""
    time, control = PlayedTime(), local_world.ground.cloud.control
    request = await a_request(local_world, "l-throttled")
    async with clients_in(time, local_world) as clients:
        compute = compute_of(clients, time, local_world)
        control.fail("ec2:RunInstances", code="RequestLimitExceeded", status=503)
        with pytest.raises(Throttled):
            await compute.launch(request)
        start_s = time.monotonic_s()
        (machine,) = await compute.launch(request)
        assert time.monotonic_s() - start_s == pytest.approx(1, abs=0.1)
        await compute.terminate([machine.instance_id])
