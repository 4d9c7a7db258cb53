"""Spot requests without a machine, and machines of others in our bucket: what every cloud behind the ports promises of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstackd.core.instance import InstanceState, Market
from dstackd.core.orphan import RequestState
from dstackd.errors import CapacityShortage
from dstackd.protocol import TAG_OWNER
from tests.aws.worlds import World, a_request

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def leave_one_open(world: World, launch_id: str) -> None:
    """A spot launch finds nothing, and its request waits all the same."""
    await world.take_capacity_away("c5.large")
    await world.leave_requests_open(1)
    request = await a_request(world, launch_id, market=Market.SPOT, instance_type="c5.large")
    with pytest.raises(CapacityShortage):
        await world.compute.launch(request)


async def test_a_request_that_waits_is_seen_and_cancelled(world: World) -> None:
    """With its launch and its age; once cancelled it is listed no more, however often, and an unknown id does no harm."""
    await leave_one_open(world, "l-waits")
    (waiting,) = await world.compute.open_requests()
    assert (waiting.state, waiting.launch_id) == (RequestState.OPEN, "l-waits")
    assert abs(waiting.created_at_ms - world.clock.now_ms()) < 60_000
    assert await world.sibling.open_requests() == ()
    for _ in range(2):
        await world.compute.cancel_requests(["sir-00000bad", waiting.id])
    assert await world.compute.open_requests() == ()
    await world.compute.cancel_requests([])


async def test_the_request_of_a_machine_does_not_wait(world: World) -> None:
    """What was fulfilled is `active`, and ends with its machine."""
    await world.compute.launch(await a_request(world, "l-active", market=Market.SPOT))
    assert await world.compute.open_requests() == ()


async def test_strangers_in_our_bucket_are_told_apart(world: World) -> None:
    """Another owner's machine carries our bucket's tag: it is no part of a snapshot, and the list of strangers names its owner."""
    ours = await a_request(world, "l-own")
    (our_machine,) = await world.compute.launch(ours)
    theirs = await a_request(world, "l-other")
    tags = dict(theirs.tags) | {TAG_OWNER: "another"}
    (their_machine,) = await world.compute.launch(replace(theirs, tags=tuple(tags.items())))
    sibling = await a_request(world, "l-sibling", bucket_name=world.sibling_bucket_name)
    await world.sibling.launch(sibling)
    (stranger,) = await world.compute.strangers()
    assert (stranger.owner, stranger.instance.instance_id) == ("another", their_machine.instance_id)
    assert set((await world.compute.snapshot()).instances) == {our_machine.instance_id}
    await world.compute.terminate([their_machine.instance_id])
    assert {each.instance.state for each in await world.compute.strangers()} <= {
        InstanceState.SHUTTING_DOWN
    }
