"""Machines on their way out. Law: a machine is asked to go until EC2 shows it gone, and only then its attempt is over.

A machine that has said its last word runs nothing of its job any more, so the job need not wait for it: its next
attempt begins while the old machine still goes. Such an attempt is leaving. It holds what it held (bounds, budgets)
until it is over.
"""

from __future__ import annotations

from enum import Enum, auto

from dstackd.core.instance import Observation, Seen
from dstackd.core.job import Attempt
from dstackd.core.limits import Limits, past
from dstackd.core.log_verdict import is_settled


class Step(Enum):
    """What happens next to a leaving attempt."""

    STAY = auto()
    TERMINATE = auto()
    OVER = auto()


def follow(attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int) -> Step:
    """The next step of an attempt whose job has moved on; its machine said its last word at `done_at_ms`."""
    if not seen.over:
        asks = is_to_be_asked(attempt, seen, limits=limits, now_ms=now_ms)
        return Step.TERMINATE if asks else Step.STAY
    since_ms = attempt.done_at_ms or attempt.launched_at_ms
    settled = has_its_log(attempt, since_ms=since_ms, limits=limits, now_ms=now_ms)
    return Step.OVER if settled else Step.STAY


def is_to_be_asked(attempt: Attempt, seen: Observation, *, limits: Limits, now_ms: int) -> bool:
    """Whether to ask the machine to go: at first, and again when it shows no sign of going."""
    asked_at_ms = attempt.terminate_requested_at_ms
    return asked_at_ms is None or (
        seen.seen is not Seen.LEAVING and past(now_ms, asked_at_ms, limits.terminate_repeat_s)
    )


def has_its_log(attempt: Attempt, *, since_ms: int, limits: Limits, now_ms: int) -> bool:
    """Whether every line is there, or has been waited for long enough since `since_ms`."""
    never_began = bool(attempt.failed_stage) and attempt.started_at_ms is None
    complete = never_began or is_settled(sent=attempt.log_lines_sent, seen=attempt.log_lines_seen)
    return complete or past(now_ms, since_ms, limits.logs_wait_s)
