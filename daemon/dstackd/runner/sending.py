"""One file's way into the bucket. Law: what is hashed is what is sent; an object is replaced whole or
not at all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from dstackd import protocol
from dstackd.artifact_manifest import DIGEST_HEADER, MODE_HEADER, ManifestFile
from dstackd.launch_document import JobDocument
from dstackd.runner.errors import AwsError, RunnerError
from dstackd.runner.s3 import CHECKSUM_HEADER, Bucket, checksum, sha256

ABORT_PATIENCE_S = 2.0
_READ_BYTES = 1024 * 1024


def metadata(sha256_hex: str, mode: int) -> dict[str, str]:
    """What an object says about itself (artifact_manifest.DIGEST_HEADER)."""
    return {DIGEST_HEADER: sha256_hex, MODE_HEADER: f"{mode:o}"}


def headers_of(job: JobDocument) -> dict[str, str]:
    """What every object of the attempt carries: how long the bucket keeps it."""
    days = job.artifact_keep_days
    return {} if days is None else {"x-amz-tagging": protocol.keep_tagging(days)}


def read_piece(fd: int, size_bytes: int) -> bytes:
    """The next `size_bytes`, fewer only at the file's end."""
    first = os.read(fd, size_bytes)
    if len(first) in {0, size_bytes}:
        return first
    chunks, left = [first], size_bytes - len(first)
    while left:
        chunk = os.read(fd, min(left, _READ_BYTES))
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


class LongUpload:
    """A multipart upload: parts come in order and end in any, then `end` is called once, by a thread of
    the pool.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        *,
        pool: ThreadPoolExecutor,
        patience_s: Callable[[], float],
        end: Callable[[LongUpload], None],
        headers: Mapping[str, str],
    ) -> None:
        """Begin it. Raises RunnerError."""
        self._bucket = bucket
        self._key = key
        self._pool = pool
        self._patience_s = patience_s
        self._end = end
        self._lock = threading.Lock()
        self._digests: list[bytes] = []
        self._etags: dict[int, str] = {}
        self._left = 1  # the reading itself
        self.error: RunnerError | None = None
        self.file: ManifestFile | None = None
        """What was read, when it is to be completed."""
        self._id = bucket.begin_multipart(key, patience_s=patience_s(), headers=headers)

    def send(self, piece: bytes, done: Callable[[], None]) -> None:
        """Send the next part from the pool, then call `done`."""
        self._digests.append(b"")
        number = len(self._digests)
        with self._lock:
            self._left += 1

        def put() -> None:
            try:
                if self.error is None:
                    self._put(number, piece)
            except RunnerError as error:
                self.error = error
            finally:
                done()
                self._one_less()

        self._pool.submit(put)

    def close(self, file: ManifestFile | None) -> None:
        """No more parts. `file` None: it is not to be completed."""
        self.file = file
        self._one_less()

    def complete(self) -> None:
        """Make the parts an object. Raises RunnerError."""
        parts = [
            (self._etags[number], checksum(digest))
            for number, digest in enumerate(self._digests, start=1)
        ]
        try:
            self._bucket.complete_multipart(
                self._key, self._id, parts=parts, patience_s=self._patience_s()
            )
        except AwsError as error:
            # The answer of a try before was lost: the upload is gone because it is complete.
            if error.code != "NoSuchUpload" or not self._is_there(len(parts)):
                raise

    def abort(self) -> None:
        """Drop the parts, as far as that is possible; what stays is cleared by the lifecycle rule."""
        with suppress(RunnerError):
            self._bucket.abort_multipart(self._key, self._id, patience_s=ABORT_PATIENCE_S)

    def _put(self, number: int, piece: bytes) -> None:
        digest = sha256(piece)
        self._etags[number] = self._bucket.put_part(
            self._key,
            self._id,
            number=number,
            body=piece,
            digest=digest,
            patience_s=self._patience_s(),
        )
        self._digests[number - 1] = digest

    def _one_less(self) -> None:
        with self._lock:
            self._left -= 1
            over = self._left == 0
        if over:
            self._pool.submit(self._end, self)

    def _is_there(self, parts: int) -> bool:
        head = self._bucket.head(self._key, patience_s=self._patience_s())
        expected = f"{checksum(sha256(b''.join(self._digests)))}-{parts}"
        if head.headers.get(CHECKSUM_HEADER, expected) != expected:
            return False
        size = self.file.size if self.file else -1
        return head.size == size and head.etag.strip('"').endswith(f"-{parts}")
