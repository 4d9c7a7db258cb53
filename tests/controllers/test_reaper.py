"""The reaper: spot requests that nobody needs, machines that do not go, and an operator who looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from dstackd import protocol
from dstackd.core.instance import InstanceState, Snapshot
from dstackd.core.orphan import STUCK_AFTER_S
from dstackd.ports import Compute
from dstackd.simulated.faults import Script
from tests.builders import a_request, spec_json
from tests.controllers.fuse import FragileCompute, Fuse
from tests.controllers.installation import Installation, Ports


async def orphan(world: Installation, name: str = "forgotten") -> str:
    """A machine with our tags that no row knows; returns its id."""
    tags = {
        protocol.TAG_BUCKET: world.cloud.bucket_name,
        protocol.TAG_OWNER: world.cloud.owner,
        protocol.TAG_LAUNCH: name,
    }
    world.cloud.faults.boot_s = 10**6
    request = a_request(client_token=name, tags=tuple(tags.items()))
    (launched,) = await world.cloud.compute.launch(request)
    return launched.instance_id


def state(world: Installation, instance_id: str) -> InstanceState:
    """What EC2 shows of a machine."""
    return {each.instance_id: each.state for each in world.cloud.machines}[instance_id]


def events(world: Installation, kind: str) -> list[str]:
    """The messages of all events of a kind."""
    return [
        row["message"]
        for row in world.sql("SELECT message FROM event WHERE kind = ? ORDER BY id", kind)
    ]


async def leave_open(world: Installation) -> None:
    """A launch that found nothing has left a request behind that waits; its job goes to another offering, and ends."""
    world.cloud.faults.capacity["m5.large|us-east-1a|spot"] = 0
    world.cloud.faults.left_open = 1
    world.insert(spec_json(Script(run_s=5.0), instance_types=["m5.large"]))
    await world.until_over()


async def test_a_request_that_waits_is_cancelled_at_the_second_look(world: Installation) -> None:
    """Not young, not at first sight; it is written down, counted, and never becomes a machine."""
    await leave_open(world)
    assert world.cloud.calls["CancelSpotInstanceRequests"] == 0, "it is young"
    world.clock.advance(3600.0)
    await world.daemon.machines.step()
    assert world.cloud.calls["CancelSpotInstanceRequests"] == 0, "one look proves nothing"
    world.clock.advance(120.0)
    await world.daemon.machines.step()
    assert world.cloud.calls["CancelSpotInstanceRequests"] == 1
    assert await world.cloud.compute.open_requests() == ()
    (message,) = events(world, "spot_request_cancelled")
    assert message.startswith("sir-open0000 (launch ")
    assert world.daemon.vitals.spot_requests_cancelled == 1


async def test_a_restart_finds_what_was_left_open(world: Installation) -> None:
    """The first look of a new daemon is at spot requests, too: an idle one does not leave them waiting."""
    await leave_open(world)
    world.clock.advance(600.0)
    world.restart()
    await world.rounds(20)
    assert await world.cloud.compute.open_requests() == ()


async def test_a_request_that_becomes_a_machine_is_an_orphan(world: Installation) -> None:
    """EC2 was faster: the machine carries our tags and belongs to nobody, so it goes."""
    world.cloud.faults.fulfilled_after_s = 600.0
    await leave_open(world)
    world.cloud.faults.boot_s = 10**6
    await world.until(
        lambda: any(each.request.zone == "us-east-1a" for each in world.cloud.machines)
    )
    machine = next(each for each in world.cloud.machines if each.request.zone == "us-east-1a")
    await world.rounds(30)
    assert state(world, machine.instance_id) is InstanceState.TERMINATED
    assert world.daemon.vitals.orphans_terminated == 1
    assert world.cloud.calls["CancelSpotInstanceRequests"] == 0


async def test_a_request_of_an_unanswered_launch_waits(world: Installation) -> None:
    """EC2's answer is still to come: what the launch has asked for is somebody's."""
    world.cloud.faults.capacity["m5.large|us-east-1a|spot"] = 0
    world.cloud.faults.left_open = 1
    world.cloud.faults.lose_call["RunInstances"] = 0
    world.insert(spec_json(Script(run_s=5.0), instance_types=["m5.large"]))
    await world.until_phase("running")
    (waiting,) = await world.cloud.compute.open_requests()
    world.sql(
        "UPDATE launch SET state = 'intended', answered_at_ms = NULL, reuses = 'x', reuse_number = 0 WHERE id = ?",
        waiting.launch_id,
    )
    for _ in range(3):
        world.clock.advance(3700.0)
        await world.daemon.machines.step()
    assert [each.id for each in await world.cloud.compute.open_requests()] == [waiting.id]


async def test_trouble_with_spot_requests_does_not_stop_the_pass(world: Installation) -> None:
    """Denied, throttled or unanswered: machines are looked after all the same, and the next sweep comes."""
    world.cloud.faults.deny["DescribeSpotInstanceRequests"] = 1
    instance_id = await orphan(world)
    for _ in range(3):
        world.clock.advance(130.0)
        await world.daemon.machines.step()
    assert state(world, instance_id) is not InstanceState.RUNNING


class ImmortalCompute(FragileCompute):
    """EC2 takes every request to terminate, and nothing happens."""

    def __init__(self, inner: Compute) -> None:
        super().__init__(inner, Fuse())
        self.asked: list[str] = []
        self.is_over = False

    @override
    async def terminate(self, instance_ids: Sequence[str]) -> None:
        self.asked += instance_ids
        if self.is_over:
            await super().terminate(instance_ids)


def make_immortal(world: Installation) -> list[ImmortalCompute]:
    """From now on no machine goes; returns the compute of each daemon that begins."""
    made: list[ImmortalCompute] = []

    def wrap(ports: Ports) -> Ports:
        made.append(ImmortalCompute(ports.compute))
        return replace(ports, compute=made[-1])

    world.wrap = wrap
    world.restart()
    return made


async def test_a_machine_that_does_not_go_is_told_of_once_and_asked_until_it_does(
    world: Installation,
) -> None:
    """An event, a mark in the row, and a request a minute, also across a restart; and it is over when EC2 shows it gone."""
    made = make_immortal(world)
    world.insert(spec_json(Script(run_s=5.0, lingers=True)))
    await world.until_phase("terminating")
    (machine,) = world.cloud.machines
    await world.rounds(int(STUCK_AFTER_S // 10) + 3)
    (message,) = events(world, "terminate_stuck")
    assert message.startswith(machine.instance_id)
    (row,) = world.sql("SELECT leaving_since_ms, stuck_at_ms FROM machine")
    assert row["stuck_at_ms"] - row["leaving_since_ms"] > STUCK_AFTER_S * 1000
    world.restart()
    made[-1].asked.clear()
    await world.rounds(30)
    assert set(made[-1].asked) == {machine.instance_id}
    assert len(events(world, "terminate_stuck")) == 1
    made[-1].is_over = True
    await world.until_over()
    assert world.sql("SELECT * FROM machine WHERE gone_at_ms IS NULL") == []


async def test_a_machine_that_is_shutting_down_for_ever_is_asked_again(
    world: Installation,
) -> None:
    """The machine says goodbye and EC2 does not come to an end: the loop leaves it alone, the reaper does not."""
    world.cloud.faults.shutdown_s = 10**6
    world.insert(spec_json(Script(run_s=5.0)))
    await world.until_phase("terminating")
    await world.rounds(6)
    world.cloud.calls.clear()
    world.clock.advance(STUCK_AFTER_S)
    await world.rounds(13)
    assert 2 <= world.cloud.calls["TerminateInstances"] <= 4
    assert len(events(world, "terminate_stuck")) == 1


async def test_an_operator_looks_twice_like_everybody(world: Installation) -> None:
    """A look alone changes nothing; the first that counts marks, the second, seconds later, terminates."""
    instance_id, reaper = await orphan(world), world.daemon.reaper
    world.clock.advance(130.0)
    for _ in range(2):
        look = await reaper.look()
        assert [(each.id, each.confirmed) for each in look.orphans] == [(instance_id, False)]
        world.clock.advance(6.0)
    first = await reaper.reap_now()
    assert (first.terminated, first.marked) == ((), (instance_id,))
    again = await reaper.reap_now()
    assert (again.terminated, again.marked) == ((), (instance_id,)), "too soon to be a second look"
    world.clock.advance(6.0)
    (suspect,) = (await reaper.look()).orphans
    assert suspect.confirmed
    assert (await reaper.reap_now()).terminated == (instance_id,)
    assert state(world, instance_id) is InstanceState.SHUTTING_DOWN
    assert len(events(world, "orphan")) == 1


async def test_a_look_that_does_not_show_it_takes_the_mark_off(world: Installation) -> None:
    """What was nobody's and became somebody's, or went by itself, begins anew."""
    instance_id, reaper = await orphan(world), world.daemon.reaper
    world.clock.advance(130.0)
    await reaper.reap_now()
    await reaper.reap(Snapshot(world.clock.now_ms()))
    world.clock.advance(60.0)
    assert (await reaper.reap_now()).marked == (instance_id,)


async def test_an_orphan_that_goes_slowly_is_counted_once(world: Installation) -> None:
    """Asked at each look, told of once."""
    make_immortal(world)
    await orphan(world)
    world.clock.advance(130.0)
    await world.rounds(30)
    assert len(events(world, "orphan")) == 1
    assert world.daemon.vitals.orphans_terminated == 1
