"""The end of an attempt's artifacts: upload, then the manifest, once. Law: the manifest names only
what is in the bucket, be it as an object of an earlier attempt; what is missing is said in the message; a
set that is sealed is not touched again; with a deadline, it ends before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import COMPLETE, FAILED, PARTIAL, Manifest, ManifestError
from dstackd.launch_document import JobDocument
from dstackd.runner.collect import Collected, collect
from dstackd.runner.errors import AwsError, RunnerError, Unreachable
from dstackd.runner.fates import Fates
from dstackd.runner.journal import Journal
from dstackd.runner.ledger import Ledger
from dstackd.runner.ordering import most_valuable_first
from dstackd.runner.pace import Deadline
from dstackd.runner.s3 import Bucket
from dstackd.runner.sending import headers_of
from dstackd.runner.upload import PATIENCE_S, Uploader

_EXISTS = 412
_NAMED_MAX = 5
_SAID_MAX = 50
MANIFEST_SHARE = 0.25
"""Of a deadline, for the manifest alone, but not more than MANIFEST_S."""
MANIFEST_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class Sealed:
    """Fields of the inbox event."""

    verdict: str
    files: int
    size_bytes: int
    message: str


def seal(
    job: JobDocument,
    *,
    job_dir: str,
    bucket: Bucket,
    interrupted: bool,
    journal: Journal,
    ledger: Ledger | None = None,
    deadline_s: float | None = None,
) -> Sealed:
    """Upload what the job declared and write the manifest. Never raises a RunnerError. `ledger`: what
    was restored, and what rounds have uploaded. `deadline_s`: seconds until this has to return.
    """
    deadline = Deadline(deadline_s) if deadline_s is not None else None
    sealing = _Sealing(job, bucket=bucket, deadline=deadline)
    try:
        before = sealing.bounded(sealing.read_manifest)
    except RunnerError as error:
        return Sealed(FAILED, 0, 0, f"nothing was uploaded: {error}")
    if before is not None:
        message = "this attempt was sealed before; that set is unchanged"
        return Sealed(before.verdict, len(before.files), before.size_bytes, message)
    ledger = ledger or Ledger()
    sealing.learn(ledger)
    found = collect(job_dir, [each.path for each in job.artifacts])
    for reason in (found.skipped + found.lost)[:_SAID_MAX]:
        journal.say(f"artifacts: left out {reason}")
    uploader = Uploader(
        bucket,
        job_dir=job_dir,
        key_of=lambda path: protocol.artifact_key(job.job_id, job.attempt, path),
        headers=headers_of(job),
        ledger=ledger,
        deadline=_before_the_manifest(deadline_s),
    )
    uploader.upload(most_valuable_first(found.files))
    return sealing.write(found, uploader.fates, interrupted=interrupted)


def _before_the_manifest(deadline_s: float | None) -> Deadline | None:
    if deadline_s is None:
        return None
    return Deadline(deadline_s - min(MANIFEST_S, MANIFEST_SHARE * deadline_s))


class _Sealing:
    """The manifest's side of it."""

    def __init__(self, job: JobDocument, *, bucket: Bucket, deadline: Deadline | None) -> None:
        self._job = job
        self._bucket = bucket
        self._deadline = deadline
        self._key = protocol.manifest_key(job.job_id, job.attempt)

    def read_manifest(self) -> Manifest | None:
        """What an earlier runner of this attempt has sealed."""
        content = self._bucket.get(self._key, patience_s=self._patience_s())
        try:
            return artifact_manifest.decode(content) if content is not None else None
        except ManifestError:
            return None  # nobody can use it; writing over it will be refused, and said

    def learn(self, ledger: Ledger) -> None:
        """What a runner of this attempt that is gone has uploaded in rounds is still named."""
        rounds = any(each.every_s is not None for each in self._job.artifacts)
        if not rounds or ledger.has_own():
            return
        key = protocol.partial_manifest_key(self._job.job_id, self._job.attempt)
        with suppress(RunnerError, ManifestError):
            content = self.bounded(lambda: self._bucket.get(key, patience_s=self._patience_s()))
            if content is not None:
                ledger.know(file.path for file in artifact_manifest.decode(content).files)

    def write(self, found: Collected, fates: Fates, *, interrupted: bool) -> Sealed:
        """Seal what is in the bucket."""
        lost = sorted(fates.lost + found.lost)
        manifest = Manifest(
            job_id=self._job.job_id,
            attempt=self._job.attempt,
            verdict=PARTIAL if interrupted or lost else COMPLETE,
            files=tuple(sorted(fates.files + fates.older, key=lambda file: file.path)),
        )
        message = _message(found, lost)
        try:
            self.bounded(lambda: self._write_once(artifact_manifest.encode(manifest)))
        except RunnerError as error:
            return Sealed(FAILED, 0, 0, f"no manifest: {error}; {message}")
        return Sealed(manifest.verdict, len(manifest.files), manifest.size_bytes, message)

    def bounded(self, step: Callable[[], T]) -> T:
        """`step`, not waited for beyond the deadline. Raises RunnerError."""
        if self._deadline is None:
            return step()
        results: list[T] = []
        errors: list[RunnerError] = []

        def run() -> None:
            try:
                results.append(step())
            except RunnerError as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="manifest", daemon=True)
        thread.start()
        thread.join(self._deadline.left_s())
        if results:
            return results[0]
        raise errors[0] if errors else Unreachable("the bucket did not answer in time")

    def _write_once(self, content: bytes) -> None:
        patience_s = self._patience_s()
        try:
            self._bucket.put(
                self._key,
                content,
                only_if_new=True,
                headers=headers_of(self._job),
                patience_s=patience_s,
            )
        except AwsError as error:
            # An answer may be lost after the write; the repeated write then meets its own object.
            if (
                error.status != _EXISTS
                or self._bucket.get(self._key, patience_s=patience_s) != content
            ):
                raise

    def _patience_s(self) -> float:
        return PATIENCE_S if self._deadline is None else min(PATIENCE_S, self._deadline.left_s())


def _message(found: Collected, lost: Sequence[str]) -> str:
    parts = []
    if lost:
        parts.append(f"lost {len(lost)}: {_some(lost)}")
    if found.unmatched:
        parts.append(f"nothing at {_some(found.unmatched)}")
    if found.skipped:
        parts.append(f"skipped {len(found.skipped)}: {_some(found.skipped)}")
    return "; ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = "" if len(names) <= _NAMED_MAX else f" and {len(names) - _NAMED_MAX} more"
    return ", ".join(names[:_NAMED_MAX]) + more
