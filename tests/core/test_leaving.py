"""An attempt whose job has moved on is followed until its machine is gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.instance import UNKNOWN, Observation, Seen
from dstackd.core.job import Attempt
from dstackd.core.leaving import Step, follow
from dstackd.core.limits import Limits
from dstackd.core.phase import Outcome
from tests.builders import NOW_MS, an_attempt
from tests.core.test_decide_properties import attempts, observations

LIMITS = Limits()
GONE = Observation(Seen.GONE)


def step(attempt: Attempt, seen: Observation, *, later_s: float = 0.0) -> Step:
    """The next step with the default limits."""
    return follow(attempt, seen, limits=LIMITS, now_ms=NOW_MS + int(later_s * 1000))


def asked(seconds_ago: float | None) -> Attempt:
    """An attempt that was left, all its lines here; when its machine was asked to go."""
    at_ms = None if seconds_ago is None else NOW_MS - int(seconds_ago * 1000)
    return an_attempt(
        outcome=Outcome.INTERRUPTED,
        done_at_ms=NOW_MS - 1000,
        terminate_requested_at_ms=at_ms,
        log_lines_sent=2,
        log_lines_seen=2,
    )


@pytest.mark.parametrize(
    ("seconds_ago", "seen", "expected"),
    [
        (None, UNKNOWN, Step.TERMINATE),
        (None, Observation(Seen.RUNNING), Step.TERMINATE),
        (29, Observation(Seen.RUNNING), Step.STAY),
        (30, Observation(Seen.RUNNING), Step.TERMINATE),
        (30, Observation(Seen.STOPPED), Step.TERMINATE),
        (300, Observation(Seen.LEAVING), Step.STAY),
        (1, GONE, Step.OVER),
        (None, Observation(Seen.ABSENT), Step.OVER),
    ],
)
def test_a_machine_is_asked_until_it_is_gone(
    seconds_ago: float | None, seen: Observation, expected: Step
) -> None:
    """At first, again when it shows no sign of going, and no more once it is gone."""
    assert step(asked(seconds_ago), seen) is expected


@given(attempts, observations)
def test_only_a_machine_that_is_gone_ends_its_attempt(attempt: Attempt, seen: Observation) -> None:
    """However long it takes: its cost is known then, and not before."""
    assert (step(attempt, seen, later_s=10**6) is Step.OVER) == seen.over


@given(attempts, st.integers(0, 120))
def test_missing_lines_are_waited_for_within_the_bound(attempt: Attempt, later_s: int) -> None:
    """The attempt is open while its last lines may come, and no longer than the bound."""
    waits = step(attempt, GONE, later_s=later_s) is Step.STAY
    since_ms = attempt.done_at_ms or attempt.launched_at_ms
    sent, seen = attempt.log_lines_sent, attempt.log_lines_seen
    never_began = bool(attempt.failed_stage) and attempt.started_at_ms is None
    is_short = not never_began and (sent is None or seen < sent)
    over = NOW_MS + later_s * 1000 >= since_ms + LIMITS.logs_wait_s * 1000
    assert waits == (is_short and not over)
