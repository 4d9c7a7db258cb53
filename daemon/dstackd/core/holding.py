"""What a job waits for before it may be launched at all. Law: total and pure; a job that is held by nothing is for the planner."""

from __future__ import annotations

from dataclasses import dataclass

from dstackd.core.phase import Reason
from dstackd.core.shortage import utc_text


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a job is held, in words. `until_ms` None: only an event ends it."""

    reason: Reason
    message: str
    until_ms: int | None = None


def decide_hold(*, run_at_ms: int | None, cancel_requested: bool, now_ms: int) -> Hold | None:
    """None: it is the planner's, which also ends what was cancelled."""
    if cancel_requested:
        return None
    if run_at_ms is not None and run_at_ms > now_ms:
        return Hold(Reason.SCHEDULED, f"waits for its time, {utc_text(run_at_ms)}", run_at_ms)
    return None
