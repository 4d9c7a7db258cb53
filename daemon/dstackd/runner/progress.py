"""How far a long transfer is, in words. Law: counts what it is told; speaks now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY_S = 10.0
_UNITS = ("KB", "MB", "GB", "TB")


class Progress:
    """May be used from several threads. `total` 0: it is not known."""

    def __init__(
        self, what: str, total: int, say: Callable[[str], None], *, every_s: float = EVERY_S
    ) -> None:
        self._what = what
        self._total = total
        self._say = say
        self._every_s = every_s
        self._lock = threading.Lock()
        self._done = 0
        self._next_at = time.monotonic() + every_s
        self._said = False

    def add(self, size_bytes: int) -> None:
        """So many bytes more; negative when some have to come again."""
        with self._lock:
            self._done += size_bytes
            now = time.monotonic()
            if now < self._next_at:
                return
            self._next_at = now + self._every_s
            self._said = True
            text = self._text()
        self._say(text)

    def end(self) -> None:
        """Say how it ended, if anything was said before."""
        if self._said:
            self._say(self._text())

    def _text(self) -> str:
        if not self._total:
            return f"{self._what}: {size_text(self._done)}"
        return f"{self._what}: {size_text(self._done)} of {size_text(self._total)}"


def size_text(size_bytes: int) -> str:
    """Such as `3.2 GB`; 1 GB is 1024 MB, as in a job's spec."""
    size = size_bytes / 1024
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:  # noqa: PLR2004 - the next unit
            return f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError(unit)
