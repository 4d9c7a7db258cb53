"""Artifacts that go up while the commands run. Law: never in the way of the job, never an error of it;
at every instant the bucket holds a set that can be restored.

One thread looks at the paths whose `every` is over, uploads what changed and has settled, and then
writes the partial manifest. An object is replaced before the manifest names its new content, so each
carries its digest itself (artifact_manifest.DIGEST_HEADER): whoever restores takes either.

A job that resumes begins with files that an earlier attempt has in the bucket. Until this one has
uploaded them, the partial manifest names the earlier objects: it is never the poorer set.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import PARTIAL, Manifest
from dstackd.launch_document import JobDocument
from dstackd.runner.collect import collect
from dstackd.runner.errors import RunnerError
from dstackd.runner.journal import Journal
from dstackd.runner.ledger import Ledger
from dstackd.runner.ordering import most_valuable_first
from dstackd.runner.s3 import Bucket
from dstackd.runner.sending import headers_of
from dstackd.runner.unexpected import Unexpected
from dstackd.runner.upload import Terms, Uploader

STOP_PATIENCE_S = 5.0
SETTLED_S = 2.0
TERMS = Terms(threads=2, patience_s=30.0, settled_s=SETTLED_S)
HURRIES = 2
"""At once, and for what was still being written then."""
MISSING_ROUNDS = 2
"""A job may remove a checkpoint and then write it anew: what is gone belongs to the set for so many
rounds.
"""


class ArtifactRounds:
    """`start` with the commands, `stop` when they ended; `ledger` is for what was restored before, and
    for the seal.
    """

    def __init__(
        self,
        job: JobDocument,
        *,
        job_dir: str,
        bucket: Bucket,
        journal: Journal,
        terms: Terms = TERMS,
    ) -> None:
        self._job = job
        self._job_dir = job_dir
        self._bucket = bucket
        self._journal = journal
        self._terms = terms
        self._wake = threading.Event()
        self._cancelled = threading.Event()
        self._hurries = 0
        """Rounds over all paths that are still to be made without waiting for their time."""
        self._lock = threading.Lock()
        self._started = False
        self._due: dict[str, float] = {}
        self._missing: dict[str, int] = {}
        self._written = b""
        self._unexpected = Unexpected("artifacts", journal.say)
        self._thread = threading.Thread(target=self._run, name="artifacts", daemon=True)
        self.ledger = Ledger()

    def start(self) -> None:
        """Begin, if any path has an `every`."""
        now = time.monotonic()
        self._due = {
            each.path: now + each.every_s
            for each in self._job.artifacts
            if each.every_s is not None
        }
        with self._lock:
            self._started = True
            if self._due or self._hurries:
                self._thread.start()

    def hurry(self) -> None:
        """One round at once, over all declared paths, and one for what was being written meanwhile: the
        machine is going away.
        """
        with self._lock:
            self._hurries = HURRIES
            self._wake.set()
            if self._started and not self._thread.ident and not self._cancelled.is_set():
                self._thread.start()

    def stop(self, *, patience_s: float = STOP_PATIENCE_S) -> None:
        """No more rounds. What is in flight is waited for; if that takes longer, the seal meets its
        paths as claimed.
        """
        with self._lock:
            self._cancelled.set()
            self._wake.set()
        if self._thread.ident:
            self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._cancelled.is_set():
            self._wake.wait(self._wait_s())
            self._wake.clear()
            hurried = self._hurries > 0
            now = time.monotonic()
            due = [path for path, at in self._due.items() if at <= now]
            if hurried:
                due = self._declared()
                self._hurries -= 1
            if self._cancelled.is_set() or not due:
                continue
            self._run_round(due)
            self._plan(due)

    def _run_round(self, due: Sequence[str]) -> None:
        try:
            self.round(due)
        except (RunnerError, OSError) as error:
            self._journal.say(f"artifacts: a round failed: {error}")
        except Exception as error:  # noqa: BLE001 - the next round may be possible, and the job goes on
            self._unexpected.met(error)

    def _wait_s(self) -> float | None:
        if self._hurries:
            return 0.0 if self._hurries == HURRIES else self._terms.settled_s
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _plan(self, due: Sequence[str]) -> None:
        """From the end of the round, so that a slow bucket leaves pauses."""
        for each in self._job.artifacts:
            if each.every_s is not None and each.path in due:
                self._due[each.path] = time.monotonic() + each.every_s

    def round(self, patterns: Sequence[str]) -> None:
        """Upload what changed below `patterns`, then say what there is. Raises RunnerError, OSError."""
        files = collect(self._job_dir, patterns).files
        uploader = Uploader(
            self._bucket,
            job_dir=self._job_dir,
            key_of=lambda path: protocol.artifact_key(self._job.job_id, self._job.attempt, path),
            headers=headers_of(self._job),
            ledger=self.ledger,
            terms=self._terms,
            cancelled=self._cancelled,
        )
        uploader.upload(most_valuable_first(files))
        if self._cancelled.is_set():
            return
        for reason in uploader.fates.lost[:5]:
            self._journal.say(f"artifacts: not uploaded in this round: {reason}")
        self._forget_what_is_gone()
        self._write()

    def _declared(self) -> list[str]:
        return [each.path for each in self._job.artifacts]

    def _forget_what_is_gone(self) -> None:
        for path in self.ledger.entries():
            if os.path.lexists(os.path.join(self._job_dir, path)):
                self._missing.pop(path, None)
                continue
            self._missing[path] = self._missing.get(path, 0) + 1
            if self._missing[path] >= MISSING_ROUNDS:
                self._missing.pop(path)
                self.ledger.forget(path)

    def _write(self) -> None:
        entries = self.ledger.entries()
        manifest = Manifest(
            job_id=self._job.job_id,
            attempt=self._job.attempt,
            verdict=PARTIAL,
            files=tuple(entry.file for _, entry in sorted(entries.items())),
        )
        content = artifact_manifest.encode(manifest)
        if content == self._written or (not entries and not self._written):
            return
        key = protocol.partial_manifest_key(self._job.job_id, self._job.attempt)
        headers, patience_s = headers_of(self._job), self._terms.patience_s
        self._bucket.put(key, content, headers=headers, patience_s=patience_s)
        self._written = content
