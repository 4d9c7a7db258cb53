"""A wall clock that somebody sets shortens no bound and lengthens no wait, once AWS has told the time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.told_time import TOLERANCE_MS, WHOLE_SECOND_MS, corrected_ms

TOOK_MAX_MS = 60_000
YEAR_MS = 365 * 86_400_000

true_times = st.integers(1_700_000_000_000, 1_900_000_000_000)
errors = st.integers(-YEAR_MS, YEAR_MS)
delays = st.integers(0, TOOK_MAX_MS)


@dataclass(frozen=True)
class Answer:
    """One that arrives at `at_ms`, by AWS's clock."""

    at_ms: int
    to_aws_ms: int
    """From the question to the moment when AWS looked at its clock,"""
    back_ms: int
    """and from there to us."""

    @property
    def told_ms(self) -> int:
        """The Date header."""
        return (self.at_ms - self.back_ms) // 1000 * 1000

    @property
    def took_ms(self) -> int:
        """As we measure it."""
        return self.to_aws_ms + self.back_ms

    def corrects(self, believed_ms: int) -> int:
        """What is believed behind it."""
        return corrected_ms(believed_ms, told_ms=self.told_ms, took_ms=self.took_ms)


answers = st.builds(Answer, true_times, delays, delays)


@given(answers, errors)
def test_one_answer_tells_the_time(answer: Answer, error_ms: int) -> None:
    """However wrong the clock was: it is right then to the whole second of the header and the time that the call took."""
    after_ms = answer.corrects(answer.at_ms + error_ms) - answer.at_ms
    assert -(answer.back_ms + WHOLE_SECOND_MS + TOLERANCE_MS) <= after_ms
    assert after_ms <= answer.to_aws_ms + WHOLE_SECOND_MS + TOLERANCE_MS


@given(answers)
def test_a_right_clock_is_left_alone(answer: Answer) -> None:
    """Neither a slow answer nor the missing fraction of the header's second moves it, nor a server that is off by as much as is
    allowed.
    """
    for off_ms in (-TOLERANCE_MS, 0, TOLERANCE_MS):
        assert answer.corrects(answer.at_ms + off_ms) == answer.at_ms + off_ms


@given(answers, errors)
def test_no_answer_makes_it_worse(answer: Answer, error_ms: int) -> None:
    """It moves towards AWS's clock and not beyond, and a second look at the same answer changes nothing."""
    before_ms = answer.at_ms + error_ms
    after_ms = answer.corrects(before_ms)
    assert abs(after_ms - answer.at_ms) <= abs(error_ms)
    assert answer.corrects(after_ms) == after_ms


@given(errors, st.lists(st.tuples(delays, delays, st.integers(0, 600_000)), min_size=1))
def test_a_wait_lasts_what_it_says(error_ms: int, calls: list[tuple[int, int, int]]) -> None:
    """From the first answer on, what is measured between any two moments is what has passed, to the time of a call: no bound is
    over early, no wait is longer.
    """
    at_ms = 1_800_000_000_000
    believed_ms = at_ms + error_ms
    errors_ms = []
    for to_aws_ms, back_ms, quiet_ms in calls:
        at_ms += to_aws_ms + back_ms
        believed_ms = Answer(at_ms, to_aws_ms, back_ms).corrects(believed_ms + to_aws_ms + back_ms)
        errors_ms.append(believed_ms - at_ms)
        at_ms, believed_ms = at_ms + quiet_ms, believed_ms + quiet_ms
    slowest_ms = max(max(to_aws_ms, back_ms) for to_aws_ms, back_ms, _ in calls)
    widest_ms = max(errors_ms) - min(errors_ms)
    assert widest_ms <= 2 * (slowest_ms + WHOLE_SECOND_MS + TOLERANCE_MS)
