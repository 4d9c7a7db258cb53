"""What a schedule does when it is due. Law: times in, a decision out; at most one job at a look, however long nobody has looked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from dstackd.core.shortage import utc_text

ON_TIME_S = 300
"""A run that is no later than this was not missed: a daemon may be restarted, or another one may take over."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`run_ms`: the time whose job is inserted; None: none is. `message` says what was left out and why; empty: nothing was."""

    run_ms: int | None
    message: str = ""


def decide_turn(
    *,
    planned_ms: int,
    last_ms: int,
    now_ms: int,
    catches_up: bool,
    running: str | None,
) -> Turn:
    """`planned_ms`: what was due first; `last_ms`: the last time that has come, the same or a later one. `running`: a job of the
    schedule that is not over, where no two may be at once.
    """
    if now_ms - last_ms > ON_TIME_S * 1000 and not catches_up:
        return Turn(
            None, f"missed {_times(planned_ms, last_ms)}; not run any more (catch_up: none)"
        )
    if running is not None:
        text = f"{utc_text(last_ms)} was left out: job {running} is not over (overlap: skip)"
        return Turn(None, text)
    if planned_ms < last_ms:
        return Turn(last_ms, f"ran {utc_text(last_ms)} alone of those since {utc_text(planned_ms)}")
    return Turn(last_ms)


def _times(first_ms: int, last_ms: int) -> str:
    return (
        utc_text(first_ms)
        if first_ms == last_ms
        else f"{utc_text(first_ms)} to {utc_text(last_ms)}"
    )


def unique_key(name: str, run_ms: int) -> str:
    """Of the job of one time: `schedule/nightly/2026-07-24T06:30Z`. Whoever inserts it first, there is one."""
    at = datetime.fromtimestamp(run_ms / 1000, UTC)
    return f"schedule/{name}/{at:%Y-%m-%dT%H:%MZ}"
