"""Keeping a backend. Law: looks often, writes only when somebody asks; while it cannot look, nothing is changed outside the database.

What ends it is `LeaseLost`, and with it every loop of the backend.
"""

from __future__ import annotations

import structlog

from dstackd.errors import LeaseLost, OperatingError
from dstackd.ports import Clock
from dstackd.store import lease as store
from dstackd.store.engine import Database

log = structlog.get_logger(__name__)

LOOK_S = 2.0
AGAIN_S = 0.25
"""After a look that failed: the calls of the other loops wait for the next."""


class Keeping:
    """Answers whoever waits. `database`: as an application has it; what it writes carries its own guard."""

    name = "lease"
    interval_s = LOOK_S
    pass_max_s = 120.0

    def __init__(self, database: Database, *, tenure: store.Tenure, clock: Clock) -> None:
        self._database = database
        self._tenure = tenure
        self._clock = clock
        self._failed = False

    async def step(self) -> float:
        """One look. Raises LeaseLost when the backend is another daemon's."""
        try:
            await self._look()
        except OperatingError as error:
            if not self._failed:
                log.warning("lease_not_confirmed", problem=str(error))
            self._failed = True
            return AGAIN_S
        self._failed = False
        return self.interval_s

    async def _look(self) -> None:
        lease, began_s = self._tenure.lease, self._clock.monotonic_s()
        state = await self._database.read(
            lambda connection: store.read_lease(connection, lease.backend)
        )
        if (state.holder, state.fence) != (lease.holder, lease.fence):
            self._tenure.end()
            message = (
                f"{state.holder or 'nobody'} owns backend {lease.backend} since fence {state.fence}"
            )
            raise LeaseLost(message)
        if state.is_waited_for:
            await self._database.write(lambda connection: store.answer(connection, lease))
        self._tenure.renew(asked_at_s=began_s)
