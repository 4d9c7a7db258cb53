"""What became of each file of an upload. Law: each path has one fate, and none after the end."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from dstackd.artifact_manifest import ManifestFile
from dstackd.runner.ledger import Ledger


class Fates:
    """May be used from several threads; read it after `close`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._left: set[str] = set()
        self.closed = False
        self.files: list[ManifestFile] = []
        """What is in the bucket as it is on disk, of this attempt or inherited."""
        self.older: list[ManifestFile] = []
        """Of what was lost: the states that the bucket still has."""
        self.lost: list[str] = []
        """Paths that are not in the bucket, with the reason."""
        self.postponed: list[str] = []
        """Paths that are being written."""

    def expect(self, paths: Iterable[str]) -> None:
        self._left.update(paths)

    def keep(self, file: ManifestFile) -> None:
        with self._lock:
            if self._take(file.path):
                self.files.append(file)

    def postpone(self, path: str) -> None:
        with self._lock:
            if self._take(path):
                self._ledger.postpone(path)
                self.postponed.append(path)

    def lose(self, path: str, reason: str) -> None:
        with self._lock:
            self._lose(path, reason)

    def close(self, reason: str) -> None:
        """What has no fate yet is lost; what is said later does not count."""
        with self._lock:
            for path in sorted(self._left):
                self._lose(path, reason)
            self.closed = True
        self.files.sort(key=lambda file: file.path)
        self.lost.sort()

    def _lose(self, path: str, reason: str) -> None:
        if not self._take(path):
            return
        stored = self._ledger.stored(path)
        if stored is not None:
            self.older.append(stored)
            reason += " (the bucket has an earlier state)"
        self.lost.append(f"{path}: {reason}")

    def _take(self, path: str) -> bool:
        if self.closed or path not in self._left:
            return False
        self._left.discard(path)
        return True
