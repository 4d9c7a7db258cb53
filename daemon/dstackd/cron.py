"""When a schedule's next time is. Law: a function of its arguments; the only module that knows cron expressions and time zones.

As Debian's cron has it (cronsim): five fields, by the wall clock of the zone. Where clocks go forward, an expression with a fixed hour
runs once right after the gap in which its time was; where they go back, it runs the first time only. An expression with
a * in the hours or the minutes goes by the time that passes: what is in the gap does not happen, what is there twice happens twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import takewhile
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.reading import shown

_FIELDS: Final = 5
_SHORT: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIX: Final = "write minute, hour, day of month, month and day of week, such as 30 6 * * MON-FRI"
_CHANGE: Final = timedelta(hours=4)
"""More than any clock goes forward or back at once."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """A cron expression in a time zone."""

    cron: str
    zone: ZoneInfo

    def next_after(self, at_ms: int) -> int | None:
        """The first time after `at_ms`; None: none within fifty years."""
        start = datetime.fromtimestamp(at_ms / 1000, self.zone)
        # Where the clock shows a time again, cronsim gives its first one, which is over.
        return next((each for each in self._from(start) if each > at_ms), None)

    def last_until(self, at_ms: int) -> int | None:
        """The last time that is not after `at_ms`; None: none in the fifty years before."""
        end = datetime.fromtimestamp(at_ms // 1000, self.zone)
        # With a part of a second, cronsim takes the second itself for one of the times before. Backwards it sees changes
        # of the clock with other eyes: it only says where to begin, and the way forward is what holds.
        for before in CronSim(self.cron, end.replace(microsecond=1), reverse=True):
            come = list(takewhile(lambda each: each <= at_ms, self._from(before - _CHANGE)))
            if come:
                return come[-1]
        return None

    def _from(self, start: datetime) -> Iterator[int]:
        for each in CronSim(self.cron, start):
            yield int(each.timestamp()) * 1000


def read_calendar(cron: str, timezone: str) -> Calendar:
    """Raises SpecError, naming `cron`, `timezone` or both."""
    errors: list[FieldError] = []
    zone = _zone(timezone)
    if zone is None:
        near = get_close_matches(timezone, sorted(available_timezones()), n=1)
        fix = f"did you mean {near[0]}?" if near else "write one such as Europe/Berlin, or UTC"
        errors.append(FieldError("timezone", f"{shown(timezone)} is no time zone", fix))
    written = _SHORT.get(cron.strip().lower(), " ".join(cron.split()))
    problem = _problem(written)
    if problem:
        errors.append(FieldError("cron", f"{shown(cron)} {problem}", _FIX))
    if zone is None or errors:
        raise SpecError(errors)
    return Calendar(written, zone)


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # also: a path that leads elsewhere, a folder of zones
        return None


def _problem(cron: str) -> str:
    fields = len(cron.split())
    if fields != _FIELDS:
        return f"has {fields} field{'s' if fields != 1 else ''}, not {_FIELDS}"
    try:
        CronSim(cron, datetime(2000, 1, 1))  # noqa: DTZ001 - any day: only the text is judged
    except CronSimError as error:
        return f"is no cron expression: {str(error).lower()}"
    return ""
