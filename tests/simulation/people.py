"""What people do to an installation. Law: as `faults`; they do it through the table, the console, or another account's daemon."""

from __future__ import annotations

import random
import sqlite3
from contextlib import suppress
from dataclasses import replace

import anyio

from dstackd.simulated.machine import BY_REQUEST
from tests.builders import a_request
from tests.simulation.world import World

STRANGER = "simulated-bucket-2"
"""A bucket whose name begins with ours."""
WORST_MOMENTS = frozenset(
    {"RunInstances", "TerminateInstances", "PutObject", "DeleteObjects", "DescribeInstances"}
)
WHILE_PLANNING = "DescribeImages"
"""A call between the look at the queue and the intents."""


async def terminated_by_hand(world: World, dice: random.Random) -> None:
    """An operator terminates machines in the console."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(20, 300))
        machine = world.one_that_runs(dice)
        if machine is not None:
            world.befalls("terminated_by_hand", machine.instance_id)
            world.by_hand.add(machine.instance_id)
            machine.go_down(BY_REQUEST)


async def cancels(world: World, dice: random.Random) -> None:
    """Submitters change their minds, at any moment."""
    for _ in range(4):
        await anyio.sleep(dice.uniform(1, 200))
        _cancel(world, dice, "cancels", "finished_at_ms IS NULL")


async def cancels_in_flight(world: World, dice: random.Random) -> None:
    """Submitters change their minds while the daemon makes a call for their job."""
    left, waiting = dice.randint(1, 4), dice.randint(1, 2)

    def at_a_call(operation: str) -> None:
        nonlocal left, waiting
        if waiting and operation == WHILE_PLANNING and dice.random() < 0.2:
            waiting -= _cancel(world, dice, "cancels_in_flight", "phase = 'queued'")
        if left and operation in WORST_MOMENTS and dice.random() < 0.02:
            phases = "phase IN ('launching', 'sealing', 'terminating', 'booting')"
            left -= _cancel(world, dice, "cancels_in_flight", phases)

    world.at_calls.append(at_a_call)


def _cancel(world: World, dice: random.Random, fault: str, which: str) -> bool:
    """Whether there was a job to cancel."""
    rows = world.sql(f"SELECT id FROM job WHERE {which} AND NOT cancel_requested ORDER BY seq")
    if not rows:
        return False
    job_id = dice.choice(rows)["id"]
    with suppress(sqlite3.OperationalError):  # locked: a submitter would come again
        statement = "UPDATE job SET cancel_requested = 1 WHERE id = ? RETURNING phase"
        (row,) = world.sql(statement, job_id)
        if row["phase"] in {"submitted", "queued"}:
            world.never_wanted.add(job_id)
        world.befalls(fault, job_id)
        return True
    return False


async def locked(world: World, dice: random.Random) -> None:
    """Another process holds the database's write lock."""
    holds_s = [dice.choice((0.01, 0.1, 0.5)) for _ in range(10)]
    if dice.random() < 0.1:
        holds_s[dice.randrange(10)] = 35.0  # longer than the daemon's patience
    for hold_s in holds_s:
        await anyio.sleep(dice.uniform(5, 120))
        try:
            world.plain.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            continue
        world.befalls("locked", f"{hold_s} s")
        await anyio.sleep(hold_s)
        world.plain.execute("COMMIT")


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
    world.befalls("deleted_rows", job_id)
    world.excused.add(job_id)
    for table, column in (("attempt", "job_id"), ("job", "id")):
        world.sql(f"DELETE FROM {table} WHERE {column} = ?", job_id)
    world.plain.execute("COMMIT")


async def edited_tags(world: World, dice: random.Random) -> None:
    """An operator takes our tags off a machine: it is not ours any more, and not to be touched."""
    await anyio.sleep(dice.uniform(20, 200))
    machine = world.one_that_runs(dice)
    if machine is not None and machine.job is not None:
        world.befalls("edited_tags", machine.instance_id)
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
            theirs = await world.cloud.compute_of(*tags).launch(replace(request, count=2))
            for each in theirs:
                world.machine(each.instance_id).hang()  # they live, and say nothing to us
            world.befalls("strangers", tags[0])
