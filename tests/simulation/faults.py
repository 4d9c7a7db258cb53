"""What the world does to an installation, by name. Law: each fault can be switched off; each draws from dice of its own, so that
switching one off does not change the others; each says when it strikes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from tests.simulation import mishaps, people, rivals
from tests.simulation.world import Strike, World

Fault = Callable[[World, random.Random], Coroutine[Any, Any, None]]


async def throttled(world: World, dice: random.Random) -> None:
    """EC2 and S3 refuse some calls unread."""
    world.strikes.append(Strike("throttled", "throttle", dice.uniform(0, 0.15)))


async def lost_calls(world: World, dice: random.Random) -> None:
    """Some calls never arrive, and nobody knows."""
    world.strikes.append(Strike("lost_calls", "lose_call", dice.uniform(0, 0.1)))


async def lost_answers(world: World, dice: random.Random) -> None:
    """Some calls are done, and nobody hears of it."""
    world.strikes.append(Strike("lost_answers", "lose_answer", dice.uniform(0, 0.1)))
    world.strikes.append(
        Strike("lost_answers", "lose_answer", dice.uniform(0, 0.5), operation="RunInstances")
    )


async def unheard_launches(world: World, dice: random.Random) -> None:
    """For a while no launch is answered, and each is done."""
    for _ in range(3):
        await anyio.sleep(dice.uniform(0, 120))
        strike = Strike("unheard_launches", "lose_answer", 1.0, operation="RunInstances")
        world.strikes.append(strike)
        await anyio.sleep(dice.uniform(30, 250))
        world.strikes.remove(strike)


async def late_answers(world: World, dice: random.Random) -> None:
    """EC2 takes its time: what it shows is old when it arrives."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(10, 300))
        world.befalls("late_answers", "EC2 is slow")
        world.latency.ec2_s = dice.uniform(5, 30)
        await anyio.sleep(dice.uniform(10, 150))
        world.latency.ec2_s = 2.0


async def bucket_errors(world: World, dice: random.Random) -> None:
    """S3 fails more often than not, for a while."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(10, 300))
        broken = [
            Strike("bucket_errors", kind, dice.uniform(0.1, 0.5), operation=operation)
            for operation in ("PutObject", "GetObject", "ListObjectsV2", "DeleteObjects")
            for kind in ("lose_call", "lose_answer")
        ]
        world.strikes += broken
        await anyio.sleep(dice.uniform(10, 120))
        world.strikes = [each for each in world.strikes if each not in broken]


async def slow_bucket(world: World, dice: random.Random) -> None:
    """S3 takes its time, above all for lists."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(10, 300))
        world.befalls("slow_bucket", "S3 is slow")
        world.latency.bucket_s, world.latency.list_s = dice.uniform(1, 5), dice.uniform(5, 40)
        await anyio.sleep(dice.uniform(10, 120))
        world.latency.bucket_s, world.latency.list_s = 0.3, 0.3


async def conflicts(world: World, dice: random.Random) -> None:
    """S3 answers some conditional writes with a conflict, which says neither yes nor no."""
    world.strikes.append(Strike("conflicts", "conflict", dice.uniform(0.2, 0.8)))


async def denied(world: World, dice: random.Random) -> None:
    """For a while the credentials are no good."""
    await anyio.sleep(dice.uniform(0, 600))
    strike = Strike("denied", "deny", 1.0)
    world.strikes.append(strike)
    await anyio.sleep(dice.uniform(1, 120))
    world.strikes.remove(strike)


async def outages(world: World, dice: random.Random) -> None:
    """AWS is out of reach, as a whole, for a minute or two."""
    for _ in range(2):
        await anyio.sleep(dice.uniform(30, 900))
        strike = Strike("outages", "lose_call", 1.0)
        world.strikes.append(strike)
        await anyio.sleep(dice.uniform(5, 150))
        world.strikes.remove(strike)


async def scarce(world: World, dice: random.Random) -> None:
    """Offerings are sold out, partly or whole, and come back."""
    capacity = world.cloud.faults.capacity
    patterns = ("m5.large|*|spot", "m5.large|us-east-1a|*", "*|*|spot", "*|us-east-1b|*", "*")
    for _ in range(6):
        pattern = dice.choice(patterns)
        capacity[pattern] = dice.randint(0, 6)
        await anyio.sleep(dice.uniform(20, 200))
        capacity.pop(pattern, None)


async def small_quota(world: World, dice: random.Random) -> None:
    """The account may have only some vCPUs at once, for a while."""
    world.cloud.faults.quota_vcpus = dice.choice((2, 4, 8, 16, 32))
    await anyio.sleep(dice.uniform(100, 900))
    world.cloud.faults.quota_vcpus = None


async def open_requests(world: World, dice: random.Random) -> None:
    """A shortage leaves spot requests behind that wait."""
    world.cloud.faults.capacity["m5.large|*|spot"] = dice.randint(0, 2)
    world.cloud.faults.left_open = dice.randint(1, 4)
    await anyio.sleep(dice.uniform(20, 300))
    world.cloud.faults.capacity.pop("m5.large|*|spot", None)


async def unseen(world: World, dice: random.Random) -> None:
    """New instances are not to be seen at first."""
    world.cloud.faults.invisible_s = dice.uniform(0, 60)


async def untagged(world: World, dice: random.Random) -> None:
    """The tags of new instances are not to be seen at first."""
    world.cloud.faults.untagged_s = dice.uniform(0, 60)


async def late_lines(world: World, dice: random.Random) -> None:
    """Log events come late, twice, and out of order."""
    faults = world.cloud.faults
    faults.log_lag_s, faults.late_s = dice.uniform(0, 5), dice.uniform(5, 70)
    faults.late_share, faults.doubled_share = dice.uniform(0, 0.3), dice.uniform(0, 0.3)


async def lost_lines(world: World, dice: random.Random) -> None:
    """Some log events never arrive."""
    world.cloud.faults.lost_share = dice.uniform(0, 0.1)


async def wrong_machine_clocks(world: World, dice: random.Random) -> None:
    """The machines' clocks are off, each otherwise."""
    world.cloud.faults.machine_skew_s = dice.uniform(1, 60)


async def wrong_clock(world: World, dice: random.Random) -> None:
    """The control host's wall clock is off, and jumps."""
    world.clock.skew_ms = dice.randint(-100_000, 100_000)
    for _ in range(2):
        await anyio.sleep(dice.uniform(60, 600))
        world.clock.skew_ms = dice.randint(-100_000, 100_000)
        world.befalls("wrong_clock", f"{world.clock.skew_ms} ms")


async def leaping_clock(world: World, dice: random.Random) -> None:
    """The control host's wall clock leaps forward when a machine has just been launched."""
    for _ in range(3):
        world.clock.skew_ms = -75_000
        await anyio.sleep(dice.uniform(0, 60))
        machine = await world.next_machine()
        await anyio.sleep(dice.uniform(4, 12))
        world.clock.skew_ms = 75_000
        world.befalls("leaping_clock", f"{machine.instance_id} is new")
        await anyio.sleep(dice.uniform(100, 200))


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(throttled, lost_calls, lost_answers, bucket_errors, slow_bucket, conflicts, denied),
        *(outages, scarce, small_quota, open_requests, unseen, late_lines, lost_lines),
        *(wrong_machine_clocks, wrong_clock, mishaps.reclaimed, mishaps.reclaimed_at_once),
        *(mishaps.broken_hosts, mishaps.broken_runners, mishaps.hanging),
        *(people.terminated_by_hand, people.cancels, people.cancels_in_flight, people.locked),
        *(people.deleted_rows, people.edited_tags, people.strangers),
        *(unheard_launches, late_answers, untagged, leaping_clock),
        *(mishaps.never_booting, mishaps.stuck, mishaps.short_lived_runners),
        rivals.two_daemons,
    )
}
