"""A copy of an SQLite queue while everybody goes on. Law: one read transaction of the source, never a write; the copy is checked before it gets
its name, and nothing is ever overwritten.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from dstackd.errors import StorageFailed

PARTIAL = ".partial"


def back_up(source: Path, target: Path) -> int:
    """Copy the queue to a new file that only its owner may read; returns its size in bytes.

    In write-ahead mode a reader's picture holds nobody up, however long the copy takes; only the -wal file grows meanwhile.
    Raises FileExistsError, StorageFailed (with the copy removed), OSError.
    """
    if not source.exists():
        raise StorageFailed(f"there is no database {source}")
    if target.exists():
        raise FileExistsError(f"{target} exists")
    partial = target.with_name(target.name + PARTIAL)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        _copy(source, partial)
        size_bytes = _synced(partial)
        target.hardlink_to(partial)  # unlike a rename, it refuses to overwrite
        _sync_folder(target.parent)
    except sqlite3.Error as error:
        raise StorageFailed(f"{source} cannot be copied: {error}") from error
    finally:
        for left in (partial, *(Path(f"{partial}{more}") for more in ("-wal", "-shm", "-journal"))):
            left.unlink(missing_ok=True)
    return size_bytes


def _copy(source: Path, partial: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{source.as_posix()}?mode=rw", uri=True)) as queue,
        closing(sqlite3.connect(partial, isolation_level=None)) as copy,
    ):
        queue.execute("PRAGMA query_only = ON")
        queue.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file; the daemon sets its own mode
        (verdict,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StorageFailed(f"the copy of {source} is not whole: {verdict}")
        if copy.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise StorageFailed(f"the copy of {source} has rows without the rows that they name")


def _synced(path: Path) -> int:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
