"""One measured figure, as `make bench` prints it. Law: says what was measured, measures nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value beside the baseline that was measured, or is promised, in the same unit."""

    figure: str
    """What was measured, in a few words."""
    value: float
    unit: str
    """Such as `ms`, `jobs/s`, `calls`."""
    baseline: float | None = None
    """The same thing done the plain way in the same run, or a published limit; None: there is none."""

    def as_json(self) -> str:
        """One line: figure, value, unit, baseline, and ratio = value / baseline."""
        ratio = round(self.value / self.baseline, 4) if self.baseline else None
        return json.dumps({**asdict(self), "ratio": ratio})
