"""Lines in number order out of events in any order. Law: each line once; a hole is waited for, then named."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.log_line import StoredLine

PENDING_MAX = 50_000
"""Lines of one attempt that are held back behind a hole; beyond it the hole is given up, so that one lost event cannot
eat the memory.
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """When missing lines were written: between the times of their neighbours. `to_ms` None: there is none behind."""

    from_ms: int
    to_ms: int | None


class LogAssembly:
    """One attempt's lines. `next_n` is the first line that was not handed out yet."""

    def __init__(self, next_n: int, *, last_at_ms: int = 0, lost: int = 0) -> None:
        """`last_at_ms`: time of the line before, or when there can have been none. `lost`: lines that were given up."""
        self.next_n = next_n
        self.last_at_ms = last_at_ms
        self.expected: int | None = None
        """How many lines the machine says it sent; None until it says so."""
        self._pending: dict[int, StoredLine] = {}
        self._lost = lost

    @property
    def seen(self) -> int:
        """How many lines have arrived, holes not counted."""
        return self.next_n - 1 - self._lost + len(self._pending)

    @property
    def pending(self) -> int:
        """How many lines wait behind a hole."""
        return len(self._pending)

    @property
    def is_short(self) -> bool:
        """Whether the machine said that it sent more than was handed out."""
        return self.expected is not None and self.next_n <= self.expected

    def gap(self) -> Gap | None:
        """Where to look for what is missing; None when nothing is known to be."""
        if self._pending:
            to_ms = self._pending[min(self._pending)].at_ms
            return Gap(self.last_at_ms, to_ms if to_ms >= self.last_at_ms else None)
        return Gap(self.last_at_ms, None) if self.is_short else None

    def add(self, n: int, at_ms: int, source: str, text: str) -> None:
        """Take in one line; one that was seen before is passed over."""
        if n >= self.next_n and n not in self._pending:
            self._pending[n] = StoredLine(n, at_ms, source, text)

    def take_ready(self) -> list[StoredLine]:
        """The lines that continue what was handed out, in order."""
        ready = self._contiguous()
        if len(self._pending) > PENDING_MAX:
            ready += self.give_up_hole()
        return ready

    def give_up_hole(self) -> list[StoredLine]:
        """The first hole, named, and the lines that continue behind it. Only when there are pending ones."""
        return [self._skip_to(min(self._pending)), *self._contiguous()]

    def close(self) -> list[StoredLine]:
        """Everything that is left, with the holes named."""
        lines = self._contiguous()
        while self._pending:
            lines += self.give_up_hole()
        if self.expected is not None and self.next_n <= self.expected:
            lines.append(self._skip_to(self.expected + 1))
        return lines

    def _skip_to(self, n: int) -> StoredLine:
        """The hole in front of line `n`, which is the next one from now on."""
        hole = StoredLine(n=self.next_n, missing=n - self.next_n)
        self._lost += hole.missing
        self.next_n = n
        return hole

    def _contiguous(self) -> list[StoredLine]:
        lines: list[StoredLine] = []
        take, n = self._pending.pop, self.next_n
        while (line := take(n, None)) is not None:
            lines.append(line)
            n += 1
        self.next_n = n
        if lines:
            self.last_at_ms = max(self.last_at_ms, lines[-1].at_ms)
        return lines
