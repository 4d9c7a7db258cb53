"""What an attempt did and what has happened, for `dstackd explain`. Law: rows in, lines out; times as distances, so that they can be
compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dstackd.cli.describe import artifacts_verdict, idle_text, log_verdict, outcome_text
from dstackd.cli.text import cost_text, duration_text, moment_text

Row = Mapping[str, Any]

_STATIONS: Final = (
    ("booted_at_ms", "booted"),
    ("started_at_ms", "commands started"),
    ("rebalance_at_ms", "EC2 expected to take it back"),
    ("notice_at_ms", "EC2 announced to take it back"),
    ("stop_requested_at_ms", "asked to stop"),
    ("exited_at_ms", "commands ended"),
    ("sealed_at_ms", "artifacts sealed"),
    ("done_at_ms", "last word"),
    ("released_at_ms", "machine idle"),
    ("terminate_requested_at_ms", "asked to terminate"),
    ("ended_at_ms", "over"),
)


def attempt_lines(attempt: Row, *, now_ms: float) -> Iterator[str]:
    """Machine, times, end, log, artifacts, cost."""
    machine = attempt["instance_id"] or "no machine yet"
    again = ", used again" if attempt["reused"] else ""
    yield (
        f"{machine}, {attempt['instance_type']} ({attempt['market']}) in {attempt['zone']}, "
        f"${attempt['price_usd_h']:.4f}/h{again}"
    )
    if attempt["launched_at_ms"] is None:
        return
    yield from _times(attempt, now_ms=now_ms)
    if attempt["failed_stage"]:
        yield f"could not begin: {attempt['failed_stage']}: {attempt['failed_message']}"
    yield f"end: {outcome_text(attempt)}"
    yield f"log: {log_verdict(attempt)}"
    yield f"artifacts: {artifacts_verdict(attempt)}"
    if waiting := idle_text(attempt, now_ms=now_ms):
        yield f"idle: {waiting}"
    yield f"cost: {cost_text(attempt['cost_usd'])}"


def _times(attempt: Row, *, now_ms: float) -> Iterator[str]:
    """Each station with what it took since the one before."""
    launched_ms = attempt["launched_at_ms"]
    reached = sorted(
        (attempt[column], at, name)
        for at, (column, name) in enumerate(_STATIONS)
        if attempt[column] is not None
    )
    parts, before_ms = [], launched_ms
    for at_ms, _, name in reached:
        parts.append(f"{name} +{_took(at_ms - before_ms)}")
        before_ms = at_ms
    if attempt["ended_at_ms"] is None:
        parts.append(f"{_took(now_ms - before_ms)} since then")
    yield f"launched {moment_text(launched_ms)[:19]}Z, " + ", ".join(parts)


def _took(milliseconds: float) -> str:
    seconds = max(milliseconds, 0) / 1000
    return f"{seconds:.1f}s" if seconds < 60 else duration_text(seconds)  # noqa: PLR2004 - a minute


def history_lines(events: Sequence[Row], from_ms: int) -> Iterator[str]:
    """Each event, and below it what was known when it was decided."""
    for event in events:
        after = f"+{_took(event['at_ms'] - from_ms)}"
        attempt = f" [attempt {event['attempt']}]" if event["attempt"] else ""
        phase = f" {event['phase_to']}" if event["phase_to"] else ""
        why = ": ".join(filter(None, (event["reason"] or event["kind"], event["message"])))
        yield f"{after:>9}{phase} {why}{attempt}"
        if isinstance(event["detail"], dict) and event["detail"]:
            known = ", ".join(f"{name} {value}" for name, value in event["detail"].items())
            yield f"{'':>9} {known}"
