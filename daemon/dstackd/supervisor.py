"""One task group, named loops. Law: an operating error is noted and the loop backs off; anything else ends the process.

Crash-only: there is no drain. Cancelling the group is the whole shutdown, machines keep running, and the next
process finds them again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio
import structlog

from dstackd.errors import OperatingError
from dstackd.ports import Clock
from dstackd.sd_notify import notify, watchdog_interval_s
from dstackd.vitals import LoopPulse, Vitals
from dstackd.wake import Wake

log = structlog.get_logger(__name__)

T = TypeVar("T")

BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 60.0
START_BACKOFF_MAX_S = 8.0


class Loop(Protocol):
    """A controller: `step` is one pass and returns the seconds until the next."""

    @property
    def name(self) -> str: ...
    @property
    def interval_s(self) -> float: ...
    @property
    def pass_max_s(self) -> float: ...
    async def step(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Supervised:
    """A loop with its bell.

    `spacing_s`: at least this much between two passes, however often the bell rings: what comes in the meantime is
    done together, and a thousand machines that report cost as many calls as ten.
    """

    loop: Loop
    wake: Wake
    spacing_s: float = 0.0


async def run_loops(loops: Sequence[Supervised], *, vitals: Vitals, clock: Clock) -> None:
    """Run every loop and the watchdog until cancelled, or until one breaks."""
    async with anyio.create_task_group() as group:
        for supervised in loops:
            pulse = vitals.add_loop(
                supervised.loop.name,
                interval_s=supervised.loop.interval_s,
                pass_max_s=supervised.loop.pass_max_s,
                now_s=clock.monotonic_s(),
            )
            group.start_soon(_run_loop, supervised, pulse, clock, name=supervised.loop.name)
        group.start_soon(_feed_watchdog, vitals, clock, name="watchdog")


async def patiently(step: Callable[[], Awaitable[T]], *, clock: Clock) -> T:
    """A step of the start-up, again and again until the world lets it. A process that ended instead would be started a
    few times and then not any more (systemd's StartLimitBurst), and nobody would look after the machines.
    """
    backoff_s = BACKOFF_MIN_S
    while True:
        try:
            return await step()
        except OperatingError as error:
            log.warning("start_waits", problem=str(error), retry_s=backoff_s)
        await anyio.sleep(backoff_s * (0.5 + clock.jitter()))
        backoff_s = min(backoff_s * 2, START_BACKOFF_MAX_S)


async def _run_loop(supervised: Supervised, pulse: LoopPulse, clock: Clock) -> None:
    backoff_s = BACKOFF_MIN_S
    while True:
        try:
            pause_s = await supervised.loop.step()
        except (OperatingError, ExceptionGroup) as error:
            problem = _problem_of(error)
            if pulse.last_error != problem:
                log.warning("loop_failed", loop=pulse.name, problem=problem, retry_s=backoff_s)
            pulse.failed(clock.monotonic_s(), problem)
            await anyio.sleep(backoff_s * (0.5 + clock.jitter()))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        else:
            if pulse.last_error:
                log.info("loop_recovered", loop=pulse.name)
            pulse.succeeded(clock.monotonic_s())
            backoff_s = BACKOFF_MIN_S
            spacing_s = min(supervised.spacing_s, pause_s)
            await anyio.sleep(spacing_s)
            await supervised.wake.wait(pause_s - spacing_s)


def _problem_of(error: OperatingError | ExceptionGroup[Exception]) -> str:
    """What the world did, in words. A loop's own task group wraps whatever is raised in it; if anything in there is not an
    operating error, the whole group is raised on.
    """
    first: Exception = error
    while isinstance(first, ExceptionGroup):
        if first.split(OperatingError)[1] is not None:
            raise error
        first = first.exceptions[0]
    return str(first)


async def _feed_watchdog(vitals: Vitals, clock: Clock) -> None:
    """WATCHDOG=1 only while no loop hangs: a blind timer would prove nothing."""
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        wedged = vitals.wedged(clock.monotonic_s())
        if wedged:
            log.error("loops_wedged", loops=wedged)
        else:
            notify("WATCHDOG=1")
        await anyio.sleep(interval_s)
