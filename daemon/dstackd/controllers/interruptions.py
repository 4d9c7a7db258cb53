"""Spot machines that EC2 takes back, noticed from outside. Law: one sweep over the spot requests, whatever the number of jobs.

The machine itself polls for the notice and reports it; this is for machines that cannot, and it comes in the same two
minutes. What is found goes the way of a report: the first word about a fact wins.
"""

from __future__ import annotations

import structlog

from dstackd import protocol
from dstackd.ports import Clock, Compute
from dstackd.protocol import InboxEvent
from dstackd.store import inbox as inbox_store
from dstackd.store import machines as store
from dstackd.store.engine import Database
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)


class Interruptions:
    """Sweeps while a spot machine of ours may run."""

    name = "interruptions"
    pass_max_s = 300.0

    def __init__(
        self,
        database: Database,
        *,
        compute: Compute,
        clock: Clock,
        wakes: Wakes,
        interval_s: float,
    ) -> None:
        self._database = database
        self._compute = compute
        self._clock = clock
        self._wakes = wakes
        self.interval_s = interval_s

    async def step(self) -> float:
        """Note the notices that no machine has reported."""
        unnoticed = await self._database.read_own(store.unnoticed_spot_machines)
        if not unnoticed:
            return self.interval_s
        taken = await self._compute.reclaimed() & unnoticed
        if taken:
            now_ms = self._clock.now_ms()
            reports = [
                (InboxEvent(instance_id, 0, protocol.NOTICE, "-", 0, ("terminate",)), now_ms)
                for instance_id in sorted(taken)
            ]
            await self._database.write(
                lambda connection: inbox_store.record(connection, reports, now_ms=now_ms)
            )
            log.warning("machines_reclaimed", instance_ids=sorted(taken))
            self._wakes.machines.ring()
        return self.interval_s
