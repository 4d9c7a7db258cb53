"""Input folders of the control host, packed and uploaded before the launch. Law: content-addressed, so uploaded once; no intent
is committed before every input of the job is in the bucket.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import anyio.to_thread
import structlog

from dstackd import protocol
from dstackd.core.job import Job
from dstackd.core.phase import Phase, Reason
from dstackd.packing import Packed, UnreadableInput, check_allowed, pack
from dstackd.ports import Bucket, Clock
from dstackd.spec.model import InputSpec
from dstackd.store import jobs as store
from dstackd.store.engine import Database
from dstackd.store.moves import JobChanges, Move, save_fresh_moves
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)


class Inputs:
    """Stages the inputs of queued jobs, one job at a time."""

    name = "inputs"
    pass_max_s = 6 * 3600.0
    interval_s = 15.0

    def __init__(
        self,
        database: Database,
        *,
        bucket: Bucket,
        allowed_roots: tuple[Path, ...],
        clock: Clock,
        wakes: Wakes,
    ) -> None:
        self._database = database
        self._bucket = bucket
        self._allowed_roots = allowed_roots
        self._clock = clock
        self._wakes = wakes

    async def step(self) -> float:
        """Stage every queued job that lacks inputs."""
        for job in await self._database.read(store.jobs_to_stage):
            if not job.cancel_requested:
                await self._stage(job)
        return self.interval_s

    async def _stage(self, job: Job) -> None:
        try:
            digests = [await self._upload(source) for source in job.spec.inputs]
        except UnreadableInput as error:
            await self._save(
                job, phase=Phase.FAILED, reason=Reason.INPUT_UNREADABLE, message=f"inputs: {error}"
            )
            self._wakes.intake.ring()
            return
        saved = await self._save(
            job, reason=Reason.ACCEPTED, message="inputs are in the bucket", digests=digests
        )
        if saved:
            log.info("inputs_staged", job_id=job.id, digests=digests)
            self._wakes.planning.ring()
        else:  # its row has moved on, perhaps only to say that it waits for us: look again at once
            self._wakes.inputs.ring()

    async def _upload(self, source: InputSpec) -> str:
        with tempfile.TemporaryDirectory(prefix="dstackd-input-") as folder:
            packed = await anyio.to_thread.run_sync(self._pack, source, Path(folder) / "input.tar")
            key = protocol.input_key(packed.sha256)
            if not await self._bucket.exists(key):
                await self._bucket.put_file(key, packed.path)
            return packed.sha256

    def _pack(self, source: InputSpec, tar_path: Path) -> Packed:
        real = check_allowed(source.source, self._allowed_roots)
        return pack(real, at=source.target, tar_path=tar_path)

    async def _save(
        self,
        job: Job,
        *,
        reason: Reason,
        message: str,
        phase: Phase | None = None,
        digests: list[str] | None = None,
    ) -> bool:
        now_ms = self._clock.now_ms()
        changes = JobChanges() if digests is None else JobChanges(inputs_digest=json.dumps(digests))
        move = Move(
            job.id,
            job.version,
            Phase.QUEUED,
            now_ms,
            phase=phase,
            reason=reason,
            message=message,
            next_visit_at_ms=now_ms,
            changes=changes,
        )
        stale = await self._database.write(lambda connection: save_fresh_moves(connection, [move]))
        return not stale
