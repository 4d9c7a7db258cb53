"""What befalls machines, by name. Law: as `faults`, which has them all; it happens on EC2's side, whatever the daemon does."""

from __future__ import annotations

import random
from functools import partial

import anyio

from dstackd.simulated.machine import BY_HOST, BY_RECLAIM, SimulatedMachine
from tests.simulation.world import World


async def reclaimed(world: World, dice: random.Random) -> None:
    """EC2 takes spot machines back, with notice."""
    for _ in range(8):
        await anyio.sleep(dice.uniform(10, 150))
        machine = world.one_that_runs(dice, market="spot")
        if machine is not None:
            world.befalls("reclaimed", machine.instance_id)
            machine.reclaim()


async def reclaimed_at_once(world: World, dice: random.Random) -> None:
    """EC2 takes spot machines back without a word."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(10, 250))
        machine = world.one_that_runs(dice, market="spot")
        if machine is not None:
            world.befalls("reclaimed_at_once", machine.instance_id)
            machine.reclaimed = True
            machine.go_down(BY_RECLAIM)


async def broken_hosts(world: World, dice: random.Random) -> None:
    """Machines go without a word."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(20, 300))
        machine = world.one_that_runs(dice)
        if machine is not None:
            world.befalls("broken_hosts", machine.instance_id)
            machine.go_down(BY_HOST)


async def broken_runners(world: World, dice: random.Random) -> None:
    """Runners die; nothing starts them again, and what is around them reports it and ends the machine."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(20, 300))
        machine = world.one_that_runs(dice)
        if machine is not None and machine.commands_run:
            world.befalls("broken_runners", machine.instance_id)
            machine.break_down()


async def short_lived_runners(world: World, dice: random.Random) -> None:
    """Runners die as soon as they have started the commands."""
    for _ in range(4):
        await anyio.sleep(dice.uniform(0, 100))
        machine = await world.next_machine()
        await world.until(partial(_has_begun, machine))
        await anyio.sleep(dice.uniform(0, 3))
        if world.is_ours(machine) and machine.commands_run:
            world.befalls("short_lived_runners", machine.instance_id)
            machine.break_down()


async def hanging(world: World, dice: random.Random) -> None:
    """Machines fall silent and go on costing."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(20, 300))
        machine = world.one_that_runs(dice)
        if machine is not None:
            world.befalls("hanging", machine.instance_id)
            world.hung.add(machine.instance_id)
            machine.hang()


async def never_booting(world: World, dice: random.Random) -> None:
    """Machines never come up."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(0, 120))
        machine = await world.next_machine()
        if world.is_ours(machine):
            world.befalls("never_booting", machine.instance_id)
            world.hung.add(machine.instance_id)
            machine.hang()


def _has_begun(machine: SimulatedMachine) -> bool:
    return machine.commands_run or not machine.alive


async def stuck(world: World, dice: random.Random) -> None:
    """EC2 answers requests to terminate a machine and forgets them, and the machine does not end itself."""
    for _ in range(4):
        await anyio.sleep(dice.uniform(10, 200))
        machine = world.one_that_runs(dice)
        if machine is not None:
            world.befalls("stuck", machine.instance_id)
            machine.unheeded = dice.randint(1, 3)
