"""One line of a job's output as it is kept. Law: a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line as stored. `missing` > 0: lines n .. n+missing-1 were lost on the way."""

    n: int
    at_ms: int = 0
    source: str = ""
    log: str = ""
    missing: int = 0

    @property
    def last_n(self) -> int:
        """Number of the last line that this entry stands for."""
        return self.n + max(self.missing, 1) - 1
