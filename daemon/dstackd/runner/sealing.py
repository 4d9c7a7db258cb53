"""The end of an attempt's artifacts: upload, then the manifest, once. Law: the manifest names only
what is in the bucket; what is missing is said in the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import COMPLETE, FAILED, PARTIAL, Manifest
from dstackd.launch_document import JobDocument
from dstackd.runner.collect import Collected, collect
from dstackd.runner.errors import AwsError, RunnerError
from dstackd.runner.journal import Journal
from dstackd.runner.s3 import Bucket
from dstackd.runner.upload import PATIENCE_S, Uploader

_EXISTS = 412
_NAMED_MAX = 5


@dataclass(frozen=True)
class Sealed:
    """Fields of the inbox event."""

    verdict: str
    files: int
    size_bytes: int
    message: str


def seal(
    job: JobDocument, *, job_dir: str, bucket: Bucket, interrupted: bool, journal: Journal
) -> Sealed:
    """Upload what the job declared and write the manifest. Never raises a RunnerError."""
    found = collect(job_dir, [each.path for each in job.artifacts])
    for skipped in found.skipped:
        journal.say(f"artifacts: skipped {skipped}")
    uploader = Uploader(
        bucket,
        job_dir=job_dir,
        key_of=lambda path: protocol.artifact_key(job.job_id, job.attempt, path),
    )
    uploader.upload(found.files)
    manifest = Manifest(
        job_id=job.job_id,
        attempt=job.attempt,
        verdict=PARTIAL if interrupted or uploader.lost else COMPLETE,
        files=tuple(uploader.files),
    )
    message = _message(found, uploader.lost)
    try:
        _write_once(manifest, bucket=bucket)
    except RunnerError as error:
        return Sealed(FAILED, 0, 0, f"no manifest: {error}; {message}")
    return Sealed(manifest.verdict, len(manifest.files), manifest.size_bytes, message)


def _write_once(manifest: Manifest, *, bucket: Bucket) -> None:
    key = protocol.manifest_key(manifest.job_id, manifest.attempt)
    content = artifact_manifest.encode(manifest)
    try:
        bucket.put(key, content, only_if_new=True, patience_s=PATIENCE_S)
    except AwsError as error:
        # An answer may be lost after the write; the repeated write then meets its own object.
        if error.status != _EXISTS or bucket.get(key, patience_s=PATIENCE_S) != content:
            raise


def _message(found: Collected, lost: list[str]) -> str:
    parts = []
    if lost:
        parts.append(f"lost {len(lost)}: {_some(lost)}")
    if found.unmatched:
        parts.append(f"nothing at {_some(found.unmatched)}")
    if found.skipped:
        parts.append(f"skipped {len(found.skipped)}: {_some(found.skipped)}")
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    more = "" if len(names) <= _NAMED_MAX else f" and {len(names) - _NAMED_MAX} more"
    return ", ".join(names[:_NAMED_MAX]) + more
