"""The gate before EC2 in played time, and a model of AWS's buckets behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from dstackd.aws.pacing import Pacing
from dstackd.aws.recorder import CallRecorder
from dstackd.core.ec2_limits import Ec2Limits
from dstackd.core.token_bucket import BucketSize
from tests.aws.played_time import PlayedTime

PUBLISHED = Ec2Limits()
RUN, TERMINATE, DESCRIBE = "RunInstances", "TerminateInstances", "DescribeInstances"
T = TypeVar("T")


def refusals(size: BucketSize, arrivals: Sequence[tuple[float, int]]) -> int:
    """How many of the calls, (time, tokens), AWS's bucket of that size would refuse."""
    tokens, before_s, refused = size.capacity, 0.0, 0
    for at_s, count in sorted(arrivals):
        tokens = min(size.capacity, tokens + (at_s - before_s) * size.refill_per_s)
        before_s = at_s
        if tokens < count - 1e-6:
            refused += 1
        else:
            tokens -= count
    return refused


@dataclass
class Gate:
    """A gate in played time, and what went through it."""

    limits: Ec2Limits = PUBLISHED
    time: PlayedTime = field(default_factory=PlayedTime)
    passed: list[tuple[str, str]] = field(default_factory=list)
    """(operation, name of the call) in the order of their leaving."""
    arrivals: list[tuple[float, str, int]] = field(default_factory=list)
    """When which operation reached AWS, for how many machines."""

    def __post_init__(self) -> None:
        self.recorder = CallRecorder(self.time)
        self.pacing = Pacing(
            self.limits, clock=self.time, recorder=self.recorder, sleep=self.time.sleep
        )

    async def call(
        self,
        operation: str,
        name: str = "",
        *,
        machines: int = 0,
        after_s: float = 0.0,
        delay_s: float = 0.0,
        answer_s: float = 0.0,
    ) -> None:
        """Come after a while, wait for the turn, be on the way for `delay_s`, wait for the answer."""
        await self.time.sleep(after_s)
        async with self.pacing.turn(operation, machines=machines):
            self.passed.append((operation, name))
            self.arrivals.append((self.time.monotonic_s() + delay_s, operation, machines))
            await self.time.sleep(delay_s + answer_s)

    def is_idle(self) -> bool:
        """Nobody waits and nobody holds room."""
        waiting = sum(len(lane.turns) for lane in self.pacing._lanes.values())
        return (waiting, self.pacing._calls, self.pacing._launches) == (0, 0, 0)

    def of(self, operation: str) -> list[tuple[float, int]]:
        """(time, machines) of an operation's calls."""
        return [(at_s, machines) for at_s, each, machines in self.arrivals if each == operation]


def played(story: Callable[[], Awaitable[T]]) -> T:
    """Run a story to its end, which a gate that lets nobody through would keep from coming."""

    async def bounded() -> T:
        with anyio.fail_after(30):
            return await story()

    return anyio.run(bounded)


@asynccontextmanager
async def held(gate: Gate, operation: str, *, times: int) -> AsyncIterator[anyio.Event]:
    """That many calls are under way until the event is set."""
    release = anyio.Event()

    async def hold() -> None:
        async with gate.pacing.turn(operation, machines=1):
            await release.wait()

    async with anyio.create_task_group() as group:
        for _ in range(times):
            group.start_soon(hold)
        await gate.time.sleep(0.001)
        yield release
        release.set()
