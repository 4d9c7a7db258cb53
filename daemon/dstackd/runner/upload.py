"""Files into the bucket, several at once. Law: what was read is what is hashed, sent and recorded, so a
file that changes meanwhile cannot break its digest; when time ends, `upload` returns.

At most `2 * threads` pieces are in memory. A file longer than a piece goes up in parts, read in the
calling thread and sent by the pool; the others are read by the pool. Sizes as the AWS CLI has them.

Beside a running job, what is being written is left for the next round (Terms.settled_s), but not for
ever: a short file is read in one piece, so after POSTPONED_MAX rounds it is taken as it is; and one that
was moved into its place is whole, if nobody writes to it.

A file that the bucket has already in an older state is named by a partial manifest, so its object has
to say what it is (artifact_manifest.DIGEST_HEADER), from before its first part: such a long file is
read twice, and left in its older state if the two differ.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from dstackd.artifact_manifest import ManifestFile
from dstackd.runner.aws import is_retryable
from dstackd.runner.collect import Found, Seen, seen_of
from dstackd.runner.errors import AwsError, RunnerError
from dstackd.runner.fates import Fates
from dstackd.runner.ledger import Ledger
from dstackd.runner.opening import is_being_written, opened_inside
from dstackd.runner.ordering import CALL_BYTES
from dstackd.runner.pace import Deadline
from dstackd.runner.s3 import KEY_BYTES_MAX, Bucket, sha256
from dstackd.runner.sending import LongUpload, metadata, read_piece

THREADS = 8
PIECE_BYTES = 8 * 1024 * 1024
PARTS_MAX = 10_000
PATIENCE_S = 120.0
POSTPONED_MAX = 3
READS_MAX = 3
"""Of a short file that changes while it is read."""
_LOOK_S = 0.5
_NICE = 10
_RATE_AFTER_S = 2.0
_RATE_DOUBT = 1.5


@dataclass(frozen=True)
class Terms:
    """How to upload. `settled_s` above 0: beside a running job. A file that changed within so many
    seconds, or is being written, is then left for later, so that a half-written one never replaces a
    whole one (see POSTPONED_MAX), and the threads give way to the job's.
    """

    threads: int = THREADS
    patience_s: float = PATIENCE_S
    settled_s: float = 0.0


class Uploader:
    """Uploads files once; what became of them is in `fates`. `headers`: of every object."""

    def __init__(
        self,
        bucket: Bucket,
        *,
        job_dir: str,
        key_of: Callable[[str], str],
        headers: Mapping[str, str],
        ledger: Ledger,
        terms: Terms = Terms(),
        deadline: Deadline | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._bucket = bucket
        self._root = os.path.realpath(job_dir)
        self._key_of = key_of
        self._headers = headers
        self._ledger = ledger
        self._terms = terms
        self._deadline = deadline
        self._cancelled = cancelled or threading.Event()
        self._hopeless = False
        self._lock = threading.Condition()
        self._pool = ThreadPoolExecutor(terms.threads, initializer=self._give_way)
        self._pieces = threading.Semaphore(terms.threads + 2)
        self._room = threading.Semaphore(4 * terms.threads)
        self._running = 0
        self._grown: list[Found] = []
        self._moved_in: set[str] = set()
        self._began_at = time.monotonic()
        self._sent_bytes = 0
        self.fates = Fates(ledger)

    def upload(self, files: Sequence[Found]) -> None:
        """Store the files, begun in this order; returns when all are done or lost."""
        self.fates.expect(file.path for file in files)
        try:
            for file in files:
                self._begin(file)
            self._wait()
            grown, self._grown = self._grown, []
            for file in grown:
                self._begin(file)
            self._wait()
        finally:
            self._pool.shutdown(wait=False)
            gone = "not tried: the bucket had stopped answering"
            self.fates.close(gone if self._hopeless else "no time was left")

    # ------------------------------------------------------------------ in the calling thread

    def _begin(self, found: Found) -> None:
        if self._terms.settled_s and self._ledger.look(found):
            self._moved_in.add(found.path)
        stored = self._ledger.unchanged(found)
        if stored is not None:
            self.fates.keep(self._with_its_mode(stored, found.seen))
        elif len(self._key_of(found.path).encode()) > KEY_BYTES_MAX:
            self.fates.lose(found.path, f"its key is longer than S3's {KEY_BYTES_MAX} bytes")
        elif self._is_fresh(found.seen) and not self._may_be_whole(found):
            self.fates.postpone(found.path)
        elif self._is_over() or not self._fits(found.seen.size):
            return
        elif found.seen.size > PIECE_BYTES:
            self._guarded(found.path, lambda: self._begin_long(found.path))
        elif self._take(self._room):
            self._start()
            self._pool.submit(self._short, found.path)

    def _may_be_whole(self, found: Found) -> bool:
        return found.path in self._moved_in or (
            found.seen.size <= PIECE_BYTES and self._waited_enough(found.path)
        )

    def _waited_enough(self, path: str) -> bool:
        return self._ledger.postponements(path) >= POSTPONED_MAX

    def _with_its_mode(self, stored: ManifestFile, seen: Seen) -> ManifestFile:
        """An inherited file is known by its content alone; its mode is what it is now."""
        if stored.attempt is None:
            return stored
        with suppress(OSError):
            mode = _mode(os.stat(os.path.join(self._root, stored.path)))
            if mode != stored.mode:
                stored = replace(stored, mode=mode)
                self._ledger.inherit(stored, seen)
        return stored

    def _begin_long(self, path: str) -> None:
        self._start()
        if not self._ledger.claim(path, patience_s=self._patience_s()):
            self._finish(path, claimed=False)
            return
        upload = None
        try:
            with opened_inside(self._root, path) as fd:
                upload = self._send_long(path, fd)
        finally:
            if upload is None:
                self._finish(path)

    def _send_long(self, path: str, fd: int) -> LongUpload | None:
        status = os.fstat(fd)
        seen, mode = seen_of(status), _mode(status)
        if self._terms.settled_s:
            if is_being_written(fd) or (self._is_fresh(seen) and path not in self._moved_in):
                self.fates.postpone(path)
                return None
            # Pages that a program writes through a mapping are new to the kernel only after they
            # were clean: from here on, mtime tells of them.
            os.fdatasync(fd)
        expected = ""
        if self._terms.settled_s or self._ledger.may_be_named(path):
            expected = self._hash(fd, seen.size)
        upload = LongUpload(
            self._bucket,
            self._key_of(path),
            pool=self._pool,
            patience_s=self._patience_s,
            end=lambda ended: self._end_long(path, ended, seen),
            headers={**(metadata(expected, mode) if expected else {}), **self._headers},
        )
        file = None
        try:
            file = self._send_pieces(path, fd, upload, seen.size, mode)
            if file is not None and expected not in {"", file.sha256}:
                file = None
                self._leave(path, "it was written while it was read")
        except OSError as error:
            self.fates.lose(path, str(error.strerror))
        finally:
            upload.close(file)
        return upload

    def _send_pieces(
        self, path: str, fd: int, upload: LongUpload, size: int, mode: int
    ) -> ManifestFile | None:
        """None: stopped. A file that grows is cut at the length that it had when it was opened."""
        piece_bytes = max(PIECE_BYTES, -(-size // PARTS_MAX))
        digest = hashlib.sha256()
        sent = 0
        while sent < size:
            if upload.error is not None or not self._take(self._pieces):
                return None
            piece = read_piece(fd, min(piece_bytes, size - sent))
            if not piece:
                self._pieces.release()
                break
            upload.send(piece, partial(self._piece_is_sent, len(piece)))
            digest.update(piece)
            sent += len(piece)
        return ManifestFile(path=path, size=sent, sha256=digest.hexdigest(), mode=mode)

    def _piece_is_sent(self, size_bytes: int) -> None:
        self._count(size_bytes)
        self._pieces.release()

    def _hash(self, fd: int, size: int) -> str:
        digest = hashlib.sha256()
        left = size
        while left > 0 and not self._is_over():
            chunk = os.read(fd, min(left, 1024 * 1024))
            if not chunk:
                break
            digest.update(chunk)
            left -= len(chunk)
        os.lseek(fd, 0, os.SEEK_SET)
        return digest.hexdigest()

    def _take(self, semaphore: threading.Semaphore) -> bool:
        while not self._is_over():
            if semaphore.acquire(timeout=_LOOK_S):
                return True
        return False

    def _wait(self) -> None:
        with self._lock:
            while self._running and not (self._deadline and self._deadline.left_s() <= 0):
                self._lock.wait(self._deadline.left_s() if self._deadline else None)

    # ----------------------------------------------------------------------- in the pool

    def _short(self, path: str) -> None:
        claimed = False
        try:
            if not self._is_over():
                claimed = self._ledger.claim(path, patience_s=self._patience_s())
            if claimed:
                self._guarded(path, lambda: self._send_short(path))
        finally:
            self._room.release()
            self._finish(path, claimed=claimed)

    def _send_short(self, path: str) -> None:
        with opened_inside(self._root, path) as fd:
            status = os.fstat(fd)
            seen = seen_of(status)
            if seen.size > PIECE_BYTES:
                self._grown.append(Found(path, seen))
                return
            if self._terms.settled_s and self._is_to_wait(path, fd, seen):
                self.fates.postpone(path)
                return
            body, seen, after = _read_short(fd, seen)
        if self._terms.settled_s and after != seen and not self._waited_enough(path):
            self.fates.postpone(path)
            return
        digest = sha256(body)
        headers = {**metadata(digest.hex(), _mode(status)), **self._headers}
        self._ledger.doubt(path)
        self._bucket.put(
            self._key_of(path), body, digest=digest, headers=headers, patience_s=self._patience_s()
        )
        self._count(len(body) + CALL_BYTES)
        file = ManifestFile(path=path, size=len(body), sha256=digest.hex(), mode=_mode(status))
        self._store(file, seen if after == seen else None)

    def _is_to_wait(self, path: str, fd: int, seen: Seen) -> bool:
        if not self._is_fresh(seen) or self._waited_enough(path):
            return False
        return path not in self._moved_in or is_being_written(fd)

    def _end_long(self, path: str, upload: LongUpload, seen: Seen) -> None:
        def end() -> None:
            if upload.error is not None:
                upload.abort()
                raise upload.error
            if upload.file is None or self._is_over():
                upload.abort()
                return
            self._ledger.doubt(path)
            upload.complete()
            self._store(upload.file, seen)

        try:
            self._guarded(path, end)
        finally:
            self._finish(path)

    # ----------------------------------------------------------------------- in any thread

    def _guarded(self, path: str, step: Callable[[], None]) -> None:
        try:
            step()
        except RunnerError as error:
            # Each call has been patient already; a thousand files must not be patient in turn.
            if is_retryable(error) or (
                isinstance(error, AwsError) and error.code == "NoSuchBucket"
            ):
                self._hopeless = True
            self.fates.lose(path, str(error))
        except OSError as error:
            self.fates.lose(path, str(error.strerror))

    def _store(self, file: ManifestFile, seen: Seen | None) -> None:
        self._ledger.record(file, seen)
        self.fates.keep(file)

    def _leave(self, path: str, reason: str) -> None:
        if self._terms.settled_s:
            self.fates.postpone(path)
        else:
            self.fates.lose(path, reason)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._sent_bytes += size_bytes

    def _start(self) -> None:
        with self._lock:
            self._running += 1

    def _finish(self, path: str, *, claimed: bool = True) -> None:
        if claimed:
            self._ledger.release(path)
        with self._lock:
            self._running -= 1
            self._lock.notify_all()

    def _is_over(self) -> bool:
        if self._hopeless or self.fates.closed or self._cancelled.is_set():
            return True
        return self._deadline is not None and self._deadline.left_s() <= 0

    def _is_fresh(self, seen: Seen) -> bool:
        """Changed a moment ago. A time far ahead of the clock's is no moment ago."""
        return abs(time.time() - seen.ctime_ns / 1e9) < self._terms.settled_s

    def _fits(self, size: int) -> bool:
        """Whether a file may still arrive in time, at the speed so far."""
        elapsed_s = time.monotonic() - self._began_at
        if self._deadline is None or elapsed_s < _RATE_AFTER_S or size <= PIECE_BYTES:
            return True
        rate = max(self._sent_bytes, PIECE_BYTES) / elapsed_s
        return size <= rate * self._deadline.left_s() * _RATE_DOUBT

    def _patience_s(self) -> float:
        if self._deadline is None:
            return self._terms.patience_s
        return min(self._terms.patience_s, self._deadline.left_s())

    def _give_way(self) -> None:
        if self._terms.settled_s and sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _read_short(fd: int, seen: Seen) -> tuple[bytes, Seen, Seen]:
    """The content, and the file before and after the reading: the same, if that can be had."""
    body, after = b"", seen
    for tries_left in reversed(range(READS_MAX)):
        os.lseek(fd, 0, os.SEEK_SET)
        body = read_piece(fd, seen.size) if seen.size else b""
        after = seen_of(os.fstat(fd))
        if after == seen or after.size > PIECE_BYTES or not tries_left:
            break
        seen = after
    return body, seen, after


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode) & 0o777
