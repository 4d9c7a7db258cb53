"""A cancel, whenever it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstackd.core.instance import InstanceState
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation, Ports
from tests.controllers.interloper import Interloper

ENDLESS = Script(run_s=30_000.0)
EXIT_BY_SIGTERM = 143


def is_everything_off(world: Installation) -> bool:
    """No machine costs money any more."""
    return all(machine.state is InstanceState.TERMINATED for machine in world.cloud.machines)


@pytest.mark.parametrize("phase", ["submitted", "queued", "launching", "booting", "running"])
async def test_a_cancel_ends_the_job_in_every_phase(phase: str, world: Installation) -> None:
    """The job ends as cancelled, and its machine, if it had one, is gone."""
    if phase == "queued":
        world.cloud.faults.capacity["*|*|*"] = 0
    if phase == "launching":
        world.cloud.faults.lose_call["RunInstances"] = 3
    world.insert(spec_json(ENDLESS))
    if phase != "submitted":
        await world.until_phase(phase)
    world.cancel()
    await world.until_over()
    assert world.job()["phase"] == "cancelled"
    assert world.job()["reason"] == "cancel_requested"
    assert is_everything_off(world)
    assert world.job()["exit_code"] == (EXIT_BY_SIGTERM if phase == "running" else None)


@pytest.mark.parametrize("phase", ["sealing", "terminating"])
async def test_a_cancel_after_the_exit_changes_nothing(phase: str, world: Installation) -> None:
    """Who cancels what has ended already gets its exit code."""
    world.insert(spec_json(Script(run_s=5.0, seal_s=20.0)))
    await world.until_phase(phase)
    world.cancel()
    await world.until_over()
    assert (world.job()["phase"], world.job()["exit_code"]) == ("succeeded", 0)


async def test_a_machine_that_does_not_listen_is_terminated(world: Installation) -> None:
    """The runner gets the spec's grace and a margin; then the machine goes without it."""
    world.insert(spec_json(Script(run_s=30_000.0, deaf=True)))
    await world.until_phase("running")
    world.cancel()
    await world.until_over()
    assert world.job()["phase"] == "cancelled"
    assert world.attempts()[0]["stop_requested_at_ms"] is not None
    assert is_everything_off(world)


async def test_a_cancel_between_any_read_and_its_write_is_not_lost(world: Installation) -> None:
    """No save writes over a cancel that came after the row was read."""
    folder = world.inputs_root
    folder.mkdir()
    (folder / "input.txt").write_text("x")
    spec = spec_json(ENDLESS, inputs=[{"source": str(folder), "target": "in"}])
    for order in (0, 3, 4):
        assert await cancels_before_each_write(world, spec, order=order) > 8


async def cancels_before_each_write(world: Installation, spec: str, *, order: int) -> int:
    """One life for each write, with a cancel right before it; returns how many writes there were."""
    seen_writes, at = 1, 0
    while at < seen_writes:
        at += 1
        made: list[Interloper] = []

        def interloping(ports: Ports, at: int = at, made: list[Interloper] = made) -> Ports:
            made.append(Interloper(ports.database, at=at, interfere=world.cancel))
            return replace(ports, database=made[-1])

        world.start_over(seed=at, wrap=interloping)
        world.insert(spec)
        await world.rounds(8, order=order)
        seen_writes = made[0].writes
        if world.job()["cancel_requested"]:
            await world.until_over()
            assert world.job()["phase"] == "cancelled"
            assert is_everything_off(world)
    return at
