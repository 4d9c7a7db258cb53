"""What machines report, from the bucket into the table. Law: LIST only; a key is deleted after its event is committed.

Heartbeats are listed here too, into memory: their age is all that matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import anyio
import structlog

from dstackd import protocol
from dstackd.ports import Bucket, Clock, ObjectHead
from dstackd.protocol import InboxEvent
from dstackd.store import inbox as store
from dstackd.store import machines as machine_store
from dstackd.store.engine import Connection, Database
from dstackd.wake import Heartbeats, Wakes

log = structlog.get_logger(__name__)

Report: TypeAlias = tuple[InboxEvent, ObjectHead]

FOREIGN_KEPT_MS = 24 * 3600 * 1000
"""An event that no attempt of ours claims may belong to another installation on the same bucket: it stays a day."""


class Inbox:
    """Reads `inbox/` often and `heartbeats/` now and then, while machines live."""

    name = "inbox"
    pass_max_s = 300.0

    def __init__(
        self,
        database: Database,
        *,
        bucket: Bucket,
        heartbeats: Heartbeats,
        clock: Clock,
        wakes: Wakes,
        interval_s: float,
        heartbeats_s: float,
        idle_s: float,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._heartbeats = heartbeats
        self._clock = clock
        self._wakes = wakes
        self._busy_s = interval_s
        self._heartbeats_s = heartbeats_s
        self._heartbeats_read_s: float | None = None
        self._draining = anyio.Lock()
        self._foreign: set[str] = set()
        """Keys in the inbox that no attempt of ours will ever claim."""
        self._early: set[str] = set()
        """Keys that no attempt claimed at the last look; one may, once its machine's id is saved."""
        self.interval_s = idle_s

    async def step(self) -> float:
        """One look at the bucket, if a machine of ours may exist."""
        if not await self._database.read_own(machine_store.anything_live):
            return self.interval_s
        await self._drain()
        await self._read_heartbeats()
        return self._busy_s

    async def drain(self) -> None:
        """Record every event that lies in the inbox now. Raises CloudError when the bucket does not answer."""
        if await self._database.read_own(machine_store.anything_live):
            await self._drain()

    async def _drain(self) -> None:
        async with self._draining:
            heads = await self._bucket.list(protocol.INBOX_PREFIX)
            keys = {head.key for head in heads}
            self._foreign &= keys
            self._early &= keys
            await self._remove_old(heads)
            events = [
                (event, head)
                for head in heads
                if head.key not in self._foreign
                and (event := protocol.decode_inbox_key(head.key)) is not None
            ]
            if await self._says_something(events):
                await self._record(
                    sorted(events, key=lambda pair: (pair[0].instance_id, pair[0].seq))
                )

    async def _remove_old(self, heads: Sequence[ObjectHead]) -> None:
        oldest_ms = self._clock.now_ms() - FOREIGN_KEPT_MS
        keys = [
            head.key
            for head in heads
            if head.key in self._foreign and head.modified_at_ms < oldest_ms
        ]
        if keys:
            await self._bucket.delete(keys)

    async def _says_something(self, events: Sequence[Report]) -> bool:
        """Whether there is anything to write: what nobody claims lies there for a day, and is listed every second."""
        if any(head.key not in self._early for _, head in events):
            return True
        unclaimed = [event for event, _ in events]
        return bool(unclaimed) and await self._database.read(
            lambda connection: store.is_any_claimed(connection, unclaimed)
        )

    async def _record(self, events: list[Report]) -> None:
        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> list[store.Receipt]:
            reports = [(event, head.modified_at_ms) for event, head in events]
            return await store.record(connection, reports, now_ms=now_ms)

        receipts = await self._database.write(work)
        done: list[str] = []
        for (event, head), receipt in zip(events, receipts, strict=True):
            if receipt is store.Receipt.RECORDED:
                done.append(head.key)
                log.info(
                    "machine_reported",
                    job_id=event.job_id,
                    attempt=event.attempt,
                    instance_id=event.instance_id,
                    event_kind=event.kind,
                    fields=event.fields,
                )
            elif receipt is store.Receipt.FOREIGN and event.job_id != "-":
                # The attempt's row is older than its machine, so that one which is not there will never be.
                self._foreign.add(head.key)
            else:
                self._early.add(head.key)
        if store.Receipt.RECORDED in receipts:
            self._wakes.machines.ring()
            self._wakes.logs.ring()
            if any(event.kind == protocol.DONE for event, _ in events):
                self._wakes.planning.ring()  # a machine may be idle now
        if done:
            await self._bucket.delete(done)

    async def _read_heartbeats(self) -> None:
        now_s = self._clock.monotonic_s()
        if (
            self._heartbeats_read_s is not None
            and now_s - self._heartbeats_read_s < self._heartbeats_s
        ):
            return
        heads = await self._bucket.list(protocol.HEARTBEAT_PREFIX)
        self._heartbeats_read_s = now_s
        self._heartbeats.read_at_ms = self._clock.now_ms()
        self._heartbeats.at_ms = {
            head.key.removeprefix(protocol.HEARTBEAT_PREFIX): head.modified_at_ms for head in heads
        }
