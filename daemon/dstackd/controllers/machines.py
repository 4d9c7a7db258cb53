"""Jobs with machines: snapshot, observe, decide, save, apply. Law: one tagged sweep serves every job; decisions are `core.decide`.

The order of a pass matters: EC2 is listed first, then the inbox. A machine writes its last word before it goes, so
whoever sees it gone has its last word already in the table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from dstackd import protocol
from dstackd.core.action import Terminate
from dstackd.core.decide import STAY, Decision, decide
from dstackd.core.instance import UNKNOWN, Observation, Seen, Snapshot
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.observe import VISIBILITY_GRACE_MS, observe
from dstackd.core.phase import HAS_MACHINE, TERMINAL, Outcome, Phase, Reason
from dstackd.errors import CloudError
from dstackd.leaving import Leaving
from dstackd.ports import Bucket, Clock, Compute
from dstackd.store import inbox as inbox_store
from dstackd.store import jobs as job_store
from dstackd.store import machines as store
from dstackd.store.decisions import Decided, save_decisions
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import FAR_MS
from dstackd.wake import Heartbeats, Wakes

log = structlog.get_logger(__name__)

POISON_MAX = 5

MISSING_S = 60.0
"""How long sweeps in a row must not have shown an instance until it is absent, on top of its age. EC2 shows new ones
within seconds as a rule (EC2 API reference, eventual consistency).
"""

JOBS_AT_ONCE = 500
"""Jobs of one transaction: cheap, and short enough to hold up neither submitters nor the event loop."""

JobAndAttempt = tuple[Job, Attempt]

SnapshotReader = Callable[[Snapshot], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class MachinePace:
    """Seconds between sweeps: while machines live, and while none do."""

    busy_s: float = 10.0
    idle_s: float = 60.0
    heartbeats_s: float = 30.0


@dataclass(slots=True)
class Effects:
    """What a pass has to do outside, once it is committed: by instance id, so that nothing is asked for twice."""

    stops: dict[str, Decided] = field(default_factory=dict)
    terminations: dict[str, Attempt] = field(default_factory=dict)

    def add(self, decided: Decided) -> None:
        """Take in the actions of one decision."""
        for action in decided.decision.actions:
            if isinstance(action, Terminate):
                self.terminations[action.instance_id] = decided.attempt
            else:
                self.stops[action.instance_id] = decided


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
        self._leaving = Leaving(database, limits=limits, clock=clock, wakes=wakes)
        self._snapshot: Snapshot | None = None
        self._swept_at_s: float | None = None
        self._words_read = False
        self._known: frozenset[str] = frozenset()
        """Instances of which it was known, when they were last swept, that they are ours to judge."""
        self._missing_s: dict[str, float] = {}
        """Instances of jobs and of rows that the last sweep did not show -> since when none has, by the monotonic clock."""
        self._missing_before_s: dict[str, float] = {}
        """The same of the sweep before."""
        self._undelivered: dict[str, Decided] = {}
        self._poison: dict[str, int] = {}
        self.interval_s = pace.idle_s

    async def step(self) -> float:
        """One pass. A sweep that fails leaves the jobs Unknown, not unattended; its error is raised at the end."""
        busy = await self._database.read_own(store.anything_live)
        pace_s = self._pace.busy_s if busy else self._pace.idle_s
        due = self._pace_left_s(pace_s) <= 0
        failure = await self._sweep() if due else None
        swept = due and failure is None
        if due or not self._words_read:
            await self._read_last_words()
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
        self._missing_before_s, self._missing_s = self._missing_s, {}
        self._known = await self._database.read_own(store.instances_of_attempts)
        await self._save_states(snapshot)
        return None

    async def _read_last_words(self) -> None:
        """Nobody may judge, neither by a snapshot nor by a bound, before the machines' last words were read."""
        self._words_read = False
        await self._drain_inbox()
        self._words_read = True

    def _is_missing_for_long(self, instance_id: str) -> bool:
        """Note that the sweep does not show the instance; whether none has for MISSING_S, the last two among them. Its age
        alone does not tell: the wall clock may have jumped.
        """
        now_s = self._clock.monotonic_s()
        since_s = self._missing_s.setdefault(
            instance_id, self._missing_before_s.get(instance_id, now_s)
        )
        return instance_id in self._missing_before_s and now_s >= since_s + MISSING_S

    async def _save_states(self, snapshot: Snapshot) -> None:
        now_ms = self._clock.now_ms()
        known = {
            machine.instance_id: machine
            for machine in await self._database.read_own(store.live_machines)
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
        absent = [instance_id for instance_id in absent if self._is_missing_for_long(instance_id)]
        if not changed and not absent:
            return

        async def work(connection: Connection) -> None:
            await store.save_states(connection, changed, now_ms=now_ms)
            await store.save_absent(connection, absent, now_ms=now_ms)

        await self._database.write(work)

    async def _reconcile(self, *, everything: bool) -> None:
        """Page by page, so that ten thousand jobs do not hold up the other loops."""
        due_at_ms = None if everything else self._clock.now_ms()
        effects = Effects()
        job_ids = await self._database.read_own(
            partial(job_store.ids_with_machines, due_at_ms=due_at_ms)
        )
        for start in range(0, len(job_ids), JOBS_AT_ONCE):
            page = job_ids[start : start + JOBS_AT_ONCE]

            async def read(connection: Connection, ids: list[str] = page) -> list[JobAndAttempt]:
                return await job_store.jobs_with_machines(connection, ids)

            await self._reconcile_page(await self._database.read(read), effects)
        if self._leaving.expected:
            for attempt in await self._leaving.follow(self._observe):
                effects.terminations[attempt.instance_id] = attempt
        self._undelivered |= effects.stops
        await self._request_stops()
        await self._terminate(list(effects.terminations.values()))

    async def _reconcile_page(self, page: list[JobAndAttempt], effects: Effects) -> None:
        """Decide and save, round by round: what was reported may carry a job through several phases at once."""
        jobs = page
        while jobs:
            now_ms = self._clock.now_ms()
            decided = [self._decide(job, attempt, now_ms=now_ms) for job, attempt in jobs]
            saved = await self._save(decided, now_ms=now_ms)
            for each in saved:
                effects.add(each)
            jobs = [each.after(now_ms) for each in saved if each.decision.phase in HAS_MACHINE]

    def _decide(self, job: Job, attempt: Attempt, *, now_ms: int) -> Decided:
        beat_ms = self._heartbeats.of(
            attempt.instance_id, now_ms=now_ms, every_s=self._pace.heartbeats_s
        )
        attempt = replace(attempt, heartbeat_at_ms=beat_ms)
        seen = self._observe(attempt)
        try:
            decision = decide(job, attempt, seen, limits=self._limits, now_ms=now_ms)
        except Exception:  # the one place where a bug in one job's path must not stop the others
            log.exception("job_poisoned", job_id=job.id, phase=job.phase)
            decision = self._poisoned(job, attempt)
        else:
            self._poison.pop(job.id, None)
        return Decided(job, attempt, decision)

    def _observe(self, attempt: Attempt) -> Observation:
        """What the last sweep says; absent is only what has been missing for long. Of a machine that was learnt of since
        it says nothing: its words may have been passed over as nobody's when they were last read.
        """
        if attempt.instance_id not in self._known:
            return UNKNOWN
        seen = observe(attempt.instance_id, self._snapshot, launched_at_ms=attempt.launched_at_ms)
        if seen.seen is Seen.ABSENT and not self._is_missing_for_long(attempt.instance_id):
            return UNKNOWN
        return seen

    def _poisoned(self, job: Job, attempt: Attempt) -> Decision:
        """After POISON_MAX failed passes in a row the machine goes: a bug of ours must not cost money for ever."""
        self._poison[job.id] = self._poison.get(job.id, 0) + 1
        if self._poison[job.id] < POISON_MAX:
            return STAY
        released = attempt.released_at_ms is not None  # the machine may run another job
        terminate = () if released else (Terminate(attempt.instance_id),)
        if job.phase is Phase.TERMINATING:
            return Decision(actions=terminate)
        message = f"internal error, {POISON_MAX} passes in a row; see the daemon's log"
        return Decision(
            Phase.TERMINATING,
            Reason.INTERNAL_ERROR,
            message,
            outcome=Outcome.LOST,
            actions=terminate,
        )

    async def _save(self, decided: Sequence[Decided], *, now_ms: int) -> list[Decided]:
        """Save in one transaction; returns those that were saved, or had nothing to save."""
        news = [
            each
            for each in decided
            if each.decision.phase is not None or each.job.next_visit_at_ms != FAR_MS
        ]
        if not news:
            return list(decided)
        if any(each.decision.phase is Phase.QUEUED for each in news):
            self._leaving.expected = True  # before the commit, whose answer may be lost
        stale = await self._database.write(
            lambda connection: save_decisions(connection, news, now_ms=now_ms)
        )
        if stale:
            self._wakes.machines.ring()
        saved = [each for each in decided if each.job.id not in stale]
        self._tell(each for each in saved if each.decision.phase is not None)
        return saved

    def _tell(self, moved: Iterable[Decided]) -> None:
        for each in moved:
            phase = each.decision.phase
            log.info(
                "job_moved",
                job_id=each.job.id,
                attempt=each.attempt.number,
                phase=phase,
                reason=each.decision.reason,
                message=each.decision.message,
            )
            if phase is Phase.QUEUED:
                self._wakes.planning.ring()
            elif phase in TERMINAL:
                self._wakes.intake.ring()
            else:
                self._wakes.logs.ring()

    async def _request_stops(self) -> None:
        """Deliver, then write down: a crash in between delivers again. The grace runs from the first try all the same,
        so that a machine that cannot be told is terminated in the end; until then each pass tries again.
        """
        tried = list(self._undelivered.items())
        for instance_id, each in tried:
            body = protocol.stop_word(
                Reason.CANCEL_REQUESTED, job_id=each.job.id, attempt=each.attempt.number
            )
            try:
                await self._bucket.put(protocol.control_key(instance_id), body)
            except CloudError as error:
                log.warning("stop_not_delivered", job_id=each.job.id, code=error.code)
            else:
                del self._undelivered[instance_id]
        await self._mark([each.attempt for _, each in tried], "stop_requested_at_ms")

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
        if not attempts:
            return
        keys = [(attempt.job_id, attempt.number) for attempt in attempts]
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda connection: inbox_store.mark_requested(
                connection, keys, column=column, now_ms=now_ms
            )
        )
