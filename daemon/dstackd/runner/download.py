"""Objects into files, several at once. Law: a file takes its name when it is complete and is what was
asked for; until then it has another one.

A long object comes in pieces side by side, all of one ETag; it is hashed when it is there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

from dstackd.artifact_manifest import DIGEST_HEADER, MODE_HEADER
from dstackd.runner.errors import NoRoom
from dstackd.runner.s3 import Bucket

PATIENCE_S = 300.0
THREADS = 8
PIECE_BYTES = 16 * 1024 * 1024
_HASH_BYTES = 1024 * 1024


class WrongDigest(Exception):
    """The object is not what its digest says."""


@dataclass(frozen=True)
class Wanted:
    """An object and the file that it becomes; the folder of `path` is there.

    `size`: as far as it is known. `etag`: the object must be this one. `sha256` empty: it is not known.
    `or_newer`: another content will do as well if the object says itself what it is
    (artifact_manifest.DIGEST_HEADER).
    """

    key: str
    path: str
    size: int = 0
    etag: str = ""
    sha256: str = ""
    mode: int = 0o600
    or_newer: bool = False


Arrived = Callable[[Wanted, str, os.stat_result], None]


class Download:
    """Fetches objects of one bucket. `tick` is told of bytes as they come (negative: come again),
    `arrived` of each file that has its name: its sha256 and what it is on disk, from any thread.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        tick: Callable[[int], None] = lambda _size: None,
        arrived: Arrived = lambda _wanted, _sha256, _status: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._bucket = bucket
        self._tick = tick
        self._arrived = arrived
        self._patience_s = patience_s
        self._room = threading.Semaphore(4 * THREADS)
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def fetch(self, wanted: Iterable[Wanted]) -> None:
        """All of them, or the first error: WrongDigest, RunnerError, OSError."""
        with ThreadPoolExecutor(THREADS) as pool:
            for one in wanted:
                if self._error is not None:
                    break
                if one.size > PIECE_BYTES:
                    self._guarded(partial(self._begin_long, one, pool))
                else:
                    self._submit(pool, partial(self._short, one))
        if self._error is not None:
            raise self._error

    def _submit(self, pool: ThreadPoolExecutor, step: Callable[[], None]) -> None:
        """Run the step in the pool, also after an error: it may be counted on."""
        self._room.acquire()

        def run() -> None:
            try:
                self._guarded(step)
            finally:
                self._room.release()

        pool.submit(run)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - raised by `fetch`
            with self._lock:
                self._error = self._error or error

    def _short(self, one: Wanted) -> None:
        if self._error is not None:
            return
        with closing(_Part(one)) as part:
            sink = _Sink(part.fd, 0, self._tick, hashed=True)
            headers = self._bucket.download(
                one.key, sink, patience_s=self._patience_s, etag=one.etag
            )
            self._keep(part, sink.sha256(), headers)

    def _begin_long(self, one: Wanted, pool: ThreadPoolExecutor) -> None:
        head = self._bucket.head(one.key, patience_s=self._patience_s)
        etag = one.etag or head.etag
        part = _Part(one)
        # Told here, not in the middle of it; and the pieces lie side by side.
        _reserve(part.fd, head.size)
        firsts = range(0, head.size, PIECE_BYTES)
        left = _Countdown(len(firsts) + 1, lambda: self._end_long(part, head.headers))
        for first in firsts:
            last = min(first + PIECE_BYTES, head.size) - 1

            def fetch(piece: tuple[int, int] = (first, last)) -> None:
                try:
                    if self._error is None:
                        sink = _Sink(part.fd, piece[0], self._tick)
                        self._bucket.download(
                            one.key, sink, patience_s=self._patience_s, etag=etag, piece=piece
                        )
                finally:
                    left.one_less()

            self._submit(pool, fetch)
        left.one_less()

    def _end_long(self, part: _Part, headers: Mapping[str, str]) -> None:
        with closing(part):
            if self._error is None:
                self._keep(part, part.sha256(), headers)

    def _keep(self, part: _Part, sha256: str, headers: Mapping[str, str]) -> None:
        part.keep(sha256, headers)
        self._arrived(part.wanted, sha256, os.fstat(part.fd))


class _Countdown:
    """Calls `end` when it has been told so many times."""

    def __init__(self, count: int, end: Callable[[], None]) -> None:
        self._left = count
        self._end = end
        self._lock = threading.Lock()

    def one_less(self) -> None:
        with self._lock:
            self._left -= 1
            over = self._left == 0
        if over:
            self._end()


class _Sink:
    """Writes from an offset, and hashes if asked to."""

    def __init__(
        self, fd: int, offset: int, tick: Callable[[int], None], *, hashed: bool = False
    ) -> None:
        self._fd = fd
        self._offset = offset
        self._tick = tick
        self._hashed = hashed
        self._digest = hashlib.sha256()
        self._size = 0

    def begin(self) -> None:
        if self._hashed:
            os.ftruncate(self._fd, 0)
        self._tick(-self._size)
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes, /) -> None:
        if self._hashed:
            self._digest.update(chunk)
        self._tick(len(chunk))
        while chunk:
            written = os.pwrite(self._fd, chunk, self._offset + self._size)
            self._size += written
            chunk = chunk[written:]

    def sha256(self) -> str:
        return self._digest.hexdigest()


class _Part:
    """A file that is not complete yet: gone when it is closed, unless it was kept."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        # A name of its own: with an ending, a name of 255 bytes would be too long.
        self.fd, self._path = tempfile.mkstemp(dir=os.path.dirname(wanted.path), prefix=".dstackd-")

    def close(self) -> None:
        os.close(self.fd)
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def sha256(self) -> str:
        """Of what is in the file."""
        digest = hashlib.sha256()
        offset = 0
        while chunk := os.pread(self.fd, _HASH_BYTES, offset):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()

    def keep(self, found: str, headers: Mapping[str, str]) -> None:
        """Give it its name, if its digest is right."""
        wanted, mode = self.wanted, self.wanted.mode
        if wanted.sha256 and found != wanted.sha256:
            if not (wanted.or_newer and headers.get(DIGEST_HEADER) == found):
                raise WrongDigest(f"{wanted.key}: sha256 is {found}, expected {wanted.sha256}")
            with suppress(ValueError):
                mode = int(headers.get(MODE_HEADER, ""), 8)
        os.fchmod(self.fd, mode & 0o777)
        os.replace(self._path, wanted.path)


def _reserve(fd: int, size: int) -> None:
    if not size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise NoRoom(f"{size} bytes: {error.strerror}") from error
