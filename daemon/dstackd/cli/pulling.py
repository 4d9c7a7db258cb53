"""One artifact from the daemon to the disk.

Law: nothing is written outside the folder, and a name stands for a complete file only: content goes
to a file of another name first, is checked, and is moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from dstackd.cli.api import Daemon
from dstackd.errors import DstackdError
from dstackd.plain_text import harmless

_PERMISSIONS: Final = 0o777
"""No set-user-id and the like: the machine's ids are not this host's."""


class PullError(DstackdError):
    """This file did not arrive; the text says which and why."""


def pull_file(
    daemon: Daemon, job_id: str, *, attempt: int, file: Mapping[str, Any], root: Path
) -> None:
    """Write one file of a manifest below `root`. Raises PullError, and what the daemon raises."""
    shown, path = harmless(file["path"]), file["path"]
    target = place_of(path, root=root)
    _refuse_outside(target.parent, root=root, shown=shown)
    try:
        if _is_there(target, file):
            target.chmod(file["mode"] & _PERMISSIONS)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        where = ("v1", "jobs", job_id, "artifacts", "content")
        chunks = daemon.chunks(*where, path=path, attempt=attempt)
        with _replacing(target, mode=file["mode"] & _PERMISSIONS) as output:
            _copy_checked(chunks, output, file=file, shown=shown)
    except OSError as error:
        raise PullError(f"{shown}: cannot be written: {error.strerror or error}") from None


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


def _is_there(target: Path, file: Mapping[str, Any]) -> bool:
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


def _copy_checked(
    chunks: Iterable[bytes], output: BinaryIO, *, file: Mapping[str, Any], shown: str
) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
        output.write(chunk)
    if size_bytes != file["size"] or digest.hexdigest() != file["sha256"]:
        problem = f"the {size_bytes} bytes that came are not the {file['size']} that were sealed"
        raise PullError(f"{shown}: {problem}; try again, and look into the bucket if it stays so")
