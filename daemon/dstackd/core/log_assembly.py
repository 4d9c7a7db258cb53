"""Lines in number order out of events in any order. Law: each line once; a hole is waited for, then named."""

from __future__ import annotations

from dstackd.core.log_line import StoredLine

PENDING_MAX = 100_000
"""Lines held back behind a hole; beyond it the hole is given up, so that one lost event cannot eat the memory."""


class LogAssembly:
    """One attempt's lines. `next_n` is the first line that was not handed out yet."""

    def __init__(self, next_n: int) -> None:
        self.next_n = next_n
        self.expected: int | None = None
        """How many lines the machine says it sent; None until it says so."""
        self._pending: dict[int, StoredLine] = {}
        self._lost = 0

    @property
    def seen(self) -> int:
        """How many lines have arrived, holes not counted."""
        return self.next_n - 1 - self._lost + len(self._pending)

    def add(self, n: int, at_ms: int, source: str, text: str) -> None:
        """Take in one line; one that was seen before is passed over."""
        if n >= self.next_n:
            self._pending.setdefault(n, StoredLine(n=n, at_ms=at_ms, source=source, log=text))

    def take_ready(self) -> list[StoredLine]:
        """The lines that continue what was handed out, in order."""
        ready = self._contiguous()
        if len(self._pending) > PENDING_MAX:
            ready += [self._skip_hole(), *self._contiguous()]
        return ready

    def close(self) -> list[StoredLine]:
        """Everything that is left, with the holes named."""
        lines = self._contiguous()
        while self._pending:
            lines += [self._skip_hole(), *self._contiguous()]
        if self.expected is not None and self.next_n <= self.expected:
            lines.append(StoredLine(n=self.next_n, missing=self.expected + 1 - self.next_n))
        return lines

    def _contiguous(self) -> list[StoredLine]:
        lines: list[StoredLine] = []
        while (line := self._pending.pop(self.next_n, None)) is not None:
            lines.append(line)
            self.next_n += 1
        return lines

    def _skip_hole(self) -> StoredLine:
        first = min(self._pending)
        hole = StoredLine(n=self.next_n, missing=first - self.next_n)
        self._lost += hole.missing
        self.next_n = first
        return hole
