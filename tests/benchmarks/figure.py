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

    at_least: float | None = None
    at_most: float | None = None
    """The bar that the value is held to."""

    def as_json(self) -> str:
        """One line: figure, value, unit, baseline, ratio = value / baseline; where there is a bar, it and whether it is met."""
        ratio = round(self.value / self.baseline, 4) if self.baseline else None
        shown = {**asdict(self), "ratio": ratio}
        bars = {"at_least": self.at_least, "at_most": self.at_most}
        for name, bar in bars.items():
            if bar is None:
                del shown[name]
            else:
                shown["met"] = self.value >= bar if name == "at_least" else self.value <= bar
        return json.dumps(shown)
