"""Input folders of the control host, packed and uploaded before the launch. Law: content-addressed, so uploaded once; no intent
is committed before every input of the job is in the bucket; what a job that has not ended needs is kept from expiring there.

Inputs from S3 are the machine's business.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from dstackd import protocol
from dstackd.core.job import Job
from dstackd.core.lifecycle import INPUT_RENEWED_DAYS
from dstackd.core.phase import Phase, Reason
from dstackd.errors import NotFound, OperatingError, StorageFailed
from dstackd.packing import Packed, UnreadableInput, check_allowed, pack
from dstackd.ports import Bucket, Clock, ObjectHead
from dstackd.spec.model import InputSpec
from dstackd.store import inputs as staged
from dstackd.store import jobs as store
from dstackd.store.engine import Connection, Database
from dstackd.store.moves import JobChanges, Move, save_fresh_moves
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

UPLOADS_MAX = 3
"""Sources that are packed and uploaded at a time: each has its tar on the disk."""
ADMITTING_S = 3600.0
"""A pass takes in what comes while its uploads go on, but not for ever: a pass that never ends looks like a loop that hangs."""
RENEWALS_EVERY_S = 3600.0
_RENEWED_MS = INPUT_RENEWED_DAYS * 86_400_000
_SPOOLED = "dstackd-input-"


class Inputs:
    """Stages the inputs of queued jobs, several at once."""

    name = "inputs"
    pass_max_s = 6 * 3600.0
    interval_s = 15.0

    def __init__(
        self,
        database: Database,
        *,
        bucket: Bucket,
        allowed_roots: tuple[Path, ...],
        spool: Path,
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        """`spool`: folder for tars on their way, on a disk that has room for them."""
        self._database = database
        self._bucket = bucket
        self._allowed_roots = allowed_roots
        self._spool = spool
        self._clock = clock
        self._wakes = wakes
        self._uploads = anyio.CapacityLimiter(UPLOADS_MAX)
        self._renewed_at_s: float | None = None

    async def step(self) -> float:
        """Stage every queued job that lacks inputs, those that come meanwhile included. One that fails keeps no other waiting."""
        now_s = self._clock.monotonic_s()
        if self._renewed_at_s is None or now_s - self._renewed_at_s >= RENEWALS_EVERY_S:
            await self._renew()
            self._renewed_at_s = now_s
        staging = _Pass(until_s=now_s + ADMITTING_S)
        async with anyio.create_task_group() as group:
            while await self._take_in(staging, group):
                await self._wakes.inputs.wait(self.interval_s)
        if staging.errors:
            raise staging.errors[0]
        return self.interval_s

    async def _take_in(self, staging: _Pass, group: TaskGroup) -> bool:
        """Begin with the jobs that are new in this pass; whether there is more to wait for."""
        if self._clock.monotonic_s() >= staging.until_s:
            return False
        batch = _Batch()
        alike: dict[tuple[InputSpec, ...], list[Job]] = {}
        for job in await self._database.read_own(store.jobs_to_stage):
            if not job.cancel_requested and job.id not in staging.seen:
                staging.seen.add(job.id)
                local = tuple(each for each in job.spec.inputs if not each.is_s3)
                alike.setdefault(local, []).append(job)
        for sources, jobs in alike.items():
            staging.busy += 1
            group.start_soon(self._stage, staging, batch, sources, jobs)
        return staging.busy > 0

    async def _stage(
        self,
        staging: _Pass,
        batch: _Batch,
        sources: tuple[InputSpec, ...],
        jobs: Sequence[Job],
    ) -> None:
        """All jobs that have the same inputs."""
        try:
            await self._stage_alike(staging, batch, sources, jobs)
        except OperatingError as error:
            staging.errors.append(error)
        finally:
            staging.busy -= 1
            self._wakes.inputs.ring()

    async def _stage_alike(
        self,
        staging: _Pass,
        batch: _Batch,
        sources: tuple[InputSpec, ...],
        jobs: Sequence[Job],
    ) -> None:
        try:
            digests = [await self._digest(batch, source) for source in sources]
        except UnreadableInput as error:
            message, reason = f"inputs: {error}", Reason.INPUT_UNREADABLE
            stale = await self._save(jobs, phase=Phase.FAILED, reason=reason, message=message)
            self._wakes.intake.ring()
        else:
            message, reason = "inputs are in the bucket", Reason.ACCEPTED
            stale = await self._save(jobs, reason=reason, message=message, digests=digests)
            log.info("inputs_staged", jobs=len(jobs) - len(stale), digests=digests)
            self._wakes.planning.ring()
        # Their rows have moved on, perhaps only to say that they wait for us: look again at once.
        staging.seen -= stale

    async def _digest(self, batch: _Batch, source: InputSpec) -> str:
        """Once for all jobs of a batch: none of them was submitted after the source was read."""
        async with batch.locks[source]:
            if source not in batch.done:
                try:
                    batch.done[source] = await self._upload(source)
                except UnreadableInput as error:
                    batch.done[source] = error
            done = batch.done[source]
        if isinstance(done, UnreadableInput):
            raise done
        return done

    async def _upload(self, source: InputSpec) -> str:
        async with self._uploads:
            folder = Path(await to_thread.run_sync(self._make_room))
            try:
                packed = await to_thread.run_sync(self._pack, source, folder / "input.tar")
                await self._bring(packed)
            finally:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
            return packed.sha256

    def _make_room(self) -> str:
        try:
            self._spool.mkdir(parents=True, exist_ok=True)
            return tempfile.mkdtemp(prefix=_SPOOLED, dir=self._spool)
        except OSError as error:
            raise StorageFailed(f"{self._spool}: {error.strerror or error}") from error

    def _pack(self, source: InputSpec, tar_path: Path) -> Packed:
        real = check_allowed(source.source, self._allowed_roots)
        return pack(real, at=source.target, tar_path=tar_path)

    async def _bring(self, packed: Packed) -> None:
        """Have it in the bucket, and young enough to stay until it is looked at again."""
        key = protocol.input_key(packed.sha256)
        try:
            facts = await self._bucket.facts(key)
            if self._is_old(facts.modified_at_ms):
                await self._bucket.renew(key)
        except NotFound:
            await self._bucket.put_file(key, packed.path)

    async def _renew(self) -> None:
        """Write what is old and still needed again, and have what is gone staged again. First of all, clear what a dead daemon left."""
        if self._renewed_at_s is None:
            await to_thread.run_sync(self._clear_spool)
        needed = await self._database.read_own(staged.needed_digests)
        if not needed:
            return
        heads = {head.key: head for head in await self._bucket.list(protocol.INPUT_PREFIX)}
        missing: set[str] = set()
        for digest in sorted(needed):
            if not await self._is_kept(heads.get(protocol.input_key(digest))):
                missing.add(digest)
        if missing:
            await self._stage_again(missing)

    async def _is_kept(self, head: ObjectHead | None) -> bool:
        if head is None:
            return False
        try:
            if self._is_old(head.modified_at_ms):
                await self._bucket.renew(head.key)
        except NotFound:
            return False
        return True

    async def _stage_again(self, missing: set[str]) -> None:
        """Only of queued jobs: a machine that is under way has read its inputs, or will say that it could not."""

        async def read(connection: Connection) -> list[Job]:
            return await staged.queued_with(connection, missing, backend=self._database.backend)

        jobs = await self._database.read(read)
        if jobs:
            log.warning("inputs_gone", jobs=len(jobs), digests=sorted(missing))
            message = "its inputs are gone from the bucket; uploading them again"
            await self._save(jobs, reason=Reason.STAGING_INPUTS, message=message, digests=[])

    def _is_old(self, modified_at_ms: int) -> bool:
        return self._clock.now_ms() - modified_at_ms > _RENEWED_MS

    def _clear_spool(self) -> None:
        """Only one daemon uses the folder, so what is there at its start belongs to none."""
        for left in self._spool.glob(f"{_SPOOLED}*"):
            shutil.rmtree(left, ignore_errors=True)

    async def _save(
        self,
        jobs: Sequence[Job],
        *,
        reason: Reason,
        message: str,
        phase: Phase | None = None,
        digests: list[str] | None = None,
    ) -> frozenset[str]:
        """The same move for each; returns the ids of those that somebody else has moved on. What holds a job goes on holding it."""
        now_ms = self._clock.now_ms()
        written = json.dumps(digests) if digests else store.UNSTAGED
        changes = JobChanges() if digests is None else JobChanges(inputs_digest=written)
        moves = [
            Move(
                job.id,
                job.version,
                Phase.QUEUED,
                now_ms,
                phase=phase,
                reason=job.reason if phase is None and job.held else reason,
                message=job.message if phase is None and job.held else message,
                next_visit_at_ms=job.next_visit_at_ms if phase is None and job.held else now_ms,
                changes=changes,
            )
            for job in jobs
        ]
        return await self._database.write(lambda connection: save_fresh_moves(connection, moves))


class _Pass:
    """What one pass has in hand."""

    def __init__(self, *, until_s: float) -> None:
        self.until_s = until_s
        self.busy = 0
        self.seen: set[str] = set()
        """Ids of the jobs that were taken in: what failed is not tried again before the next pass."""
        self.errors: list[OperatingError] = []


class _Batch:
    """Jobs that were read together, and what became of their sources."""

    def __init__(self) -> None:
        self.locks: defaultdict[InputSpec, anyio.Lock] = defaultdict(anyio.Lock)
        self.done: dict[InputSpec, str | UnreadableInput] = {}
