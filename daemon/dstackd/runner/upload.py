"""Files into the bucket, several at once. Law: each byte is read once, and what was read is what is
hashed, sent and recorded, so a file that changes meanwhile cannot break its digest.

At most `2 * THREADS` pieces are in memory. A file longer than a piece goes up in parts, read in the
calling thread and sent by the pool; the others are read by the pool. Sizes as the AWS CLI has them.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dstackd.artifact_manifest import ManifestFile
from dstackd.runner.errors import RunnerError
from dstackd.runner.s3 import Bucket, checksum

THREADS = 4
PIECE_BYTES = 8 * 1024 * 1024
PARTS_MAX = 10_000
PATIENCE_S = 120.0


class Uploader:
    """Uploads one attempt's files; `files` and `lost` tell what became of them."""

    def __init__(self, bucket: Bucket, *, job_dir: str, key_of: Callable[[str], str]) -> None:
        self._bucket = bucket
        self._job_dir = job_dir
        self._key_of = key_of
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(THREADS)
        self._hopeless = False
        self.files: list[ManifestFile] = []
        self.lost: list[str] = []
        """Paths that are not in the bucket, with the reason."""

    def upload(self, paths: Sequence[str]) -> None:
        """Store every path; returns when all are done or lost."""
        with ThreadPoolExecutor(THREADS) as pool:
            long_paths = []
            for path in paths:
                if self._size(path) > PIECE_BYTES:
                    long_paths.append(path)
                else:
                    pool.submit(self._attempt, path, self._put_short)
            for path in long_paths:
                self._attempt(path, lambda name, file: self._put_long(name, file, pool))
        self.files.sort(key=lambda file: file.path)
        self.lost.sort()

    def _size(self, path: str) -> int:
        try:
            return os.stat(os.path.join(self._job_dir, path)).st_size
        except OSError:
            return 0

    def _attempt(self, path: str, put: Callable[[str, io.FileIO], ManifestFile]) -> None:
        if self._hopeless:
            self._lose(path, "not tried: the bucket had stopped answering")
            return
        try:
            with open(os.path.join(self._job_dir, path), "rb", buffering=0) as file:
                stored = put(path, file)
        except RunnerError as error:
            # Each call has been patient already; a thousand files must not be patient in turn.
            self._hopeless = True
            self._lose(path, str(error))
        except OSError as error:
            self._lose(path, str(error.strerror))
        else:
            with self._lock:
                self.files.append(stored)

    def _lose(self, path: str, reason: str) -> None:
        with self._lock:
            self.lost.append(f"{path}: {reason}")

    def _put_short(self, path: str, file: io.FileIO) -> ManifestFile:
        body = _read_piece(file, PIECE_BYTES)
        self._bucket.put(self._key_of(path), body, patience_s=PATIENCE_S)
        return _manifest_file(path, file, len(body), hashlib.sha256(body).hexdigest())

    def _put_long(self, path: str, file: io.FileIO, pool: ThreadPoolExecutor) -> ManifestFile:
        # A file that grows is cut at the length that it had when it was opened.
        left = os.fstat(file.fileno()).st_size
        piece_bytes = max(PIECE_BYTES, -(-left // PARTS_MAX))
        key = self._key_of(path)
        upload_id = self._bucket.begin_multipart(key, patience_s=PATIENCE_S)
        digest = hashlib.sha256()
        parts: list[Future[tuple[str, str]]] = []
        size = 0
        while left > 0:
            self._slots.acquire()
            piece = _read_piece(file, min(piece_bytes, left))
            if not piece:
                self._slots.release()
                break
            digest.update(piece)
            size += len(piece)
            left -= len(piece)
            parts.append(pool.submit(self._put_part, key, upload_id, len(parts) + 1, piece))
        etags = [part.result() for part in parts]
        self._bucket.complete_multipart(key, upload_id, parts=etags, patience_s=PATIENCE_S)
        return _manifest_file(path, file, size, digest.hexdigest())

    def _put_part(self, key: str, upload_id: str, number: int, piece: bytes) -> tuple[str, str]:
        try:
            etag = self._bucket.put_part(
                key, upload_id, number=number, body=piece, patience_s=PATIENCE_S
            )
            return etag, checksum(piece)
        finally:
            self._slots.release()


def _read_piece(file: io.FileIO, size_bytes: int) -> bytes:
    chunks = []
    while size_bytes > 0:
        chunk = file.read(size_bytes)
        if not chunk:
            break
        chunks.append(chunk)
        size_bytes -= len(chunk)
    return b"".join(chunks)


def _manifest_file(path: str, file: io.FileIO, size: int, sha256: str) -> ManifestFile:
    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o777
    return ManifestFile(path=path, size=size, sha256=sha256, mode=mode)
