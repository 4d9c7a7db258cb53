"""Queued jobs become machines: one call for many, never two for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dstackd import protocol
from dstackd.core.instance import Market
from dstackd.errors import OperatingError, StaleRow, StorageFailed, StoreBusy
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation, Ports
from tests.controllers.interloper import Interloper


async def test_an_array_of_eight_is_one_call(world: Installation) -> None:
    """Eight machines, one RunInstances, one document; each machine finds its own job."""
    world.insert(spec_json(array=8))
    await world.until_over()
    assert world.cloud.calls["RunInstances"] == 1
    jobs = {machine.job.job_id for machine in world.cloud.machines if machine.job}
    assert jobs == {f"job-1-{index}" for index in range(8)}
    assert world.job()["phase"] == "succeeded"
    assert world.job()["message"] == "8 succeeded"


async def test_a_lost_answer_is_asked_for_again(world: Installation) -> None:
    """The identical call with the same token: one machine, whatever was lost how often."""
    world.insert(spec_json())
    world.cloud.faults.lose_answer["RunInstances"] = 2
    world.cloud.faults.lose_call["RunInstances"] = 1
    await world.until_over()
    assert world.cloud.calls["RunInstances"] == 4
    assert len(world.cloud.machines) == 1
    assert world.job()["phase"] == "succeeded"
    assert len(world.sql("SELECT * FROM launch")) == 1


@pytest.mark.parametrize("away_s", [60.0, 900.0])
async def test_a_launch_whose_machine_has_come_and_gone_is_adopted(
    away_s: float, world: Installation
) -> None:
    """The daemon died between call and answer; the job ran meanwhile. Its result counts, nothing runs twice."""
    world.insert(spec_json(Script(lines=3)))
    world.cloud.faults.lose_answer["RunInstances"] = 1
    await world.until_phase("launching")
    world.restart()
    world.clock.advance(away_s)
    await world.until_over()
    assert len(world.cloud.machines) == 1
    assert (world.job()["phase"], world.job()["attempt"]) == ("succeeded", 1)
    assert [line.log for line in world.lines()] == ["line 1", "line 2", "line 3"]


async def test_no_capacity_means_the_next_offering(world: Installation) -> None:
    """The job is back in the queue with the reason, its attempt not counted, and the next call asks for something else."""
    world.cloud.faults.capacity["m5.large|us-east-1a|spot"] = 0
    world.insert(spec_json())
    await world.daemon.intake.step()
    await world.daemon.planning.step()
    await world.daemon.launches.step()
    job = world.job()
    assert (job["phase"], job["reason"], job["attempt"]) == ("queued", "no_capacity", 0)
    assert "InsufficientInstanceCapacity" in job["message"]
    assert world.attempts() == []
    await world.daemon.planning.step()
    await world.daemon.launches.step()
    (machine,) = world.cloud.machines
    assert machine.request.zone == "us-east-1b"
    assert world.job()["phase"] == "booting"
    assert world.attempts()[0]["number"] == 1


async def test_spot_before_on_demand(world: Installation) -> None:
    """`auto` goes to on-demand when spot has nothing left anywhere."""
    world.cloud.faults.capacity["*|*|spot"] = 0
    world.insert(spec_json(instance_types=["m5.large"]))
    await world.until_phase("booting")
    (machine,) = world.cloud.machines
    assert machine.request.market is Market.ON_DEMAND
    assert world.cloud.calls["RunInstances"] == 4


async def test_a_throttle_blocks_nothing(world: Installation) -> None:
    """Throttling is not a lack of capacity: the same call, the same offering, later."""
    world.insert(spec_json())
    world.cloud.faults.throttle["RunInstances"] = 3
    await world.until_phase("booting")
    (machine,) = world.cloud.machines
    assert machine.request.zone == "us-east-1a"
    launches = world.sql("SELECT state FROM launch")
    assert launches == [{"state": "answered"}]


async def test_what_is_sold_out_everywhere_is_waited_for_or_given_up(world: Installation) -> None:
    """Who allows retries for no-capacity waits with a reason and a time; who does not gets an answer."""
    world.cloud.faults.capacity["*|*|*"] = 0
    world.insert(spec_json(retry={"on": ["no-capacity"]}), job_id="patient")
    world.insert(spec_json(retry={"on": ["error"]}), job_id="hasty")
    await world.until_over("hasty")
    assert (world.job("hasty")["phase"], world.job("hasty")["reason"]) == ("failed", "no_capacity")
    patient = world.job("patient")
    assert (patient["phase"], patient["reason"]) == ("queued", "no_capacity")
    assert world.clock.now_ms() < patient["next_visit_at_ms"]
    world.cloud.faults.capacity.clear()
    await world.until_over("patient")
    assert world.job("patient")["phase"] == "succeeded"


async def test_a_partial_fill_sends_the_rest_back(world: Installation) -> None:
    """EC2 gives three of five: three run, two are launched elsewhere, none twice."""
    world.cloud.faults.capacity["m5.large|us-east-1a|spot"] = 3
    world.insert(spec_json(array=5))
    await world.until_over()
    zones = sorted(machine.request.zone for machine in world.cloud.machines)
    assert zones == ["us-east-1a"] * 3 + ["us-east-1b"] * 2
    assert world.job()["message"] == "5 succeeded"


async def test_a_denial_is_said_and_ends_when_it_ends(world: Installation) -> None:
    """Every job waits with the reason; when the operator has mended it, they run."""
    await world.rounds(1)  # what is open in a first pass may have been sent before
    world.cloud.faults.deny["RunInstances"] = 1
    world.insert(spec_json())
    await world.rounds(2)
    job = world.job()
    assert (job["phase"], job["reason"]) == ("queued", "unauthorized")
    await world.until_over()
    assert world.job()["phase"] == "succeeded"


async def test_nothing_fits(world: Installation) -> None:
    """A job that no machine can run fails at once and says what would help."""
    world.insert(spec_json(max_price=0.001))
    await world.until_over()
    job = world.job()
    assert (job["phase"], job["reason"]) == ("failed", "no_offering")
    assert "max_price" in job["message"]


async def test_a_region_that_does_not_answer_is_waited_for(world: Installation) -> None:
    """No types, no images: the jobs wait with the reason, and run when it answers again."""
    world.cloud.faults.lose_call["DescribeInstanceTypes"] = 1
    world.cloud.faults.throttle["DescribeImages"] = 1
    world.insert(spec_json())
    await world.rounds(1)
    assert world.job()["reason"] == "cloud_unavailable"
    await world.until_over()
    assert world.job()["phase"] == "succeeded"


@pytest.mark.parametrize("problem", [StoreBusy, StorageFailed, StaleRow])
async def test_an_answer_that_cannot_be_saved_is_asked_for_again(
    problem: type[OperatingError], world: Installation
) -> None:
    """The database is locked, full or unreachable at that moment: an operating error, not the end of the process, and no second machine."""

    def refuse() -> None:
        raise problem("at this moment")

    # The writes of a plain job: accept, commit the intent, save the answer.
    world.wrap = lambda ports: replace_database(ports, at=3, interfere=refuse)
    world.restart()
    world.insert(spec_json())
    errors = await world.daemon.one_round()
    assert all(isinstance(error, problem) for error in errors)
    assert world.job()["phase"] == "launching"
    await world.until_over()
    assert len(world.cloud.machines) == 1


def replace_database(ports: Ports, *, at: int, interfere: Callable[[], object]) -> Ports:
    """The same ports with an interloper at one write."""
    return replace(ports, database=Interloper(ports.database, at=at, interfere=interfere))


async def test_the_document_is_there_before_the_machine(world: Installation) -> None:
    """When the bucket refuses the document, nothing is launched."""
    world.cloud.faults.lose_call["PutObject"] = 1
    world.insert(spec_json())
    await world.daemon.intake.step()
    await world.daemon.planning.step()
    await world.daemon.launches.step()
    assert not any(world.cloud.machines)
    assert world.job()["phase"] == "launching"
    await world.daemon.planning.step()
    await world.daemon.launches.step()
    (machine,) = world.cloud.machines
    key = protocol.launch_key(machine.request.launch_id)
    assert world.cloud.bucket.load(key) is not None


async def test_machines_of_a_lost_answer_are_found_whatever_the_repetition_says(
    world: Installation,
) -> None:
    """The answer is lost, then the credentials are: the intent is not closed, its machine is not launched again."""
    world.cloud.faults.lose_answer["RunInstances"] = 1
    world.insert(spec_json())
    await world.until_phase("launching")
    world.cloud.faults.deny["RunInstances"] = 3
    await world.until_over()
    assert (world.job()["phase"], world.job()["attempt"]) == ("succeeded", 1)
    assert len(world.cloud.machines) == 1


async def test_a_machine_costs_from_its_launch_on(world: Installation) -> None:
    """However late its launch is heard of: what ran unheard is paid for."""
    world.cloud.faults.lose_answer["RunInstances"] = 20
    world.insert(spec_json())
    await world.until_over()
    (machine,) = world.cloud.machines
    (row,) = world.sql("SELECT * FROM machine")
    assert row["launched_at_ms"] == machine.launched_at_ms
    assert world.attempts()[0]["launched_at_ms"] - row["launched_at_ms"] > 20_000
    cost_usd = row["price_usd_h"] * (row["gone_at_ms"] - row["launched_at_ms"]) / 3_600_000
    assert world.job()["cost_usd"] == pytest.approx(cost_usd)


async def test_a_wall_clock_that_leaps_closes_no_intent(world: Installation) -> None:
    """The answer is lost, EC2 does not show the machine yet and refuses the repetition: no other machine follows."""
    world.cloud.faults.lose_answer["RunInstances"] = 1
    world.cloud.faults.invisible_s = 60.0
    await world.rounds(1)
    world.insert(spec_json())
    await world.until_phase("launching")
    world.cloud.faults.deny["RunInstances"] = 20
    world.clock.skew_ms += 200_000
    await world.until_over()
    assert (world.job()["phase"], world.job()["attempt"]) == ("succeeded", 1)
    assert len(world.cloud.machines) == 1
