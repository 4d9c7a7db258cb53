"""Jobs with machines: snapshot, observe, decide, save, apply. Law: one tagged sweep serves every job; decisions are `core.decide`.

The order of a pass matters: EC2 is listed first, then the inbox. A machine writes its last word before it goes, so
whoever sees it gone has its last word already in the table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from dstackd import protocol
from dstackd.core.action import RequestStop, Terminate
from dstackd.core.decide import Decision, decide
from dstackd.core.instance import Snapshot
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.observe import VISIBILITY_GRACE_MS, observe
from dstackd.core.phase import TERMINAL, Outcome, Phase, Reason
from dstackd.errors import CloudError, StaleRow, StoreBusy
from dstackd.ports import Bucket, Clock, Compute
from dstackd.store import inbox as inbox_store
from dstackd.store import jobs as job_store
from dstackd.store import machines as store
from dstackd.store.engine import Connection, Database
from dstackd.wake import Heartbeats, Wakes

log = structlog.get_logger(__name__)

POISON_MAX = 5

SnapshotReader = Callable[[Snapshot], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class MachinePace:
    """Seconds between sweeps: while machines live, and while none do."""

    busy_s: float = 10.0
    idle_s: float = 60.0
    heartbeats_s: float = 30.0


class Machines:
    """Moves every job that has a machine."""

    name = "machines"
    pass_max_s = 600.0

    def __init__(
        self,
        database: Database,
        *,
        compute: Compute,
        bucket: Bucket,
        drain_inbox: Callable[[], Awaitable[None]],
        snapshot_readers: Sequence[SnapshotReader],
        heartbeats: Heartbeats,
        limits: Limits,
        pace: MachinePace,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._compute = compute
        self._bucket = bucket
        self._drain_inbox = drain_inbox
        self._snapshot_readers = snapshot_readers
        self._heartbeats = heartbeats
        self._limits = limits
        self._pace = pace
        self._clock = clock
        self._wakes = wakes
        self._snapshot: Snapshot | None = None
        self._swept_at_s: float | None = None
        self._poison: dict[str, int] = {}
        self.interval_s = pace.idle_s

    async def step(self) -> float:
        """One pass. A sweep that fails leaves the jobs Unknown, not unattended; its error is raised at the end."""
        busy = await self._database.read(store.anything_live)
        pace_s = self._pace.busy_s if busy else self._pace.idle_s
        due = self._pace_left_s(pace_s) <= 0
        failure = await self._sweep() if due else None
        swept = due and failure is None
        await self._drain_inbox()
        await self._reconcile(everything=swept)
        if failure is not None:
            raise failure
        if swept and self._snapshot is not None:
            for read in self._snapshot_readers:
                await read(self._snapshot)
        return max(self._pace_left_s(pace_s), 0.05)

    def _pace_left_s(self, pace_s: float) -> float:
        if self._swept_at_s is None:
            return 0.0
        return self._swept_at_s + pace_s - self._clock.monotonic_s()

    async def _sweep(self) -> CloudError | None:
        self._swept_at_s = self._clock.monotonic_s()
        try:
            snapshot = await self._compute.snapshot()
        except CloudError as error:
            self._snapshot = None
            return error
        self._snapshot = snapshot
        await self._save_states(snapshot)
        return None

    async def _save_states(self, snapshot: Snapshot) -> None:
        now_ms = self._clock.now_ms()
        known = {
            machine.instance_id: machine
            for machine in await self._database.read(store.live_machines)
        }
        changed = [
            instance
            for instance in snapshot.instances.values()
            if (row := known.get(instance.instance_id)) is not None
            and (row.state, row.state_reason) != (instance.state, instance.state_reason)
        ]
        absent = [
            machine.instance_id
            for machine in known.values()
            if machine.instance_id not in snapshot.instances
            and snapshot.taken_at_ms > machine.launched_at_ms + VISIBILITY_GRACE_MS
        ]
        if not changed and not absent:
            return

        async def work(connection: Connection) -> None:
            await store.save_states(connection, changed, now_ms=now_ms)
            await store.save_absent(connection, absent, now_ms=now_ms)

        await self._database.write(work)

    async def _reconcile(self, *, everything: bool) -> None:
        due_at_ms = None if everything else self._clock.now_ms()

        async def read(connection: Connection) -> list[tuple[Job, Attempt]]:
            return await job_store.jobs_with_machines(connection, due_at_ms=due_at_ms)

        to_terminate: list[Attempt] = []
        for job, attempt in await self._database.read(read):
            try:
                to_terminate += await self._reconcile_job(job, attempt)
            except StaleRow:
                self._wakes.machines.ring()
            except (
                CloudError
            ) as error:  # a stop request that did not get through: the next pass asks again
                log.warning("stop_not_delivered", job_id=job.id, code=error.code)
            except StoreBusy:
                raise
            except (
                Exception
            ):  # the one place where a bug in one job's path must not stop the others
                log.exception("job_poisoned", job_id=job.id, phase=job.phase)
                to_terminate += await self._give_up_on_poison(job, attempt)
            else:
                self._poison.pop(job.id, None)
        await self._terminate(to_terminate)

    async def _give_up_on_poison(self, job: Job, attempt: Attempt) -> list[Attempt]:
        """After POISON_MAX failed passes in a row the machine goes: a bug of ours must not cost money for ever."""
        self._poison[job.id] = self._poison.get(job.id, 0) + 1
        if self._poison[job.id] < POISON_MAX:
            return []
        if job.phase is not Phase.TERMINATING:
            message = f"internal error, {POISON_MAX} passes in a row; see the daemon's log"
            decision = Decision(
                Phase.TERMINATING, Reason.INTERNAL_ERROR, message, outcome=Outcome.LOST
            )
            await self._save(job, attempt, decision, now_ms=self._clock.now_ms())
        return [attempt]

    async def _reconcile_job(self, job: Job, attempt: Attempt) -> list[Attempt]:
        """Decide and save one job; returns its attempt if its machine is to be terminated."""
        now_ms = self._clock.now_ms()
        beat_ms = self._heartbeats.of(
            attempt.instance_id, now_ms=now_ms, age_max_ms=int(self._pace.heartbeats_s * 3000)
        )
        attempt = replace(attempt, heartbeat_at_ms=beat_ms)
        seen = observe(attempt.instance_id, self._snapshot, launched_at_ms=attempt.launched_at_ms)
        decision = decide(job, attempt, seen, limits=self._limits, now_ms=now_ms)
        await self._save(job, attempt, decision, now_ms=now_ms)
        terminate: list[Attempt] = []
        for action in decision.actions:
            match action:
                case RequestStop(instance_id=instance_id, reason=reason):
                    body = protocol.canonical_json({"stop": {"reason": reason}})
                    await self._bucket.put(protocol.control_key(instance_id), body)
                    await self._mark([attempt], "stop_requested_at_ms")
                case Terminate():
                    terminate.append(attempt)
        return terminate

    async def _save(self, job: Job, attempt: Attempt, decision: Decision, *, now_ms: int) -> None:
        async def work(connection: Connection) -> None:
            if decision.phase is None:
                await job_store.visit_later(
                    connection, job.id, job.version, next_visit_at_ms=job_store.FAR_MS
                )
                return
            await self._save_move(connection, job, attempt, decision, now_ms=now_ms)

        if decision.phase is None and job.next_visit_at_ms == job_store.FAR_MS:
            return
        await self._database.write(work)
        if decision.phase is None:
            return
        log.info(
            "job_moved",
            job_id=job.id,
            attempt=attempt.number,
            phase=decision.phase,
            reason=decision.reason,
            message=decision.message,
        )
        if decision.phase is Phase.QUEUED:
            self._wakes.launches.ring()
        elif decision.phase in TERMINAL:
            self._wakes.intake.ring()
        else:
            self._wakes.machines.ring()  # what was reported may already carry it further
            self._wakes.logs.ring()

    async def _save_move(
        self,
        connection: Connection,
        job: Job,
        attempt: Attempt,
        decision: Decision,
        *,
        now_ms: int,
    ) -> None:
        move = job_store.Move(
            job.id,
            job.version,
            job.phase,
            now_ms,
            phase=decision.phase,
            reason=decision.reason,
            message=decision.message,
            attempt=attempt.number,
            next_visit_at_ms=now_ms,
        )
        changes: job_store.JobChanges = {}
        if decision.outcome is not None:
            await store.set_outcome(
                connection, job_id=job.id, number=attempt.number, outcome=decision.outcome
            )
        if job.phase is Phase.TERMINATING:
            changes["cost_usd"] = await store.end_attempt(
                connection, job_id=job.id, number=attempt.number, now_ms=now_ms
            )
            if attempt.started_at_ms is None:
                changes["boot_failures"] = job.boot_failures + 1
        if decision.exit_code is not None:
            changes["exit_code"] = decision.exit_code
        await job_store.save_move(connection, move, **changes)

    async def _terminate(self, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            return
        try:
            await self._compute.terminate([attempt.instance_id for attempt in attempts])
        except CloudError as error:  # asked again on the next pass, until EC2 shows them gone
            log.warning("terminate_failed", code=error.code, problem=error.message)
            return
        await self._mark(attempts, "terminate_requested_at_ms")

    async def _mark(self, attempts: Sequence[Attempt], column: str) -> None:
        now_ms = self._clock.now_ms()

        async def work(connection: Connection) -> None:
            for attempt in attempts:
                await inbox_store.mark_requested(
                    connection,
                    job_id=attempt.job_id,
                    number=attempt.number,
                    column=column,
                    now_ms=now_ms,
                )

        await self._database.write(work)
