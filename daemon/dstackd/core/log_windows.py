"""Which part of the group to read next. Law: pure; the number of reads does not grow with the number of jobs.

Reading goes forward in the time of the events, over all streams at once. What came late is missed by that, and is known
to be missing by its number: such gaps are read again, those near each other in time in one read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dstackd.core.log_assembly import Gap

OVERLAP_MS = 10_000
"""How far behind the newest event a forward read begins: most late events are no later."""
DEEP_OVERLAP_MS = 120_000
"""The same now and then, for a late line that no later one shows to be missing."""
REREAD_EVENTS_MAX = 3000
"""Where more events than this are within the overlap, it is shorter: reading them again must not eat the calls."""
STREAMS_MAX = 100
"""FilterLogEvents takes no more `logStreamNames`."""
NEAR_MS = 120_000
"""Gaps that begin within this of each other are looked for in one read."""


@dataclass(frozen=True, slots=True)
class Window:
    """Events from `from_ms` to `to_ms`, both included, of these streams."""

    from_ms: int
    to_ms: int | None
    streams: tuple[str, ...]


def forward_start_ms(*, now_ms: int, until_ms: int, recent_ms: Sequence[int], deep: bool) -> int:
    """Where the next forward read begins. `until_ms`: up to where everything was read that was there. `recent_ms`: times
    of the newest events of that read in order, at most REREAD_EVENTS_MAX.
    """
    if deep:
        return min(now_ms, until_ms) - DEEP_OVERLAP_MS
    start_ms = min(now_ms, until_ms) - OVERLAP_MS
    return max(start_ms, recent_ms[0]) if len(recent_ms) >= REREAD_EVENTS_MAX else start_ms


def window_of(gaps: Sequence[tuple[str, Gap]]) -> Window:
    """One read for the first of the gaps, given as (stream, gap), and for those of the others that are near it."""
    first = gaps[0][1]
    near = [pair for pair in gaps if abs(pair[1].from_ms - first.from_ms) <= NEAR_MS][:STREAMS_MAX]
    ends_ms = [gap.to_ms for _, gap in near if gap.to_ms is not None]
    return Window(
        from_ms=min(gap.from_ms for _, gap in near),
        to_ms=max(ends_ms) if len(ends_ms) == len(near) else None,
        streams=tuple(stream for stream, _ in near),
    )
