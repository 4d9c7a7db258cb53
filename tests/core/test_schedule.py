"""What a schedule does when it is due, as a pure decision."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dstackd.core.schedule import ON_TIME_S, Turn, decide_turn, unique_key

MINUTE_MS = 60_000
TIMES = st.integers(0, 10_000).map(lambda minute: minute * MINUTE_MS)


@given(TIMES, TIMES, st.integers(0, 10**9), st.booleans(), st.none() | st.just("job-1"))
def test_a_turn_is_one_job_or_a_reason(
    planned_ms: int, later_ms: int, late_ms: int, catches_up: bool, running: str | None
) -> None:
    """Whatever was missed, at most the last time is run; where it is not, the row says why."""
    last_ms = planned_ms + later_ms
    turn = decide_turn(
        planned_ms=planned_ms,
        last_ms=last_ms,
        now_ms=last_ms + late_ms,
        catches_up=catches_up,
        running=running,
    )
    assert turn.run_ms in {None, last_ms}
    assert (turn.run_ms is None) == (
        running is not None or (not catches_up and late_ms > ON_TIME_S * 1000)
    )
    assert turn.message if turn.run_ms is None or later_ms else turn == Turn(last_ms)


def test_the_key_names_schedule_and_time() -> None:
    """It is the same for every daemon, in UTC to the minute."""
    assert unique_key("nightly", 1_784_874_600_000) == "schedule/nightly/2026-07-24T06:30Z"
