"""Waiting for a backend that another daemon owns. Law: reads and asks, calls nobody, and changes nothing but the lease.

It takes over at once what was given back, and what an earlier process on this state directory has left: two cannot run on
it, so that one has ended. From anybody else it takes over only what stayed silent for `LEASE_S`.
"""

from __future__ import annotations

import anyio
import structlog

from dstackd.errors import OperatingError
from dstackd.ports import Clock
from dstackd.store import lease as store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import add_events
from dstackd.vitals import Vitals

log = structlog.get_logger(__name__)

LOOK_S = 1.0
LOOK_MAX_S = 5.0
"""What was not looked at for longer may have been otherwise in between: the database was away, or this host was."""


def place_of(holder: str) -> str:
    """The part of a holder's name that its next process has, too."""
    return holder.rpartition("/")[0]


class Standby:
    """Looks until the backend is ours. `holder`: this process, as `place/number`; `taken` is set when it owns the backend."""

    name = "standby"
    interval_s = LOOK_S
    pass_max_s = 120.0

    def __init__(
        self,
        database: Database,
        *,
        tenure: store.Tenure,
        holder: str,
        clock: Clock,
        vitals: Vitals,
    ) -> None:
        self._database = database
        self._tenure = tenure
        self._holder = holder
        self._clock = clock
        self._vitals = vitals
        self._seen: store.LeaseState | None = None
        self._seen_since_s = 0.0
        self._looked_at_s = 0.0
        self.taken = anyio.Event()

    async def step(self) -> float:
        """One look. A database that does not answer proves nothing about the owner."""
        if self.taken.is_set():
            return self.interval_s
        try:
            await self._look()
        except OperatingError as error:
            log.warning("standby_cannot_look", problem=str(error))
        return self.interval_s

    async def _look(self) -> None:
        began_s = self._clock.monotonic_s()
        state = await self._database.read(
            lambda connection: store.read_lease(connection, self._tenure.backend)
        )
        if state.holder is None or place_of(state.holder) == place_of(self._holder):
            await self._take(state, began_s)
            return
        self._tell(state.holder)
        if state != self._seen or began_s - self._looked_at_s > LOOK_MAX_S:
            self._seen, self._seen_since_s = state, self._clock.monotonic_s()
        try:
            if not state.is_waited_for:
                await self._database.write(
                    lambda connection: store.ask(connection, self._tenure.backend, state)
                )
            elif began_s - self._seen_since_s >= store.LEASE_S:
                await self._take(state, began_s)
        finally:  # a write may have waited for a transaction in which the owner stalls: that is no gap
            self._looked_at_s = self._clock.monotonic_s()

    async def _take(self, state: store.LeaseState, began_s: float) -> None:
        backend, holder, now_ms = self._tenure.backend, self._holder, self._clock.now_ms()

        async def work(connection: Connection) -> store.Lease | None:
            lease = await store.take(connection, backend, state, holder=holder)
            if lease is not None and state.holder is not None:
                message = f"backend {backend}: {holder} follows {state.holder}, fence {lease.fence}"
                event = {"at_ms": now_ms, "kind": "lease_taken", "message": message}
                await add_events(connection, [event])
            return lease

        lease = await self._database.write(work)
        if lease is None:
            return
        self._tenure.begin(lease, asked_at_s=began_s)
        self._vitals.standing_by_for = ""
        log.info("lease_taken", backend=backend, fence=lease.fence, before=state.holder)
        self.taken.set()

    def _tell(self, owner: str) -> None:
        if self._vitals.standing_by_for != owner:
            self._vitals.standing_by_for = owner
            log.info("standing_by", backend=self._tenure.backend, owner=owner)
