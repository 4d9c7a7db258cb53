"""The next attempt does not wait for the old machine to be gone, and still only one runs, and every machine is paid for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest
from typing_extensions import override

from dstackd.core.bounds import Bounds
from dstackd.core.budget import worst_case_s
from dstackd.core.cost import machine_cost_usd
from dstackd.core.instance import InstanceState
from dstackd.core.launching import Launched, LaunchRequest
from dstackd.core.limits import Limits
from dstackd.ports import Compute
from dstackd.simulated import places
from dstackd.simulated.faults import Script
from dstackd.simulated.machine import SimulatedMachine
from dstackd.spec.model import JobSpec
from tests.builders import spec_json
from tests.controllers.fuse import FragileCompute, Fuse
from tests.controllers.installation import Installation

TAKEN = Script(run_s=3000.0, reclaim_after_s=20.0, lines=0)
SHORT = Script(run_s=20.0)
SHUTDOWN_S = 200.0
"""An old machine that takes its time to go."""


@dataclass
class AtLaunch:
    """What EC2 showed of the machines before, at each RunInstances."""

    states: list[list[InstanceState]] = field(default_factory=list)


class SeeingCompute(FragileCompute):
    """Notes the machines at each launch."""

    def __init__(self, inner: Compute, world: Installation, seen: AtLaunch) -> None:
        super().__init__(inner, Fuse())
        self._world = world
        self._seen = seen

    @override
    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        self._seen.states.append([each.state for each in self._world.cloud.machines])
        return await super().launch(request)


def watching(world: Installation) -> AtLaunch:
    """Have the launches noted from now on."""
    seen = AtLaunch()
    world.wrap = lambda ports: replace(ports, compute=SeeingCompute(ports.compute, world, seen))
    world.restart()
    return seen


def running(machine: SimulatedMachine) -> bool:
    """Whether the commands of a job run on it."""
    return machine.commands_run


async def until_over(world: Installation) -> None:
    """Passes until job-1 is over; at no time do two of its machines run commands."""

    def is_over() -> bool:
        assert sum(map(running, world.cloud.machines)) <= 1
        return world.job()["finished_at_ms"] is not None

    await world.until(is_over, rounds_max=600, every_s=2.0)


@pytest.mark.parametrize(
    "first",
    [TAKEN, Script(exit_code=7)],
    ids=["reclaimed", "failed, and tried again"],
)
async def test_the_next_attempt_is_launched_while_the_old_machine_goes(
    first: Script, world: Installation
) -> None:
    """After its last word the old machine is asked to go, and the second RunInstances does not wait for that."""
    seen = watching(world)
    world.cloud.faults.shutdown_s = SHUTDOWN_S
    world.insert(
        spec_json([first, SHORT], retry={"on": ["interruption", "error"], "max_attempts": 2})
    )
    await until_over(world)
    assert world.phases().count("terminating") == 1
    (_, (old,)) = seen.states
    assert old is InstanceState.SHUTTING_DOWN
    assert world.job()["phase"] == "succeeded"
    assert [each["outcome"] for each in world.attempts()][1] == "exited"


async def test_the_next_attempt_is_there_within_a_minute_of_the_notice(world: Installation) -> None:
    """EC2 would take the machine after two: by then its successor has long been launched."""
    world.insert(spec_json([TAKEN, SHORT]))
    await world.until(lambda: len(world.cloud.machines) == 2, every_s=2.0)
    (first, _) = world.attempts()
    second = world.cloud.machines[1]
    assert second.launched_at_ms - first["notice_at_ms"] < 60_000
    assert second.launched_at_ms - first["done_at_ms"] < 12_000


async def test_a_machine_without_a_last_word_is_waited_for(world: Installation) -> None:
    """Silent after its notice: something may still run there until EC2 shows it gone."""
    seen = watching(world)
    world.insert(spec_json([replace(TAKEN, deaf=True), SHORT]))
    await until_over(world)
    assert seen.states[1] == [InstanceState.TERMINATED]


async def test_the_job_is_over_after_all_its_machines(world: Installation) -> None:
    """The second attempt is done long before the first machine is gone: then both are paid, and the sum is the job's."""
    world.cloud.faults.shutdown_s = SHUTDOWN_S
    world.insert(spec_json([TAKEN, SHORT]))
    await world.until(lambda: world.job()["attempt"] == 2)
    world.cloud.faults.shutdown_s = 2.0
    await until_over(world)
    first, second = world.attempts()
    machines = world.cloud.machines
    assert all(each.state is InstanceState.TERMINATED for each in machines)
    assert machines[0].terminated_at_ms is not None
    assert world.job()["finished_at_ms"] >= machines[0].terminated_at_ms
    assert world.job()["cost_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
    (row,) = world.sql("SELECT gone_at_ms FROM machine WHERE instance_id = ?", first["instance_id"])
    whole = machine_cost_usd(
        first["price_usd_h"], from_ms=first["launched_at_ms"], until_ms=row["gone_at_ms"]
    )
    assert first["cost_usd"] == pytest.approx(whole)
    assert row["gone_at_ms"] - first["launched_at_ms"] > SHUTDOWN_S * 1000


async def test_a_machine_that_does_not_go_is_asked_again(world: Installation) -> None:
    """Not the reaper, minutes later: the machine that the job has left is followed on each pass."""
    world.insert(spec_json([replace(TAKEN, lingers=True), SHORT]))
    world.cloud.faults.lose_call["TerminateInstances"] = 3
    await world.until(lambda: world.job()["attempt"] == 2, every_s=2.0)
    done_ms = world.attempts()[0]["done_at_ms"]
    old = world.cloud.machines[0]
    await world.until(lambda: not old.alive, every_s=2.0)
    assert world.clock.now_ms() - done_ms < 60_000
    await until_over(world)
    assert world.sql("SELECT 1 FROM event WHERE kind = 'orphan'") == []
    assert world.sql("SELECT message FROM event WHERE kind = 'machine_gone'") == [
        {"message": old.instance_id}
    ]


async def test_a_bound_of_one_machine_counts_the_one_that_leaves(world: Installation) -> None:
    """It costs money until it is gone: the retry waits for that, and says so."""
    world.daemon.planning._allowed = Bounds(max_machines=1)
    world.cloud.faults.shutdown_s = SHUTDOWN_S
    world.insert(spec_json([TAKEN, SHORT]))
    await world.until(lambda: world.job()["reason"] == "limit_reached", every_s=2.0)
    assert "max_machines" in world.job()["message"]
    await until_over(world)
    first, second = world.cloud.machines
    assert first.terminated_at_ms is not None
    assert second.launched_at_ms >= first.terminated_at_ms


@pytest.mark.parametrize(("room_s", "ends"), [(150, "succeeded"), (60, "failed")])
async def test_a_budget_counts_the_machine_that_leaves(
    room_s: float, ends: str, world: Installation
) -> None:
    """What it may still cost is spent until it is known: then there is money for another attempt, or the job fails."""
    world.cloud.faults.shutdown_s = 30.0
    price_usd_h = places.spot_price("m5.large", "us-east-1a")
    assert price_usd_h is not None
    worst_s = worst_case_s(JobSpec(commands=(), max_duration_s=600), limits=Limits())
    assert worst_s is not None
    budget = price_usd_h * (worst_s + room_s) / 3600
    world.insert(spec_json([TAKEN, SHORT], max_duration="10m", budget=budget))
    await world.until(lambda: world.job()["reason"] == "budget_exhausted", every_s=2.0)
    assert "has to be gone" in world.job()["message"]
    assert world.job()["phase"] == "queued"
    await until_over(world)
    job, old = world.job(), world.cloud.machines[0]
    assert job["phase"] == ends
    assert len(world.cloud.machines) == (2 if ends == "succeeded" else 1)
    assert old.terminated_at_ms is not None
    assert job["finished_at_ms"] >= old.terminated_at_ms
    assert job["cost_usd"] <= budget


async def test_a_cancel_waits_for_the_machine_that_leaves(world: Installation) -> None:
    """Cancelled while it waits for its next machine: not over before the old one is, and nothing is launched."""
    world.cloud.faults.shutdown_s = SHUTDOWN_S
    world.daemon.planning._allowed = Bounds(max_machines=1)
    world.insert(spec_json([TAKEN, SHORT]))
    await world.until(lambda: world.job()["phase"] == "queued" and world.job()["attempt"] == 1)
    world.cancel()
    await until_over(world)
    (machine,) = world.cloud.machines
    assert world.job()["phase"] == "cancelled"
    assert machine.terminated_at_ms is not None
    assert world.job()["finished_at_ms"] >= machine.terminated_at_ms
    assert world.job()["cost_usd"] == pytest.approx(world.attempts()[0]["cost_usd"])


async def test_silence_is_a_lost_machine(world: Installation) -> None:
    """The machine stopped the job because it had heard nothing: another attempt follows, as after a lost one."""
    world.insert(spec_json([replace(SHORT, run_s=3000.0, silence_after_s=10.0), SHORT]))
    await until_over(world)
    assert [each["outcome"] for each in world.attempts()] == ["lost", "exited"]


async def test_a_recommendation_is_an_event_and_nothing_else(world: Installation) -> None:
    """It is noted on the attempt and in the history; the job goes on where it is."""
    world.insert(spec_json(Script(run_s=60.0, rebalance_after_s=10.0)))
    await until_over(world)
    (attempt,) = world.attempts()
    assert attempt["rebalance_at_ms"] > attempt["started_at_ms"]
    assert attempt["outcome"] == "exited"
    kinds = [row["kind"] for row in world.sql("SELECT kind FROM event ORDER BY id")]
    assert "machine_rebalance" in kinds
    assert json.dumps(world.phases()).count("running") == 1
