"""What of one attempt is in the bucket. Law: an entry is what was acknowledged; while somebody uploads a
path, nobody else does. In memory only: a runner that begins again uploads again.

What was restored is in the bucket too, as an object of an earlier attempt, which nobody replaces any
more. It is inherited: it stands for the path until this attempt has an object of its own, and again
if nobody knows what that one holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from dstackd.artifact_manifest import ManifestFile
from dstackd.runner.collect import Found, Seen
from dstackd.runner.pace import Deadline


class Entry(NamedTuple):
    """`seen` None: what is on disk may differ. `sure` False: a later upload may have replaced it."""

    file: ManifestFile
    seen: Seen | None
    sure: bool = True


class Ledger:
    """May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._inherited: dict[str, Entry] = {}
        self._inodes: dict[str, int] = {}
        self._postponed: dict[str, int] = {}
        self._claimed: set[str] = set()
        self._known: set[str] = set()

    def unchanged(self, found: Found) -> ManifestFile | None:
        """The stored file, when what is on disk is the same."""
        own = self._entries.get(found.path)
        if own is not None:
            return own.file if own.sure and own.seen == found.seen else None
        inherited = self._inherited.get(found.path)
        if inherited is None or inherited.seen is None:
            return None
        # Restored files are given to the job's user, which changes their ctime.
        seen = inherited.seen._replace(ctime_ns=found.seen.ctime_ns)
        return inherited.file if seen == found.seen else None

    def stored(self, path: str) -> ManifestFile | None:
        """The newest state of this path that the bucket surely has."""
        own = self._entries.get(path)
        entry = own if own is not None and own.sure else self._inherited.get(path)
        return None if entry is None else entry.file

    def inherit(self, file: ManifestFile, seen: Seen) -> None:
        """It was restored, and is in the bucket as an object of `file.attempt`."""
        with self._lock:
            self._inherited[file.path] = Entry(file, seen)

    def look(self, found: Found) -> bool:
        """Whether another file has taken the place of the one that was there at the look before."""
        with self._lock:
            before = self._inodes.get(found.path)
            self._inodes[found.path] = found.seen.inode
            return before not in {None, found.seen.inode}

    def postpone(self, path: str) -> None:
        """It is left for later once more."""
        with self._lock:
            self._postponed[path] = self._postponed.get(path, 0) + 1

    def postponements(self, path: str) -> int:
        """How often in a row it was left for later."""
        return self._postponed.get(path, 0)

    def may_be_named(self, path: str) -> bool:
        """Whether a partial manifest may name this path, so that its object has to say what it is."""
        return path in self._known

    def know(self, paths: Iterable[str]) -> None:
        """A partial manifest names these."""
        self._known.update(paths)

    def has_own(self) -> bool:
        """Whether this attempt has any object."""
        return bool(self._entries)

    def entries(self) -> dict[str, Entry]:
        """By path, this attempt's own before what it inherited."""
        with self._lock:
            return {**self._inherited, **self._entries}

    def record(self, file: ManifestFile, seen: Seen | None) -> None:
        """It is in the bucket."""
        with self._lock:
            self._entries[file.path] = Entry(file, seen)
            self._known.add(file.path)
            self._postponed.pop(file.path, None)

    def doubt(self, path: str) -> None:
        """A write of it began and was not acknowledged."""
        with self._lock:
            entry = self._entries.get(path)
            if entry is not None:
                self._entries[path] = entry._replace(sure=False)

    def forget(self, path: str) -> None:
        """It is no part of the set any more."""
        with self._lock:
            for each in (self._entries, self._inherited, self._inodes, self._postponed):
                each.pop(path, None)

    def claim(self, path: str, *, patience_s: float) -> bool:
        """Take the right to upload this path, to be given back by `release`; False when somebody else
        has had it all the time.
        """
        deadline = Deadline(patience_s)
        with self._lock:
            while path in self._claimed:
                if not self._lock.wait(deadline.left_s()):
                    return False
            self._claimed.add(path)
            return True

    def release(self, path: str) -> None:
        with self._lock:
            self._claimed.discard(path)
            self._lock.notify_all()
