"""What a reader of a log does next, without files and servers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstackd.http.log_steps import (
    LATE_LINES_S,
    Position,
    Selection,
    Step,
    attempt_of,
    is_over,
    lacking_at_end,
    missing_at_end,
    next_step,
)
from dstackd.store.queries import AttemptProgress, LogProgress

# How fast this machine is today is not what these tests are about.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SENT = st.none() | st.integers(0, 5)
VERDICT = st.sampled_from(["", "complete"])


@st.composite
def progresses(draw: st.DrawFn) -> LogProgress:
    count = draw(st.integers(0, 3))
    attempts = tuple(
        AttemptProgress(
            number,
            started=draw(st.booleans()),
            ended=draw(st.booleans()),
            lines_sent=(sent := draw(SENT)),
            verdict=draw(VERDICT),
            lines_seen=draw(st.integers(0, 5 if sent is None else sent)),
        )
        for number in range(1, count + 1)
    )
    return LogProgress("running", None, "", None, draw(st.booleans()), attempts)


@st.composite
def cases(draw: st.DrawFn) -> tuple[LogProgress, Position, Selection]:
    attempt, first = draw(st.none() | st.integers(1, 3)), draw(st.integers(1, 3))
    asked = Selection(attempt, attempt or first, 0, draw(st.booleans()))
    position = Position(attempt or draw(st.integers(1, 3)), draw(st.integers(0, 5)))
    position.quiet_since_s = draw(st.none() | st.just(0.0))
    return draw(progresses()), position, asked


@unhurried
@given(cases(), st.floats(0, 100))
def test_only_followers_wait(case: tuple[LogProgress, Position, Selection], now_s: float) -> None:
    """A reader that does not follow never waits."""
    progress, position, asked = case
    assert asked.follow or next_step(progress, position, asked, now_s=now_s) is not Step.WAIT


@unhurried
@given(cases())
def test_a_follower_of_a_finished_job_comes_to_an_end(
    case: tuple[LogProgress, Position, Selection],
) -> None:
    """Once a job is over nobody waits longer than the bound for late lines, attempt by attempt."""
    progress, position, asked = case
    if not progress.finished:
        return
    for _ in range(4):
        position.quiet_since_s = 0.0
        step = next_step(progress, position, asked, now_s=LATE_LINES_S)
        assert step is not Step.WAIT
        if step is Step.END:
            return
        position.move_on(position.attempt + 1)
    raise AssertionError("no end after every attempt")


@unhurried
@given(cases(), st.floats(0, LATE_LINES_S, exclude_max=True))
def test_nobody_leaves_lines_behind_early(
    case: tuple[LogProgress, Position, Selection], now_s: float
) -> None:
    """A follower does not leave an attempt that runs, nor one whose machine said that it sent more."""
    progress, position, asked = case
    attempt = next((each for each in progress.attempts if each.number == position.attempt), None)
    if not asked.follow or attempt is None:
        return
    more = attempt.started and (attempt.lines_sent is None or attempt.lines_sent > position.last_n)
    if not is_over(progress, attempt.number) or more:
        assert next_step(progress, position, asked, now_s=now_s) is Step.WAIT


@unhurried
@given(cases())
def test_missing_is_told(case: tuple[LogProgress, Position, Selection]) -> None:
    """Shown and missing lines make up what the machine sent; where it did not say, nobody pretends to know."""
    progress, position, _ = case
    attempt = next((each for each in progress.attempts if each.number == position.attempt), None)
    missing = missing_at_end(progress, position)
    if attempt is None or not attempt.started or not is_over(progress, attempt.number):
        assert missing == 0
    elif attempt.lines_sent is None:
        assert missing is None
    else:
        assert missing == max(attempt.lines_sent - position.last_n, 0)


@unhurried
@given(cases(), st.booleans(), st.integers(0, 5))
def test_what_is_lacking_has_arrived_elsewhere(
    case: tuple[LogProgress, Position, Selection], is_last_word: bool, holes: int
) -> None:
    """Nothing is looked for where the file has all that arrived; and what is looked for follows the position and was sent."""
    progress, position, _ = case
    position.holes = min(holes, position.last_n)
    attempt = attempt_of(progress, position.attempt)
    hole = lacking_at_end(progress, position, is_last_word=is_last_word)
    lines = position.last_n - position.holes
    if attempt is None or lines >= attempt.lines_seen:
        assert hole is None
    elif hole is None:
        assert position.last_n >= (attempt.lines_sent or 0)
    else:
        assert hole.n == position.last_n + 1
        assert hole.last_n <= max(attempt.lines_seen + position.holes, attempt.lines_sent or 0)
        assert attempt.lines_sent is None or hole.last_n <= attempt.lines_sent
