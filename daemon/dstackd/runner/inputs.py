"""What the job finds before it begins: its inputs, and what an earlier attempt left. Law: all of it
is there and verified, or the stage fails; nothing is written outside the job's folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http import HTTPStatus

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestError, ManifestFile
from dstackd.launch_document import InputDocument, JobDocument
from dstackd.runner.collect import seen_of
from dstackd.runner.download import PATIENCE_S, Download, Wanted, WrongDigest
from dstackd.runner.errors import AwsError, NoRoom, RunnerError, StageFailed
from dstackd.runner.ledger import Ledger
from dstackd.runner.paths import Places, UnsafePath, below
from dstackd.runner.progress import Progress, size_text
from dstackd.runner.s3 import Bucket
from dstackd.runner.s3_inputs import Source, fetch, look_at
from dstackd.runner.unpack import UnsafeTar, unpack

Say = Callable[[str], None]
CLOCK_STEP_S = 0.02
"""The kernel's file times have steps of at most 10 ms (CONFIG_HZ=100)."""
_UNUSABLE = (
    RunnerError,
    WrongDigest,
    ManifestError,
    UnsafePath,
    UnsafeTar,
    tarfile.TarError,
    OSError,
)


def restore_inputs(
    job: JobDocument, *, job_dir: str, scratch_dir: str, bucket: Bucket, say: Say
) -> None:
    """Unpack each input at its target in the order given, then fetch those of S3. `say` hears how far
    it is. Raises StageFailed.
    """
    if not job.inputs and not job.s3_inputs:
        return
    with ExitStack() as opened:
        sources = [look_at(wanted, own=bucket, opened=opened) for wanted in job.s3_inputs]
        tars = [_tar_size(wanted, bucket) for wanted in job.inputs]
        size_bytes = sum(tars) + sum(source.size_bytes for source in sources)
        # A tar and what is in it are on the disk at the same time.
        _require_room(size_bytes + max(tars, default=0), job_dir)
        progress = Progress("inputs", size_bytes, say)
        for wanted, size in zip(job.inputs, tars):
            _restore_tar(
                wanted,
                size,
                job_dir=job_dir,
                scratch_dir=scratch_dir,
                bucket=bucket,
                progress=progress,
            )
        for source in sources:
            _fetch_source(source, job_dir, progress)
        progress.end()


def _tar_size(wanted: InputDocument, bucket: Bucket) -> int:
    key = protocol.input_key(wanted.sha256)
    try:
        return bucket.head(key, patience_s=PATIENCE_S).size
    except RunnerError as error:
        missing = isinstance(error, AwsError) and error.status == HTTPStatus.NOT_FOUND
        problem = f"{key} is not in the bucket" if missing else str(error)
        raise StageFailed("inputs", f"{wanted.target}: {problem}", final=missing) from error


def _require_room(size_bytes: int, folder: str) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if size_bytes > free_bytes:
        need, free = size_text(size_bytes), size_text(free_bytes)
        message = f"they need {need} and the disk has {free}: ask for more resources.disk"
        raise StageFailed("inputs", message)


def _restore_tar(
    wanted: InputDocument,
    size: int,
    *,
    job_dir: str,
    scratch_dir: str,
    bucket: Bucket,
    progress: Progress,
) -> None:
    packed = os.path.join(scratch_dir, "input.tar")
    key = protocol.input_key(wanted.sha256)
    try:
        tar = Wanted(key, packed, size=size, sha256=wanted.sha256)
        Download(bucket, tick=progress.add).fetch([tar])
        unpack(packed, below(job_dir, wanted.target))
        os.unlink(packed)
    except _UNUSABLE as error:
        raise _failed("inputs", wanted.target, error, job_dir) from error


def _fetch_source(source: Source, job_dir: str, progress: Progress) -> None:
    try:
        fetch(source, job_dir=job_dir, tick=progress.add)
    except StageFailed:
        raise
    except _UNUSABLE as error:
        raise _failed("inputs", source.wanted.target, error, job_dir) from error


def _failed(stage: str, what: str, error: BaseException, folder: str) -> StageFailed:
    message = f"{what}: {error}"
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    if full or isinstance(error, NoRoom):
        free = size_text(shutil.disk_usage(folder).free)
        message += f" ({free} are free: ask for more resources.disk)"
    return StageFailed(stage, message)


def restore_attempt(
    job: JobDocument, *, job_dir: str, bucket: Bucket, say: Say, ledger: Ledger | None = None
) -> int | None:
    """Put the artifacts of the newest earlier attempt that has any, sealed or partial, into the job's
    folder. The attempt's number, or None. `ledger` learns what each file is and whose object holds it.
    Raises StageFailed.
    """
    heir = ledger or Ledger()
    try:
        for attempt in job.resume_from:
            for key, or_newer in (
                (protocol.manifest_key(job.job_id, attempt), False),
                (protocol.partial_manifest_key(job.job_id, attempt), True),
            ):
                content = bucket.get(key, patience_s=PATIENCE_S)
                if content is not None:
                    manifest = artifact_manifest.decode(content)
                    restoring = _Restoring(manifest, job_dir=job_dir, ledger=heir)
                    restoring.run(bucket, or_newer=or_newer, say=say)
                    return attempt
    except _UNUSABLE as error:
        raise _failed("resume", "artifacts", error, job_dir) from error
    return None


class _Restoring:
    """Brings the files of one manifest."""

    def __init__(self, manifest: Manifest, *, job_dir: str, ledger: Ledger) -> None:
        self._manifest = manifest
        self._ledger = ledger
        places = Places(job_dir)
        self._files = {places.place(file.path): file for file in manifest.files}

    def run(self, bucket: Bucket, *, or_newer: bool, say: Say) -> None:
        """All of them, each verified."""
        manifest = self._manifest
        size = size_text(manifest.size_bytes)
        say(f"resumes attempt {manifest.attempt}: {len(manifest.files)} files, {size}")
        progress = Progress("artifacts of the attempt before", manifest.size_bytes, say)
        download = Download(bucket, tick=progress.add, arrived=self._inherit)
        download.fetch(self._wanted(or_newer=or_newer))
        progress.end()
        # Whoever writes to one of them from now on gives it another mtime.
        time.sleep(CLOCK_STEP_S)

    def _wanted(self, *, or_newer: bool) -> Iterator[Wanted]:
        for place, file in self._files.items():
            yield Wanted(
                key=self._manifest.key_of(file),
                path=place,
                size=file.size,
                sha256=file.sha256,
                mode=file.mode,
                or_newer=or_newer,
            )

    def _inherit(self, wanted: Wanted, sha256: str, status: os.stat_result) -> None:
        file = self._files[wanted.path]
        inherited = ManifestFile(
            path=file.path,
            size=status.st_size,
            sha256=sha256,
            mode=stat.S_IMODE(status.st_mode),
            attempt=self._manifest.holder_of(file),
        )
        self._ledger.inherit(inherited, seen_of(status))
