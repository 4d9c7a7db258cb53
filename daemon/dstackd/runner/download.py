"""Objects into files. Law: a file is there only when its digest was right."""

from __future__ import annotations

import contextlib
import hashlib
import os

from dstackd.runner.s3 import Bucket

PATIENCE_S = 300.0


class WrongDigest(Exception):
    """The object is not what its digest says."""


class _HashedFile:
    """A sink that writes and hashes."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._digest = hashlib.sha256()

    def close(self) -> None:
        os.close(self._fd)

    def begin(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes, /) -> None:
        self._digest.update(chunk)
        while chunk:
            chunk = chunk[os.write(self._fd, chunk) :]

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def download(bucket: Bucket, key: str, path: str, *, sha256: str, mode: int = 0o600) -> None:
    """Write the object to `path`. Raises WrongDigest, RunnerError, OSError; then nothing is there."""
    part = f"{path}.dstackd-part"
    try:
        with contextlib.closing(_HashedFile(part)) as file:
            bucket.download(key, file, patience_s=PATIENCE_S)
            _require(file.hexdigest(), sha256, key)
        os.chmod(part, mode)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _require(found: str, expected: str, key: str) -> None:
    if found != expected:
        raise WrongDigest(f"{key}: sha256 is {found}, expected {expected}")
