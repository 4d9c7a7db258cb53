"""What every cloud behind the ports promises. Another implementation joins by another value of `world`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dstackd.core.instance import InstanceState, Market
from dstackd.core.lifecycle import Rule, our_rules
from dstackd.errors import BlockScope, CapacityShortage, LaunchOver, NotFound, PreconditionFailed
from dstackd.ports import LogEvent, LogSource
from tests.aws.worlds import World, a_request

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_batch_comes_in_launch_order_and_is_seen(world: World) -> None:
    """Five machines of one launch have the indexes 0 to 4, and a snapshot tells them apart by these."""
    request = await a_request(world, "l-five", count=5)
    launched = await world.compute.launch(request)
    assert [one.launch_index for one in launched] == [0, 1, 2, 3, 4]
    seen = (await world.compute.snapshot()).instances
    assert {one.instance_id: one.launch_index for one in launched} == {
        instance_id: instance.launch_index for instance_id, instance in seen.items()
    }
    for instance in seen.values():
        assert instance.launch_id == "l-five"
        assert instance.market is Market.ON_DEMAND
        assert (instance.instance_type, instance.zone) == (request.instance_type, request.zone)
        assert abs(instance.launched_at_ms - world.clock.now_ms()) < 60_000
        assert instance.state in {InstanceState.PENDING, InstanceState.RUNNING}


async def test_a_repeated_launch_returns_the_same_machines(world: World) -> None:
    """A launch whose answer was lost is adopted, not repeated."""
    request = await a_request(world, "l-twice", count=3)
    first = await world.compute.launch(request)
    assert await world.compute.launch(request) == first
    assert len((await world.compute.snapshot()).instances) == 3


async def test_a_launch_that_is_over_says_so(world: World) -> None:
    """The token of terminated machines never launches again."""
    request = await a_request(world, "l-over")
    (machine,) = await world.compute.launch(request)
    await world.compute.terminate([machine.instance_id])
    with pytest.raises(LaunchOver):
        await world.compute.launch(request)


async def test_a_spot_machine_has_a_spot_request(world: World) -> None:
    """A spot launch is told from an on-demand one, in the answer and in the snapshot."""
    (machine,) = await world.compute.launch(await a_request(world, "l-spot", market=Market.SPOT))
    seen = (await world.compute.snapshot()).instances[machine.instance_id]
    assert seen.market is Market.SPOT
    assert seen.spot_request_id == machine.spot_request_id != ""


async def test_a_sibling_backend_is_not_seen(world: World) -> None:
    """A bucket whose name begins with ours is somebody else's."""
    theirs = await a_request(world, "l-theirs", bucket_name=world.sibling_bucket_name)
    (their_machine,) = await world.sibling.launch(theirs)
    (our_machine,) = await world.compute.launch(await a_request(world, "l-ours"))
    assert set((await world.compute.snapshot()).instances) == {our_machine.instance_id}
    assert set((await world.sibling.snapshot()).instances) == {their_machine.instance_id}


async def test_a_snapshot_is_dated_before_it_is_taken(world: World) -> None:
    """What is launched after `taken_at_ms` may be missing, what came before is not."""
    before_ms = world.clock.now_ms()
    snapshot = await world.compute.snapshot()
    assert before_ms <= snapshot.taken_at_ms <= world.clock.now_ms()


async def test_no_capacity_is_a_shortage_of_the_offering(world: World) -> None:
    """Nothing was launched, and the error says how much of the market to leave alone for how long."""
    await world.take_capacity_away("c5.large")
    request = await a_request(world, "l-none", instance_type="c5.large")
    with pytest.raises(CapacityShortage) as caught:
        await world.compute.launch(request)
    assert (caught.value.scope, caught.value.block_s) == (BlockScope.OFFERING, 180)
    assert (await world.compute.snapshot()).instances == {}


async def test_an_unknown_id_does_not_save_the_others(world: World) -> None:
    """Machines are terminated although one id of the list does not exist, and again without complaint."""
    launched = await world.compute.launch(await a_request(world, "l-end", count=4))
    ids = [one.instance_id for one in launched]
    for _ in range(2):
        await world.compute.terminate([*ids[:2], "i-00000000000000bad", *ids[2:]])
    gone = {InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED}
    states = {one.state for one in (await world.compute.snapshot()).instances.values()}
    assert states <= gone


async def test_places_types_and_prices_fit_together(world: World) -> None:
    """There are zones, types with what a plan asks of them, and a spot price for a type in a zone."""
    zones = [subnet.zone for subnet in await world.compute.subnets()]
    assert len(zones) == len(set(zones)) > 1
    types = {kind.name: kind for kind in await world.compute.instance_types()}
    large = types["m5.large"]
    assert (large.cpu, large.memory_mib, large.gpu_count) == (2, 8192, 0)
    assert (large.architectures, large.markets) == (("x86_64",), ("on-demand", "spot"))
    gpu = types["g5.xlarge"]
    assert (gpu.gpu_name, gpu.gpu_count, gpu.gpu_memory_mib // 1024) == ("A10G", 1, 22)
    prices = await world.compute.spot_prices(["m5.large", "g5.xlarge"])
    assert {name for name, _ in prices} == {"m5.large", "g5.xlarge"}
    assert {zone for _, zone in prices} & set(zones)
    assert all(price > 0 for price in prices.values())
    assert await world.compute.spot_prices([]) == {}


async def test_objects_are_what_was_put(world: World) -> None:
    """An object comes back whole, in one piece and in chunks; what is not there is NotFound."""
    body = bytes(range(256)) * 2048
    assert not await world.bucket.exists("dstackd/a")
    await world.bucket.put("dstackd/a", body)
    assert await world.bucket.exists("dstackd/a")
    assert await world.bucket.get("dstackd/a") == body
    assert b"".join([chunk async for chunk in world.bucket.read("dstackd/a")]) == body
    with pytest.raises(NotFound):
        await world.bucket.get("dstackd/nothing")


async def test_a_conditional_write_loses_against_an_earlier_one(world: World) -> None:
    """`only_if_new` never overwrites; a plain put does."""
    await world.bucket.put("dstackd/once", b"first", only_if_new=True)
    with pytest.raises(PreconditionFailed):
        await world.bucket.put("dstackd/once", b"second", only_if_new=True)
    assert await world.bucket.get("dstackd/once") == b"first"
    await world.bucket.put("dstackd/once", b"third")
    assert await world.bucket.get("dstackd/once") == b"third"


async def test_a_listing_has_everything_below_the_prefix_in_order(world: World) -> None:
    """Keys come in order with size and time, from the prefix only, also with characters S3 would quote."""
    names = ["in/b!2=25 x", "in/a", "in/a/b", "inside"]
    for name in names:
        await world.bucket.put(name, name.encode())
    heads = await world.bucket.list("in/")
    assert [head.key for head in heads] == sorted(names[:3])
    assert [head.size_bytes for head in heads] == [len(head.key) for head in heads]
    assert all(abs(head.modified_at_ms - world.clock.now_ms()) < 60_000 for head in heads)
    assert await world.bucket.list("out/") == ()


async def test_deleting_what_is_not_there_is_no_error(world: World) -> None:
    """A batch of keys is gone afterwards, whether or not each was there; no key is no call."""
    await world.bucket.put("del/a", b"")
    await world.bucket.put("del/b", b"")
    await world.bucket.delete(["del/a", "del/never"])
    assert [head.key for head in await world.bucket.list("del/")] == ["del/b"]
    await world.bucket.delete([])


async def test_a_file_arrives_whole(world: World, tmp_path: Path) -> None:
    """A file of any size, none included, becomes one object."""
    for size_bytes in (0, 1, 100_000):
        path = tmp_path / f"{size_bytes}"
        path.write_bytes(b"x" * size_bytes)
        await world.bucket.put_file("dstackd/file", path)
        assert await world.bucket.get("dstackd/file") == path.read_bytes()


async def test_an_object_has_facts_and_can_be_renewed(world: World) -> None:
    """Size and age without the content; renewed, it is the same and as new as one that was just written."""
    await world.bucket.put("dstackd/old", b"content")
    before = await world.bucket.facts("dstackd/old")
    assert before.size_bytes == 7
    assert abs(before.modified_at_ms - world.clock.now_ms()) < 60_000
    await world.bucket.renew("dstackd/old")
    assert await world.bucket.get("dstackd/old") == b"content"
    assert (await world.bucket.facts("dstackd/old")).modified_at_ms >= before.modified_at_ms
    for call in (world.bucket.facts, world.bucket.renew):
        with pytest.raises(NotFound):
            await call("dstackd/nothing")


async def test_our_rules_join_those_of_others(world: World) -> None:
    """Set up once, found there the second time, mended when somebody took one away; others stay as they are."""
    ours = our_rules()
    foreign: list[Rule] = [
        {
            "ID": "theirs",
            "Status": "Enabled",
            "Filter": {"And": {"Prefix": "logs/", "Tags": [{"Key": "a", "Value": "b"}]}},
            "Expiration": {"Days": 3},
        }
    ]
    for before in ([], foreign):
        await world.write_rules(before)
        assert await world.bucket.ensure_rules(ours)
        assert not await world.bucket.ensure_rules(ours)
        assert await world.read_rules() == [*before, *ours]
        await world.write_rules([*before, *ours[2:]])
        assert await world.bucket.ensure_rules(ours)
        assert await world.read_rules() == [*before, *ours]


async def swept(
    logs: LogSource, *, start_ms: int, end_ms: int | None = None, streams: Sequence[str] = ()
) -> list[LogEvent]:
    """All pages of a sweep."""
    pages = logs.sweep(start_ms=start_ms, end_ms=end_ms, streams=streams)
    return [event async for page in pages for event in page]


async def test_a_sweep_sees_all_streams(world: World) -> None:
    """One sweep returns the events of every stream from its start on, each with its own id."""
    now_ms = world.clock.now_ms()
    await world.write_log("job-a/1", [(now_ms - 2000, "a1"), (now_ms, "a2")])
    await world.write_log("job-b/1", [(now_ms - 1000, "b1")])
    events = await swept(world.logs, start_ms=now_ms - 60_000)
    assert [(event.stream, event.message) for event in events] == [
        ("job-a/1", "a1"),
        ("job-b/1", "b1"),
        ("job-a/1", "a2"),
    ]
    assert len({event.event_id for event in events}) == 3
    assert [event.at_ms for event in events] == [now_ms - 2000, now_ms - 1000, now_ms]
    later = await swept(world.logs, start_ms=now_ms - 500)
    assert [event.message for event in later] == ["a2"]
    one = await swept(world.logs, start_ms=0, streams=["job-b/1"])
    assert [event.message for event in one] == ["b1"]
    early = await swept(
        world.logs, start_ms=0, end_ms=now_ms - 1000, streams=["job-a/1", "job-b/1"]
    )
    assert [event.message for event in early] == ["a1", "b1"]


async def test_logs_that_are_not_there_yet_are_empty(world: World) -> None:
    """Neither a missing group nor a missing stream is an error: the first line may be still to come."""
    assert await swept(world.logs, start_ms=0) == []
    await world.write_log("job-c/1", [(world.clock.now_ms(), "c1")])
    assert await swept(world.logs, start_ms=0, streams=["job-never/1"]) == []
