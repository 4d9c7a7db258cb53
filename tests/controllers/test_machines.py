"""The machines loop: what is seen, reported and wanted becomes the next phase."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typing_extensions import override

from dstackd.core.instance import InstanceState, Snapshot
from dstackd.ports import Compute
from dstackd.simulated.clock import SimulatedClock
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.fuse import FragileCompute, Fuse
from tests.controllers.installation import Installation


async def test_a_last_word_is_read_before_the_end_is_judged(world: Installation) -> None:
    """A machine that ended while no daemon was there has its exit code in the inbox: it ran, once."""
    world.insert(spec_json(Script(exit_code=0, lines=3)))
    await world.until_phase("booting")
    world.restart()
    world.clock.advance(900.0)
    await world.daemon.machines.step()
    await world.until_over()
    job = world.job()
    assert (job["phase"], job["exit_code"], job["attempt"]) == ("succeeded", 0, 1)
    assert len(world.cloud.machines) == 1


class SlowCompute(FragileCompute):
    """EC2 takes its time: a minute passes before it answers, and another one on the way back."""

    def __init__(self, inner: Compute, clock: SimulatedClock) -> None:
        super().__init__(inner, Fuse())
        self._clock = clock

    @override
    async def snapshot(self) -> Snapshot:
        self._clock.advance(60.0)
        snapshot = await super().snapshot()
        self._clock.advance(60.0)
        return snapshot


async def test_a_last_word_that_comes_during_the_sweep_is_read(world: Installation) -> None:
    """The inbox is read after EC2 was asked: whoever is seen gone has its last word in the table."""
    world.wrap = lambda ports: replace(ports, compute=SlowCompute(ports.compute, world.clock))
    world.restart()
    world.insert(spec_json(Script(exit_code=0, run_s=110.0)))
    await world.until_over()
    assert (world.job()["phase"], world.job()["attempt"]) == ("succeeded", 1)


async def test_no_end_is_judged_while_the_inbox_does_not_answer(world: Installation) -> None:
    """The machine is seen gone, its last word cannot be read: nobody calls it lost."""
    world.insert(spec_json())
    await world.until_phase("booting")
    world.clock.advance(900.0)
    world.cloud.faults.lose_call["ListObjectsV2"] = 5
    for _ in range(2):
        await world.daemon.one_round()
    assert world.job()["phase"] == "booting"
    world.cloud.faults.lose_call.clear()
    await world.until_over()
    assert (world.job()["phase"], world.job()["attempt"]) == ("succeeded", 1)


async def test_a_reclaimed_machine_is_followed_by_another(world: Installation) -> None:
    """The first attempt is an interruption, the second one counts; both are paid."""
    scripts = [Script(run_s=3000.0, reclaim_after_s=20.0), Script(exit_code=0)]
    world.insert(spec_json(scripts))
    await world.until_over()
    job = world.job()
    assert (job["phase"], job["exit_code"], job["ran_attempts"]) == ("succeeded", 0, 2)
    first, second = world.attempts()
    assert (first["outcome"], second["outcome"]) == ("interrupted", "exited")
    assert first["seal_verdict"] == "partial"
    assert job["cost_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])


async def test_a_reclaim_that_the_machine_does_not_report_is_noticed(world: Installation) -> None:
    """Its runner is deaf; EC2's spot requests say that the machine is being taken, so its end is an interruption."""
    scripts = [Script(run_s=3000.0, reclaim_after_s=20.0, deaf=True), Script(exit_code=0)]
    world.insert(spec_json(scripts))
    await world.until(lambda: world.attempts() != [] and world.attempts()[0]["notice_at_ms"])
    assert world.job()["phase"] == "running"
    await world.until_over()
    assert [each["outcome"] for each in world.attempts()] == ["interrupted", "exited"]


@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        (Script(never_boots=True), "boot_timeout", "retries_exhausted"),
        (Script(fails_at="inputs"), "boot_failed", "retries_exhausted"),
    ],
)
async def test_machines_that_never_start_the_commands_are_three(
    script: Script, outcome: str, reason: str, world: Installation
) -> None:
    """Another machine, and another, and then the job fails and says why; no attempt has run."""
    world.insert(spec_json(script))
    await world.until_over(rounds_max=400)
    job = world.job()
    assert (job["phase"], job["reason"], job["ran_attempts"]) == ("failed", reason, 0)
    assert [attempt["outcome"] for attempt in world.attempts()] == [outcome] * 3
    assert len(world.cloud.machines) == 3


async def test_what_no_other_machine_can_mend_costs_one_machine(world: Installation) -> None:
    """The runner says that the failure is final: the job fails after its first machine, with the stage and its words."""
    world.insert(spec_json(Script(fails_at="image", fails_final=True)))
    await world.until_over(rounds_max=400)
    job = world.job()
    assert (job["phase"], job["reason"], job["ran_attempts"]) == ("failed", "machine_failed", 0)
    assert job["message"].startswith("image: as the script says")
    assert [attempt["outcome"] for attempt in world.attempts()] == ["boot_failed"]
    assert [each.state for each in world.cloud.machines] == [InstanceState.TERMINATED]


@pytest.mark.parametrize(
    "script", [Script(run_s=9000.0, hangs_after_s=10.0), Script(run_s=9000.0, dies_after_s=10.0)]
)
async def test_a_machine_that_is_lost_is_replaced(script: Script, world: Installation) -> None:
    """Silent or gone without a word: lost, terminated, and the next attempt runs."""
    world.insert(spec_json([script, Script(exit_code=0)]))
    await world.until_over()
    assert [attempt["outcome"] for attempt in world.attempts()] == ["lost", "exited"]
    assert all(each.state is InstanceState.TERMINATED for each in world.cloud.machines)


async def test_an_exit_code_is_the_jobs(world: Installation) -> None:
    """A failure of the commands fails the job, with their code and without a second attempt."""
    world.insert(spec_json(Script(exit_code=7)))
    await world.until_over()
    job = world.job()
    assert (job["phase"], job["reason"], job["exit_code"]) == ("failed", "exited", 7)
    assert len(world.attempts()) == 1


async def test_max_duration_ends_the_job(world: Installation) -> None:
    """The machine keeps it; the job has timed out and is not tried again."""
    world.insert(spec_json(Script(run_s=900.0), max_duration="60s"))
    await world.until_over()
    assert (world.job()["phase"], world.job()["reason"]) == ("failed", "timed_out")


async def test_nothing_happens_to_a_job_that_nobody_can_see(world: Installation) -> None:
    """Half an hour without an answer of EC2: the machine runs on, and the job ends as if nothing had been."""
    world.insert(spec_json(Script(run_s=2400.0)))
    await world.until_phase("running")
    world.cloud.faults.throttle["DescribeInstances"] = 10**6
    await world.rounds(180)
    assert world.job()["phase"] == "running"
    world.cloud.faults.throttle.clear()
    await world.until_over(rounds_max=200)
    assert (world.job()["phase"], len(world.cloud.machines)) == ("succeeded", 1)


async def test_a_machine_that_ec2_does_not_show_yet_is_not_absent(world: Installation) -> None:
    """A new instance may be missing from the first snapshots: that is not its end."""
    world.cloud.faults.invisible_s = 100.0
    world.cloud.faults.boot_s = 200.0
    world.insert(spec_json())
    await world.until_over()
    assert (world.job()["phase"], len(world.cloud.machines)) == ("succeeded", 1)


@pytest.mark.parametrize("skew_s", [-240, 240])
async def test_a_wrong_clock_of_the_host_changes_nothing(skew_s: int, world: Installation) -> None:
    """Four minutes off either way: the job runs once and every line is there."""
    world.clock.skew_ms = skew_s * 1000
    world.insert(spec_json(Script(run_s=60.0)))
    await world.until_over()
    assert (world.job()["phase"], len(world.cloud.machines)) == ("succeeded", 1)
    assert len(world.lines()) == 3


async def test_a_machine_that_is_learnt_of_late_is_not_judged_by_an_old_sweep(
    world: Installation,
) -> None:
    """It has come, said its last word and gone before EC2's answer is saved: what was nobody's word then is read first."""
    faults = world.cloud.faults
    faults.boot_s, faults.shutdown_s, faults.lose_answer["RunInstances"] = 2.0, 2.0, 1
    world.insert(spec_json(Script(run_s=1.0)))
    await world.rounds(1, every_s=60.0)
    await world.daemon.machines.step()
    await world.daemon.launches.step()
    assert world.job()["phase"] == "booting"
    await world.daemon.machines.step()
    assert world.job()["phase"] == "booting"
    await world.until_over()
    assert (world.job()["phase"], len(world.cloud.machines)) == ("succeeded", 1)


async def test_a_clock_that_jumps_ahead_makes_no_machine_absent(world: Installation) -> None:
    """A young machine that EC2 does not show yet is not judged by an age that only the wall clock claims."""
    faults = world.cloud.faults
    faults.invisible_s, faults.boot_s, faults.shutdown_s = 80.0, 5.0, 70.0
    world.insert(spec_json(Script(run_s=10.0)))
    await world.until(lambda: world.job()["phase"] == "terminating", every_s=2.0)
    world.clock.skew_ms += 200_000
    await world.rounds(3)
    assert [each.terminated_at_ms for each in world.cloud.machines] == [None]
    assert world.job()["finished_at_ms"] is None
    await world.until_over()
    assert world.job()["phase"] == "succeeded"


async def test_a_termination_that_ec2_refuses_is_asked_for_again(world: Installation) -> None:
    """The job ends only when its machine has."""
    world.cloud.faults.throttle["TerminateInstances"] = 3
    world.insert(spec_json(Script(never_boots=True)))
    await world.until(lambda: world.job()["phase"] == "terminating")
    world.cancel()
    await world.until_over()
    assert world.cloud.calls["TerminateInstances"] >= 4
    assert world.cloud.machines[0].state is InstanceState.TERMINATED


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_machine_that_ec2_has_forgotten_holds_up_nobody(
    world: Installation, *, restarts: bool
) -> None:
    """It vanished without a word: missing in two sweeps it is lost, however long its lines are waited for."""
    world.insert(spec_json([Script(run_s=3000.0), Script()]))
    await world.until_phase("running")
    world.clock.advance(200.0)
    (machine,) = world.cloud.machines
    world.cloud._account.machines.pop(machine.instance_id)
    await world.until_phase("terminating")
    if restarts:
        await world.rounds(2)
        world.restart()
    await world.until_over()
    first, second = world.attempts()
    assert (first["outcome"], second["outcome"]) == ("lost", "exited")
