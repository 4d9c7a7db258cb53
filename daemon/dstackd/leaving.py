"""Machines that their jobs have left already. Law: each is followed by its own attempt until EC2 shows it gone; no job waits for it here.

The reaper would find such a machine too, but only minutes later, and minutes cost money.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from dstackd.core.instance import Observation
from dstackd.core.job import Attempt
from dstackd.core.leaving import Step, follow
from dstackd.core.limits import Limits
from dstackd.ports import Clock
from dstackd.store import leaving as store
from dstackd.store.engine import Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)


class Leaving:
    """A part of each pass of the machines loop."""

    def __init__(self, database: Database, *, limits: Limits, clock: Clock, wakes: Wakes) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._wakes = wakes
        self.expected = True
        """Whether there may be any: after a start, and once a job is queued again; nobody looks otherwise."""

    async def follow(self, observe: Callable[[Attempt], Observation]) -> list[Attempt]:
        """Close the attempts whose machine is gone; returns those whose machine is to be asked to go."""
        attempts = await self._database.read_own(store.leaving_attempts)
        self.expected = bool(attempts)
        if not attempts:
            return []
        now_ms = self._clock.now_ms()
        steps = [
            (each, follow(each, observe(each), limits=self._limits, now_ms=now_ms))
            for each in attempts
        ]
        over = [each for each, step in steps if step is Step.OVER]
        if over:
            await self._database.write(
                lambda connection: store.save_left(connection, over, now_ms=now_ms)
            )
            self._tell(over)
        return [each for each, step in steps if step is Step.TERMINATE]

    def _tell(self, over: list[Attempt]) -> None:
        for each in over:
            log.info(
                "machine_gone",
                job_id=each.job_id,
                attempt=each.number,
                instance_id=each.instance_id,
            )
        self._wakes.machines.ring()  # a later attempt may be over and wait for this
        self._wakes.planning.ring()  # room and money are free
