"""What of one attempt is in the bucket. Law: an entry is what was acknowledged; while somebody uploads a
path, nobody else does. In memory only: a runner that begins again uploads again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from dstackd.artifact_manifest import ManifestFile
from dstackd.runner.collect import Found, Seen


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
        self._claimed: set[str] = set()
        self._known: set[str] = set()

    def unchanged(self, found: Found) -> ManifestFile | None:
        """The stored file, when what is on disk is the same."""
        entry = self._entries.get(found.path)
        return entry.file if entry and entry.sure and entry.seen == found.seen else None

    def stored(self, path: str) -> Entry | None:
        """What the bucket has of this path."""
        return self._entries.get(path)

    def may_be_named(self, path: str) -> bool:
        """Whether a partial manifest may name this path, so that its object has to say what it is."""
        return path in self._known

    def know(self, paths: Iterable[str]) -> None:
        """A partial manifest names these."""
        self._known.update(paths)

    def entries(self) -> dict[str, Entry]:
        with self._lock:
            return dict(self._entries)

    def record(self, file: ManifestFile, seen: Seen | None) -> None:
        """It is in the bucket."""
        with self._lock:
            self._entries[file.path] = Entry(file, seen)
            self._known.add(file.path)

    def doubt(self, path: str) -> None:
        """A write of it began and was not acknowledged."""
        with self._lock:
            entry = self._entries.get(path)
            if entry is not None:
                self._entries[path] = entry._replace(sure=False)

    def forget(self, path: str) -> None:
        """It is no part of the set any more."""
        with self._lock:
            self._entries.pop(path, None)

    def claim(self, path: str, *, patience_s: float) -> bool:
        """Take the right to upload this path, to be given back by `release`; False when somebody else
        has had it all the time.
        """
        until = time.monotonic() + patience_s
        with self._lock:
            while path in self._claimed:
                if not self._lock.wait(max(0.0, until - time.monotonic())):
                    return False
            self._claimed.add(path)
            return True

    def release(self, path: str) -> None:
        with self._lock:
            self._claimed.discard(path)
            self._lock.notify_all()
