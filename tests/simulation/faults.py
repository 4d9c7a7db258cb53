"""What the world does to an installation, by name. Law: each fault can be switched off; each draws from dice of its own, so that
switching one off does not change the others.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import anyio

from dstackd.core.instance import InstanceState
from dstackd.simulated.machine import BY_HOST, BY_REQUEST, SimulatedMachine
from tests.builders import a_request
from tests.simulation.world import World

Fault = Callable[[World, random.Random], Awaitable[None]]

STRANGER = "simulated-bucket-2"
"""A bucket whose name begins with ours."""


async def throttled(world: World, dice: random.Random) -> None:
    """EC2 and S3 refuse some calls unread."""
    world.strikes["throttle"] = dice.uniform(0, 0.15)


async def lost_calls(world: World, dice: random.Random) -> None:
    """Some calls never arrive, and nobody knows."""
    world.strikes["lose_call"] = dice.uniform(0, 0.1)


async def lost_answers(world: World, dice: random.Random) -> None:
    """Some calls are done, and nobody hears of it."""
    world.strikes["lose_answer"] = dice.uniform(0, 0.1)
    world.strikes["lose_answer:RunInstances"] = dice.uniform(0, 0.5)


async def denied(world: World, dice: random.Random) -> None:
    """For a while the credentials are no good."""
    await anyio.sleep(dice.uniform(0, 600))
    world.strikes["deny"] = 1.0
    await anyio.sleep(dice.uniform(1, 120))
    world.strikes["deny"] = 0.0


async def outages(world: World, dice: random.Random) -> None:
    """AWS is out of reach, as a whole, for a minute or two."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(30, 900))
        world.strikes["lose_call:"] = 1.0
        await anyio.sleep(dice.uniform(5, 150))
        world.strikes["lose_call:"] = 0.0


async def scarce(world: World, dice: random.Random) -> None:
    """Offerings are sold out, partly or whole, and come back."""
    capacity = world.cloud.faults.capacity
    patterns = ("m5.large|*|spot", "m5.large|us-east-1a|*", "*|*|spot", "*|us-east-1b|*", "*")
    for _ in range(6):
        pattern = dice.choice(patterns)
        capacity[pattern] = dice.randint(0, 6)
        await anyio.sleep(dice.uniform(20, 200))
        capacity.pop(pattern, None)


async def unseen(world: World, dice: random.Random) -> None:
    """New instances are not to be seen at first."""
    world.cloud.faults.invisible_s = dice.uniform(0, 60)


async def late_lines(world: World, dice: random.Random) -> None:
    """Log events come late, twice, and out of order."""
    faults = world.cloud.faults
    faults.log_lag_s, faults.late_s = dice.uniform(0, 5), dice.uniform(5, 70)
    faults.late_share, faults.doubled_share = dice.uniform(0, 0.3), dice.uniform(0, 0.3)


async def lost_lines(world: World, dice: random.Random) -> None:
    """Some log events never arrive."""
    world.cloud.faults.lost_share = dice.uniform(0, 0.1)


async def reclaimed(world: World, dice: random.Random) -> None:
    """EC2 takes spot machines back, with notice."""
    for _ in range(8):
        await anyio.sleep(dice.uniform(10, 150))
        machine = _one_of(world, dice)
        if machine is not None:
            world.tell(f"EC2 reclaims {machine.instance_id}")
            machine.reclaim()


async def broken_hosts(world: World, dice: random.Random) -> None:
    """Machines go without a word."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(20, 300))
        machine = _one_of(world, dice)
        if machine is not None:
            world.tell(f"the host of {machine.instance_id} fails")
            machine.go_down(BY_HOST)


async def hanging(world: World, dice: random.Random) -> None:
    """Machines fall silent and go on costing."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(20, 300))
        machine = _one_of(world, dice)
        if machine is not None:
            world.tell(f"{machine.instance_id} hangs")
            machine.hang()


async def terminated_by_hand(world: World, dice: random.Random) -> None:
    """An operator terminates machines in the console."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(20, 300))
        machine = _one_of(world, dice)
        if machine is not None:
            world.tell(f"an operator terminates {machine.instance_id}")
            world.by_hand.add(machine.instance_id)
            machine.go_down(BY_REQUEST)


async def cancels(world: World, dice: random.Random) -> None:
    """Submitters change their minds, at any moment."""
    for _ in range(4):
        await anyio.sleep(dice.uniform(1, 200))
        open_jobs = world.sql("SELECT id FROM job WHERE finished_at_ms IS NULL ORDER BY seq")
        if open_jobs:
            job_id = dice.choice(open_jobs)["id"]
            world.tell(f"cancel {job_id}")
            with suppress(sqlite3.OperationalError):  # locked: a submitter would come again
                world.sql("UPDATE job SET cancel_requested = 1 WHERE id = ?", job_id)


async def locked(world: World, dice: random.Random) -> None:
    """Another process holds the database's write lock."""
    holds_s = [dice.choice((0.01, 0.1, 0.5)) for _ in range(10)]
    if (
        dice.random() < 0.1
    ):  # longer than the daemon's patience; a second costs it hundreds of tries
        holds_s[dice.randrange(10)] = 35.0
    for hold_s in holds_s:
        await anyio.sleep(dice.uniform(5, 120))
        try:
            world.plain.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            continue
        await anyio.sleep(hold_s)
        world.plain.execute("COMMIT")


async def wrong_clock(world: World, dice: random.Random) -> None:
    """The control host's wall clock is off, and jumps."""
    world.clock.skew_ms = dice.randint(-100_000, 100_000)
    for _ in range(2):
        await anyio.sleep(dice.uniform(60, 600))
        world.clock.skew_ms = dice.randint(-100_000, 100_000)


async def deleted_rows(world: World, dice: random.Random) -> None:
    """An operator deletes a job and all that belongs to it, while its machine runs."""
    await anyio.sleep(dice.uniform(20, 200))
    rows = world.sql("SELECT id FROM job WHERE phase IN ('booting', 'running') ORDER BY seq")
    if not rows:
        return
    job_id = dice.choice(rows)["id"]
    try:
        world.plain.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return
    world.tell(f"an operator deletes {job_id}")
    world.excused.add(job_id)
    for table, column in (("attempt", "job_id"), ("job", "id")):
        world.sql(f"DELETE FROM {table} WHERE {column} = ?", job_id)
    world.plain.execute("COMMIT")


async def edited_tags(world: World, dice: random.Random) -> None:
    """An operator takes our tags off a machine: it is not ours any more, and not to be touched."""
    await anyio.sleep(dice.uniform(20, 200))
    machine = _one_of(world, dice)
    if machine is not None and machine.job is not None:
        world.tell(f"an operator edits the tags of {machine.instance_id}")
        world.hidden.add(machine.instance_id)
        world.excused.add(machine.job.job_id)
        kept = tuple(tag for tag in machine.request.tags if tag[0] != "dstackd:owner")
        machine.request = replace(machine.request, tags=kept)


async def strangers(world: World, dice: random.Random) -> None:
    """Others launch machines in the account, under names much like ours."""
    for number, tags in enumerate(((STRANGER, world.owner), (world.cloud.bucket_name, "another"))):
        await anyio.sleep(dice.uniform(0, 120))
        request = a_request(
            launch_id=f"strange-{number}",
            client_token=f"strange-{number}",
            tags=(("dstack_bucket", tags[0]), ("dstackd:owner", tags[1])),
        )
        with suppress(Exception):
            await world.cloud.compute_of(*tags).launch(replace(request, count=2))


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(throttled, lost_calls, lost_answers, denied, outages, scarce, unseen, late_lines),
        *(lost_lines, reclaimed, broken_hosts, hanging, terminated_by_hand, cancels, locked),
        *(wrong_clock, deleted_rows, edited_tags, strangers),
    )
}


def _one_of(world: World, dice: random.Random) -> SimulatedMachine | None:
    """A machine of ours that runs."""
    running = [
        machine
        for machine in world.cloud.machines
        if machine.state is InstanceState.RUNNING
        and ("dstackd:owner", world.owner) in machine.request.tags
        and ("dstack_bucket", world.cloud.bucket_name) in machine.request.tags
    ]
    return dice.choice(running) if running else None
