"""Artifacts from the daemon to the disk, several at once.

Law: nothing is written outside the folder, and a name stands for a complete file only: content goes
to a file of another name first, is checked, and is moved.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from dstackd.cli import exit_codes
from dstackd.cli.api import Daemon, Refused, Unreachable
from dstackd.cli.failures import Failure
from dstackd.cli.text import size_text
from dstackd.errors import DstackdError
from dstackd.plain_text import harmless

AT_A_TIME: Final = 8
PROGRESS_EVERY_S: Final = 0.2
_PERMISSIONS: Final = 0o777
"""No set-user-id and the like: the machine's ids are not this host's."""

File = Mapping[str, Any]


class PullError(DstackdError):
    """This file did not arrive; the text says which and why."""


class _Stopped(BaseException):
    """Another thread has met something that ends the whole."""


def chosen(files: Sequence[File], patterns: Sequence[str]) -> list[File]:
    """Those that one of the patterns means, all without a pattern. Raises Failure for a pattern that means none."""
    for pattern in patterns:
        if not any(_means(pattern, file["path"]) for file in files):
            message = f"no artifact is called {harmless(pattern)}: dstackd artifacts ls lists them"
            raise Failure(message, exit_code=exit_codes.USAGE)
    if not patterns:
        return list(files)
    return [file for file in files if any(_means(each, file["path"]) for each in patterns)]


def _means(pattern: str, path: str) -> bool:
    """A path is meant as it is, also where it has a star in it; with all below it; or as a glob."""
    below = pattern.rstrip("/") + "/"
    return path == pattern or path.startswith(below) or fnmatch.fnmatchcase(path, pattern)


class Pull:
    """One call of `pull`: its threads share nothing but what is counted here."""

    def __init__(self, daemon: Daemon, job_id: str, *, attempt: int, root: Path) -> None:
        self._daemon = daemon
        self._job_id = job_id
        self._attempt = attempt
        self._root = root
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._arrived = 0
        self._arrived_bytes = 0

    def run(self, files: Sequence[File]) -> dict[str, str]:
        """Fetch them; what did not arrive, by path, and why. Raises Unreachable when the daemon is gone."""
        from concurrent.futures import ThreadPoolExecutor

        size_bytes = sum(file["size"] for file in files)
        pool = ThreadPoolExecutor(AT_A_TIME)
        try:
            with _progress(lambda: self._progress_text(len(files), size_bytes)):
                outcomes = list(pool.map(self._problem, files))
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return {file["path"]: why for file, why in zip(files, outcomes, strict=True) if why}

    def _progress_text(self, files: int, size_bytes: int) -> str:
        bytes_text = f"{size_text(self._arrived_bytes)} of {size_text(size_bytes)}"
        return f"{self._arrived} of {files} files, {bytes_text}"

    def _problem(self, file: File) -> str:
        try:
            fetched = self._fetch(file)
        except PullError as error:
            return str(error)
        except BaseException:
            self._stop.set()
            raise
        with self._lock:
            self._arrived += 1
            self._arrived_bytes += 0 if fetched else file["size"]
        return ""

    def _fetch(self, file: File) -> bool:
        try:
            return pull_file(self._content(file), file=file, root=self._root)
        except Refused as error:
            raise PullError(f"{harmless(file['path'])}: {error.message}") from None
        except Unreachable:
            # One that breaks off is its own trouble; a daemon that is gone is that of all.
            self._daemon.check("v1", "version")
            problem = "it broke off on the way; the daemon's log says why"
            raise PullError(f"{harmless(file['path'])}: {problem}") from None

    def _content(self, file: File) -> Iterator[bytes]:
        where = ("v1", "jobs", self._job_id, "artifacts", "content")
        for chunk in self._daemon.chunks(*where, path=file["path"], attempt=self._attempt):
            if self._stop.is_set():
                raise _Stopped
            with self._lock:
                self._arrived_bytes += len(chunk)
            yield chunk


@contextlib.contextmanager
def _progress(text: Callable[[], str]) -> Iterator[None]:
    """One line on standard error that is written anew, where that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()

    def show() -> None:
        while not over.wait(PROGRESS_EVERY_S):
            sys.stderr.write(f"\r\x1b[K{text()}")
            sys.stderr.flush()

    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    try:
        yield
    finally:
        over.set()
        shown.join()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def pull_file(chunks: Iterable[bytes], *, file: File, root: Path) -> bool:
    """Write one file of a manifest below `root`; False where it is there already, and no content is asked for. Raises PullError."""
    shown, path = harmless(file["path"]), file["path"]
    target = place_of(path, root=root)
    _refuse_outside(target.parent, root=root, shown=shown)
    try:
        if _is_there(target, file):
            target.chmod(file["mode"] & _PERMISSIONS)
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(target, mode=file["mode"] & _PERMISSIONS) as output:
            _copy_checked(chunks, output, file=file, shown=shown)
    except OSError as error:
        raise PullError(f"{shown}: cannot be written: {error.strerror or error}") from None
    return True


def place_of(path: str, *, root: Path) -> Path:
    """Where the file goes. Raises PullError for a path that is not plainly below the folder."""
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\0" in path:
        raise PullError(f"{harmless(path)}: leads out of the folder, and is not written")
    return root.joinpath(*parts)


def _refuse_outside(folder: Path, *, root: Path, shown: str) -> None:
    """A link that was there before must not lead a file elsewhere."""
    if not folder.resolve().is_relative_to(root.resolve()):
        raise PullError(f"{shown}: a link in {root} leads out of it, and is not followed")


def _is_there(target: Path, file: File) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_size != file["size"]:
        return False
    with target.open("rb") as content:
        return bool(hashlib.file_digest(content, "sha256").hexdigest() == file["sha256"])


@contextlib.contextmanager
def _replacing(target: Path, *, mode: int) -> Iterator[BinaryIO]:
    """A file to write to that becomes `target` when the block ends well, and else is gone."""
    number, name = tempfile.mkstemp(dir=target.parent, prefix=".dstackd-")
    try:
        with os.fdopen(number, "wb") as output:
            yield output
            os.fchmod(output.fileno(), mode)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _copy_checked(chunks: Iterable[bytes], output: BinaryIO, *, file: File, shown: str) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
        output.write(chunk)
    if size_bytes != file["size"] or digest.hexdigest() != file["sha256"]:
        problem = f"the {size_bytes} bytes that came are not the {file['size']} that were listed"
        raise PullError(f"{shown}: {problem}; try again, and look into the bucket if it stays so")
