"""What the job finds before it begins: its inputs, and what an earlier attempt left. Law: all of it
is there and verified, or the stage fails; nothing is written outside the job's folder.
"""

from __future__ import annotations

import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestError, ManifestFile
from dstackd.launch_document import InputDocument, JobDocument
from dstackd.runner.download import PATIENCE_S, WrongDigest, download
from dstackd.runner.errors import RunnerError, StageFailed
from dstackd.runner.journal import Journal
from dstackd.runner.paths import UnsafePath, below
from dstackd.runner.s3 import Bucket
from dstackd.runner.unpack import UnsafeTar, unpack

THREADS = 4
_UNUSABLE = (RunnerError, WrongDigest, UnsafePath, UnsafeTar, tarfile.TarError, OSError)


def restore_inputs(job: JobDocument, *, job_dir: str, scratch_dir: str, bucket: Bucket) -> None:
    """Unpack each input at its target, in the order given. Raises StageFailed."""
    for wanted in job.inputs:
        _restore_input(wanted, job_dir=job_dir, scratch_dir=scratch_dir, bucket=bucket)


def _restore_input(
    wanted: InputDocument, *, job_dir: str, scratch_dir: str, bucket: Bucket
) -> None:
    packed = os.path.join(scratch_dir, "input.tar")
    try:
        download(bucket, protocol.input_key(wanted.sha256), packed, sha256=wanted.sha256)
        unpack(packed, below(job_dir, wanted.target))
        os.unlink(packed)
    except _UNUSABLE as error:
        raise StageFailed("inputs", f"{wanted.target}: {error}") from error


def restore_attempt(job: JobDocument, *, job_dir: str, bucket: Bucket, journal: Journal) -> None:
    """Put the artifacts of the newest earlier attempt that sealed any into the job's folder.
    Raises StageFailed.
    """
    try:
        manifest = _newest_manifest(job, bucket=bucket)
        if manifest is None:
            return
        journal.say(f"resumes attempt {manifest.attempt}: {len(manifest.files)} files")
        with ThreadPoolExecutor(THREADS) as pool:
            for result in [
                pool.submit(_restore_file, file, manifest, job_dir, bucket)
                for file in manifest.files
            ]:
                result.result()
    except (RunnerError, WrongDigest, ManifestError, UnsafePath, OSError) as error:
        raise StageFailed("resume", str(error)) from error


def _newest_manifest(job: JobDocument, *, bucket: Bucket) -> Manifest | None:
    for attempt in job.resume_from:
        key = protocol.manifest_key(job.job_id, attempt)
        content = bucket.get(key, patience_s=PATIENCE_S)
        if content is not None:
            return artifact_manifest.decode(content)
    return None


def _restore_file(file: ManifestFile, manifest: Manifest, job_dir: str, bucket: Bucket) -> None:
    path = below(job_dir, file.path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    key = protocol.artifact_key(manifest.job_id, manifest.attempt, file.path)
    download(bucket, key, path, sha256=file.sha256, mode=file.mode)
