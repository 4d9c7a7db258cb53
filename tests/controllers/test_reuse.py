"""A machine whose job ended takes the next one, if both have asked for it, or goes when its time is over."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from dstackd import protocol
from dstackd.core.bounds import Bounds
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation
from tests.controllers.reusing import (
    LINES,
    a_spec,
    check_money,
    idle,
    leftovers,
    quick,
    runs,
    until_idle,
    until_nothing_is_left,
)


async def test_the_next_job_takes_the_idle_machine(world: Installation) -> None:
    """One machine for two jobs, each with its own log, manifest, attempt and cost; then the machine goes by itself."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-1", "job-2")
    for job_id in ("job-1", "job-2"):
        assert (world.job(job_id)["phase"], world.job(job_id)["exit_code"]) == ("succeeded", 0)
        (attempt,) = world.attempts(job_id)
        assert attempt["instance_id"] == machine
        assert [line.log for line in world.lines(job_id)] == [f"line {n + 1}" for n in range(LINES)]
    assert world.cloud.calls["RunInstances"] == 1
    await until_nothing_is_left(world)
    assert runs(world) == {("job-1", 1): 1, ("job-2", 1): 1}
    assert world.cloud.calls["TerminateInstances"] == 0
    check_money(world)


async def test_the_job_is_over_while_its_machine_waits(world: Installation) -> None:
    """From sealing straight to its end: nobody waits for the machine, and nobody terminates it."""
    quick(world)
    world.insert(a_spec())
    await world.until_over()
    assert world.phases()[-2:] == ["sealing", "succeeded"]
    assert len(idle(world)) == 1
    assert world.attempts()[0]["ended_at_ms"] is not None


async def test_without_the_next_job_the_machine_goes_when_its_time_is_over(
    world: Installation,
) -> None:
    """It waits as long as the job asked for, the waiting is on that job's bill, and the bucket is clean then."""
    quick(world)
    world.insert(a_spec())
    await until_idle(world)
    await until_nothing_is_left(world)
    (attempt,) = world.attempts()
    assert 300_000 <= attempt["idle_ms"] <= 340_000
    check_money(world)
    waited = world.sql("SELECT message FROM event WHERE kind = 'machine_waited'")
    assert len(waited) == 1
    assert "idle for" in waited[0]["message"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (spec_json(Script()), "has not asked for it"),
        (a_spec(resources={"cpu": "4.."}), "another shape"),
        (a_spec(spot_policy="on-demand"), "another market"),
        (a_spec(image="debian"), "a container, and the machine ran none"),
        (a_spec(max_price=1.0), "another price"),
        (a_spec(instance_types=["m5.large"]), "other types"),
    ],
)
async def test_another_shape_gets_a_machine_of_its_own(
    spec: str, why: str, world: Installation
) -> None:
    """What the idle machine would not have been launched for does not run on it."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(spec, job_id="job-2")
    await world.until_over("job-2")
    assert world.attempts("job-2")[0]["instance_id"] != machine, why


async def test_another_project_gets_a_machine_of_its_own(world: Installation) -> None:
    """A machine never goes from one project to another."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(a_spec(), job_id="job-2")
    world.sql("UPDATE job SET project = 'other' WHERE id = 'job-2'")
    await world.until_over("job-2")
    assert world.attempts("job-2")[0]["instance_id"] != machine


async def test_two_jobs_do_not_get_one_machine(world: Installation) -> None:
    """One takes it, the other is launched at once."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(a_spec(), job_id="job-2")
    world.insert(a_spec(), job_id="job-3")
    await world.until_over("job-2", "job-3")
    taken = [world.attempts(job_id)[0]["instance_id"] for job_id in ("job-2", "job-3")]
    assert len(set(taken)) == 2
    assert machine in taken
    await until_nothing_is_left(world)
    check_money(world)


async def test_a_chain_of_jobs_uses_one_machine(world: Installation) -> None:
    """The decisions are numbered: each is made once."""
    quick(world)
    for n in range(1, 5):
        world.insert(a_spec(), job_id=f"job-{n}")
        await until_idle(world)
    await world.until_over(*(f"job-{n}" for n in range(1, 5)))
    assert len(world.cloud.machines) == 1
    await until_nothing_is_left(world)
    check_money(world)


async def test_a_machine_that_leaves_first_takes_no_job(world: Installation) -> None:
    """The daemon claims what has just been given up: the job goes back to the queue and gets a machine of its own."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.cloud.bucket.store(protocol.reuse_key(machine, 1), protocol.REUSE_LEAVE)
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-2")
    (attempt,) = world.attempts("job-2")
    assert attempt["instance_id"] != machine
    assert attempt["number"] == 1
    assert world.job("job-2")["boot_failures"] == 0
    assert "queued" in world.phases("job-2")[2:]


async def test_a_claim_whose_answer_was_lost_is_read_back(world: Installation) -> None:
    """The repeated write is refused, and the object says that the machine is ours."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(a_spec(), job_id="job-2")
    await world.daemon.intake.step()
    await world.daemon.planning.step()
    world.cloud.faults.lose_answer["PutObject"] = 2  # the document's, then the claim's
    await world.until_over("job-2")
    assert world.attempts("job-2")[0]["instance_id"] == machine
    assert runs(world)["job-2", 1] == 1


async def test_a_machine_waits_again_though_its_claim_was_never_answered(
    world: Installation,
) -> None:
    """It has run the job and said so before anybody hears of the claim: it stays as long as it was asked to."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(a_spec(), job_id="job-2")
    await world.daemon.intake.step()
    await world.daemon.planning.step()
    faults = world.cloud.faults
    faults.lose_answer["PutObject"] = 1
    await world.daemon.reusing.step()  # the document is there
    (launch,) = world.sql("SELECT id FROM launch WHERE reuses = ?", machine)
    claim = protocol.reuse_claim(launch["id"], index=0)
    world.cloud.bucket.store(protocol.reuse_key(machine, 1), claim)  # as a lost answer leaves it
    faults.throttle["PutObject"] = 1000
    await world.until(lambda: world.attempts("job-2")[0]["done_at_ms"] is not None)
    assert world.job("job-2")["phase"] == "launching"
    faults.throttle["PutObject"] = 0
    await world.until_over("job-1", "job-2")
    assert idle(world) == [machine]
    await until_nothing_is_left(world)
    assert world.cloud.calls["TerminateInstances"] == 0
    check_money(world)


async def test_a_machine_that_dies_before_it_reads_the_claim_costs_one_attempt_of_nobody(
    world: Installation,
) -> None:
    """The job is tried again on a machine of its own, and neither a run nor a boot failure is counted."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.cloud.faults.take_s = 1000.0
    world.insert(a_spec(), job_id="job-2")
    await world.until_phase("booting", "job-2")
    world.cloud.faults.take_s = 2.0
    (died,) = [each for each in world.cloud.machines if each.instance_id == machine]
    died.go_down("Server.InternalError")
    await world.until_over("job-2")
    first, second = world.attempts("job-2")
    assert (first["instance_id"], first["outcome"]) == (machine, "lost")
    assert (second["reused"], second["outcome"]) == (0, "exited")
    assert (world.job("job-2")["boot_failures"], world.job("job-2")["ran_attempts"]) == (0, 1)
    await until_nothing_is_left(world)
    check_money(world)


async def test_a_machine_that_does_not_take_its_job_is_given_up_soon(world: Installation) -> None:
    """It hangs: two minutes later it is terminated, and the job has another machine."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    for each in world.cloud.machines:
        each.hang()
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-2")
    first, second = world.attempts("job-2")
    assert (first["instance_id"], first["outcome"]) == (machine, "boot_timeout")
    assert second["started_at_ms"] - first["launched_at_ms"] < 240_000
    await until_nothing_is_left(world)


async def test_an_idle_machine_that_hangs_is_terminated(world: Installation) -> None:
    """Nobody needs it once its time and a margin are over."""
    quick(world)
    world.insert(a_spec())
    await until_idle(world)
    for each in world.cloud.machines:
        each.hang()
    began_s = world.clock.monotonic_s()
    await until_nothing_is_left(world)
    assert 420 <= world.clock.monotonic_s() - began_s < 600
    check_money(world)


async def test_an_idle_machine_that_ec2_takes_back_leaves(world: Installation) -> None:
    """The notice ends the waiting: the machine is not offered any more, and no job is interrupted."""
    quick(world)
    world.insert(a_spec())
    await until_idle(world)
    for each in world.cloud.machines:
        each.reclaim()
    await world.daemon.inbox.drain()
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-2")
    assert [each["outcome"] for each in world.attempts("job-2")] == ["exited"]
    assert [each["outcome"] for each in world.attempts("job-1")] == ["exited"]
    assert len(world.cloud.machines) == 2
    await until_nothing_is_left(world)
    check_money(world)


async def test_a_cancel_between_the_intent_and_the_claim_ends_the_job(world: Installation) -> None:
    """As with a launch: the job never runs, and the machine goes with it."""
    quick(world)
    world.insert(a_spec())
    await until_idle(world)
    world.insert(a_spec(), job_id="job-2")
    await world.daemon.intake.step()
    await world.daemon.planning.step()
    assert world.job("job-2")["phase"] == "launching"
    world.cancel("job-2")
    await world.until_over("job-2")
    assert world.job("job-2")["phase"] == "cancelled"
    await until_nothing_is_left(world)
    check_money(world)


async def test_a_stop_that_comes_late_does_not_stop_the_next_job(world: Installation) -> None:
    """A word of the daemon names its job; the object of the job before is still there when the next one runs."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    word = protocol.stop_word("cancel_requested", job_id="job-1", attempt=1)
    world.cloud.bucket.store(protocol.control_key(machine), word)
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-2")
    assert world.job("job-2")["phase"] == "succeeded"
    assert world.attempts("job-2")[0]["instance_id"] == machine


async def test_the_second_job_can_be_stopped(world: Installation) -> None:
    """Its own word reaches the machine, which ends then: it was disturbed."""
    quick(world)
    world.insert(a_spec())
    machine = await until_idle(world)
    world.insert(a_spec(Script(run_s=30_000.0)), job_id="job-2")
    await world.until_phase("running", "job-2")
    assert world.attempts("job-2")[0]["instance_id"] == machine
    world.cancel("job-2")
    await world.until_over("job-2")
    assert world.job("job-2")["phase"] == "cancelled"
    assert idle(world) == []


async def test_a_job_that_failed_gives_its_machine_on_too(world: Installation) -> None:
    """With a retry, to its own next attempt."""
    quick(world)
    scripts = [Script(exit_code=3), Script()]
    world.insert(spec_json(scripts, reuse="5m", retry={"on": ["error"]}))
    await world.until_over()
    first, second = world.attempts()
    assert first["instance_id"] == second["instance_id"]
    assert (first["outcome"], second["outcome"]) == ("exited", "exited")
    assert world.phases()[-7:] == [
        *("sealing", "queued", "launching", "booting", "running", "sealing", "succeeded"),
    ]
    await until_nothing_is_left(world)
    check_money(world)


async def test_a_disturbed_machine_does_not_wait(world: Installation) -> None:
    """A job that was stopped at max_duration leaves a machine that goes as always."""
    quick(world)
    world.insert(a_spec(Script(run_s=1000.0), max_duration="20s"))
    await world.until_over()
    assert (world.job()["phase"], world.job()["reason"]) == ("failed", "timed_out")
    assert idle(world) == []
    assert world.phases()[-2:] == ["terminating", "failed"]


async def test_a_job_that_waits_for_room_gets_the_idle_machine(world: Installation) -> None:
    """The machine is there already, so no bound on machines keeps a job from it."""
    quick(world)
    world.daemon.planning._allowed = Bounds(max_machines=1)
    world.insert(a_spec(Script(run_s=60.0)))
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-1", "job-2")
    assert len(world.cloud.machines) == 1
    assert world.cloud.calls["RunInstances"] == 1


async def test_a_daemon_that_comes_back_late_finds_the_machine_gone(world: Installation) -> None:
    """The machine said that it waits, waited, and left; nobody was there. The next job is launched after one look."""
    quick(world)
    world.insert(a_spec())
    await world.until_phase("running")
    world.clock.advance(1000.0)
    world.restart()
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-1", "job-2")
    assert len(world.cloud.machines) == 2
    await until_nothing_is_left(world)
    assert runs(world) == {("job-1", 1): 1, ("job-2", 1): 1}
    check_money(world)


async def test_what_it_saves(world: Installation) -> None:
    """Two jobs after each other: no second RunInstances, no TerminateInstances, and the second starts within seconds."""
    quick(world)
    world.cloud.faults.boot_s = 60.0
    world.insert(a_spec())
    await until_idle(world)
    before = Counter(world.cloud.calls)
    world.insert(a_spec(), job_id="job-2")
    await world.until_over("job-2")
    calls = Counter(world.cloud.calls) - before
    ec2 = ("RunInstances", "TerminateInstances", "DescribeImages", "DescribeSpotPriceHistory")
    assert {name: calls[name] for name in ec2} == dict.fromkeys(ec2, 0)
    first, second = world.attempts("job-1")[0], world.attempts("job-2")[0]
    assert first["started_at_ms"] - first["launched_at_ms"] >= 60_000
    assert second["started_at_ms"] - second["launched_at_ms"] <= 10_000
    document = world.sql("SELECT document FROM launch WHERE reuses IS NOT NULL")[0]["document"]
    assert [each["job_id"] for each in json.loads(document)["jobs"]] == ["job-2"]
    assert leftovers(world)
