"""Machines and spot requests that nobody needs go. Law: seen orphaned in two looks, and only with our exact tags.

It looks with each snapshot of the machines loop, and when an operator asks; marks are in memory, so a restart begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import structlog

from dstackd.core.instance import Instance, InstanceState, Market, Snapshot
from dstackd.core.orphan import (
    STUCK_AFTER_S,
    STUCK_REPEAT_MS,
    Marks,
    SpotRequest,
    find_orphans,
    find_unwanted,
)
from dstackd.core.reaping import Look, Reaped, Suspect
from dstackd.errors import CloudError
from dstackd.ports import Clock, Compute
from dstackd.store import machines as store
from dstackd.store import reaping
from dstackd.store.engine import Connection, Database
from dstackd.vitals import Vitals

log = structlog.get_logger(__name__)

REQUESTS_AGAIN_MS = 60_000
"""Between two sweeps over open spot requests when one is suspected;"""
REQUESTS_BUSY_MS = 300_000
"""while spot machines live;"""
REQUESTS_IDLE_MS = 3_600_000
"""and otherwise. The first one is at the start: an earlier daemon may have left something."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look has found."""

    orphans: tuple[Instance, ...]
    open_launch_ids: frozenset[str]
    now_ms: int


class Reaper:
    """Reads each snapshot that the machines loop takes."""

    def __init__(
        self, database: Database, *, compute: Compute, backend: str, clock: Clock, vitals: Vitals
    ) -> None:
        self._database = database
        self._compute = compute
        self._backend = backend
        self._clock = clock
        self._vitals = vitals
        self._looking = anyio.Lock()
        self._marks = Marks()
        self._told: frozenset[str] = frozenset()
        """Orphans that the last look has terminated: one that goes slowly is told of once."""
        self._request_marks = Marks()
        self._requests_read_at_ms: int | None = None
        self.last_snapshot: Snapshot | None = None
        """What the machines loop saw last; for those who explain."""
        self._asked_again_at_ms: dict[str, int] = {}
        """Machines that are stuck, and when each was last asked to go."""

    async def reap(self, snapshot: Snapshot) -> None:
        """Terminate what was an orphan at an earlier look and still is. The table is read after the snapshot was taken."""
        self.last_snapshot = snapshot
        async with self._looking:
            seen = await self._judge(snapshot)
            await self._terminate_confirmed(snapshot, seen)
            await self._press_on(snapshot, seen.now_ms)
            if self._requests_due(snapshot, seen.now_ms):
                await self._sweep_requests(seen)

    async def look(self) -> Look:
        """What EC2 shows now, and what a look would say of it. Marks nothing, changes nothing."""
        snapshot = await self._compute.snapshot()
        seen = await self._judge(snapshot)
        requests = await self._compute.open_requests()
        return Look(
            snapshot,
            marks=self._marks,
            orphans=self._suspects(snapshot, seen.orphans),
            requests=self._unwanted(requests, seen),
            strangers=await self._compute.strangers(),
        )

    async def reap_now(self) -> Reaped:
        """A look for an operator: what an earlier one has marked goes at once, the rest is marked."""
        async with self._looking:
            snapshot = await self._compute.snapshot()
            seen = await self._judge(snapshot)
            suspects = self._suspects(snapshot, seen.orphans)
            await self._terminate_confirmed(snapshot, seen)
            cancelled, waiting = await self._cancel_unwanted(seen)
        return Reaped(
            terminated=tuple(each.id for each in suspects if each.confirmed),
            marked=tuple(each.id for each in suspects if not each.confirmed),
            cancelled=cancelled,
            marked_requests=waiting,
        )

    async def _judge(self, snapshot: Snapshot) -> _Seen:
        now_ms = self._clock.now_ms()
        needed_ids, open_launch_ids = await self._database.read_own(
            partial(store.needed, now_ms=now_ms)
        )
        orphans = find_orphans(
            snapshot,
            needed_ids=needed_ids,
            open_launch_ids=open_launch_ids,
            now_ms=now_ms,
        )
        return _Seen(orphans, open_launch_ids, now_ms)

    def _suspects(self, snapshot: Snapshot, orphans: Sequence[Instance]) -> tuple[Suspect, ...]:
        return tuple(
            Suspect(
                each.instance_id,
                marked_since_ms=self._marks.since_ms.get(each.instance_id),
                confirmed=self._marks.confirms(each.instance_id, looked_at_ms=snapshot.taken_at_ms),
            )
            for each in orphans
        )

    async def _terminate_confirmed(self, snapshot: Snapshot, seen: _Seen) -> None:
        looked_at_ms = snapshot.taken_at_ms
        confirmed = [
            orphan
            for orphan in seen.orphans
            if self._marks.confirms(orphan.instance_id, looked_at_ms=looked_at_ms)
        ]
        suspects = [orphan.instance_id for orphan in seen.orphans]
        self._marks = self._marks.after(suspects, looked_at_ms=looked_at_ms)
        if not confirmed:
            return
        await self._note_orphans([each for each in confirmed if each.instance_id not in self._told])
        self._told = frozenset(orphan.instance_id for orphan in confirmed)
        await self._compute.terminate([orphan.instance_id for orphan in confirmed])

    async def _note_orphans(self, orphans: list[Instance]) -> None:
        if not orphans:
            return
        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> None:
            for orphan in orphans:
                await store.adopt_orphan(connection, orphan, backend=self._backend, now_ms=now_ms)

        await self._database.write(work)
        self._vitals.orphans_terminated += len(orphans)
        for orphan in orphans:
            log.warning(
                "orphan_terminated", instance_id=orphan.instance_id, launch=orphan.launch_id
            )

    async def _press_on(self, snapshot: Snapshot, now_ms: int) -> None:
        """Write down who is not needed any more; who does not go is asked again until EC2 shows it terminated, and told of."""
        if not snapshot.instances:  # what EC2 does not show is gone, or too new to leave
            return
        leavers = await self._database.read_own(partial(reaping.leavers, now_ms=now_ms))
        if leavers.new:
            await self._database.write(
                lambda connection: reaping.note_leaving(connection, leavers.new, now_ms=now_ms)
            )
        await self._alarm(leavers.untold, now_ms)
        asked_ms = self._asked_again_at_ms
        self._asked_again_at_ms = {each: asked_ms.get(each, 0) for each in leavers.stuck}
        again = [
            each
            for each, last_ms in self._asked_again_at_ms.items()
            if now_ms - last_ms >= STUCK_REPEAT_MS and is_there(snapshot, each)
        ]
        if again:
            self._asked_again_at_ms |= dict.fromkeys(again, now_ms)
            await self._compute.terminate(again)

    async def _alarm(self, instance_ids: Sequence[str], now_ms: int) -> None:
        if not instance_ids:
            return
        told = await self._database.write(
            lambda connection: reaping.note_stuck(connection, instance_ids, now_ms=now_ms)
        )
        for instance_id in told:
            log.error("terminate_stuck", instance_id=instance_id, leaving_s=STUCK_AFTER_S)

    def _requests_due(self, snapshot: Snapshot, now_ms: int) -> bool:
        if self._requests_read_at_ms is None:
            return True
        pace_ms = REQUESTS_IDLE_MS
        if self._request_marks.since_ms:
            pace_ms = REQUESTS_AGAIN_MS
        elif any(
            each.market is Market.SPOT and each.state is not InstanceState.TERMINATED
            for each in snapshot.instances.values()
        ):
            pace_ms = REQUESTS_BUSY_MS
        return now_ms - self._requests_read_at_ms >= pace_ms

    async def _sweep_requests(self, seen: _Seen) -> None:
        """What AWS says against it is no reason to hold up the machines."""
        self._requests_read_at_ms = seen.now_ms
        try:
            await self._cancel_unwanted(seen)
        except CloudError as error:
            log.warning("spot_requests_not_swept", code=error.code, problem=error.explained)

    def _unwanted(self, requests: Sequence[SpotRequest], seen: _Seen) -> tuple[Suspect, ...]:
        found = find_unwanted(requests, open_launch_ids=seen.open_launch_ids, now_ms=seen.now_ms)
        marks = self._request_marks
        return tuple(
            Suspect(
                each.id,
                marked_since_ms=marks.since_ms.get(each.id),
                confirmed=marks.confirms(each.id, looked_at_ms=seen.now_ms),
                launch_id=each.launch_id,
            )
            for each in found
        )

    async def _cancel_unwanted(self, seen: _Seen) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(ids that were cancelled, ids that are marked now)."""
        suspects = self._unwanted(await self._compute.open_requests(), seen)
        self._request_marks = self._request_marks.after(
            [each.id for each in suspects], looked_at_ms=seen.now_ms
        )
        confirmed = [each for each in suspects if each.confirmed]
        waiting = tuple(each.id for each in suspects if not each.confirmed)
        if not confirmed:
            return (), waiting
        events = [(each.id, each.launch_id) for each in confirmed]
        await self._database.write(
            lambda connection: reaping.note_cancelled(connection, events, now_ms=seen.now_ms)
        )
        for each in confirmed:
            log.warning("spot_request_cancelled", spot_request=each.id, launch=each.launch_id)
        await self._compute.cancel_requests([each.id for each in confirmed])
        self._vitals.spot_requests_cancelled += len(confirmed)
        return tuple(each.id for each in confirmed), waiting


def is_there(snapshot: Snapshot, instance_id: str) -> bool:
    """Whether EC2 shows the machine, and not as terminated."""
    instance = snapshot.instances.get(instance_id)
    return instance is not None and instance.state is not InstanceState.TERMINATED
