"""The bound that an explanation names is the one that `decide` applies, to the millisecond."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.core.deadlines import deadlines, next_act
from dstackd.core.decide import STAY, decide
from dstackd.core.instance import Observation, Seen
from dstackd.core.job import Attempt, Job
from dstackd.core.limits import Limits
from dstackd.core.phase import Phase
from tests.builders import NOW_MS, a_job, an_attempt
from tests.core.test_decide_properties import attempts as fresh_attempts
from tests.core.test_decide_properties import jobs, maybe, observations

LIMITS = Limits()
RUNNING = Observation(Seen.RUNNING)
attempts = st.builds(
    lambda attempt, reused, released_ms: replace(
        attempt, reused=reused, released_at_ms=released_ms
    ),
    fresh_attempts,
    st.booleans(),
    maybe,
)


@settings(max_examples=400)
@given(jobs, attempts, observations, st.floats(0, 1))
def test_decide_acts_exactly_then(
    job: Job, attempt: Attempt, seen: Observation, share: float
) -> None:
    """At the named moment `decide` does what is named; at no moment between now and then does it do anything."""
    act = next_act(job, attempt, seen, limits=LIMITS, now_ms=NOW_MS)
    if act is None:
        ends_ms = NOW_MS + 10 * 365 * 86_400_000
    else:
        assert act.decision != STAY
        assert act.decision == decide(job, attempt, seen, limits=LIMITS, now_ms=act.at_ms)
        ends_ms = act.at_ms
    if ends_ms > NOW_MS:
        for at_ms in (NOW_MS + int((ends_ms - 1 - NOW_MS) * share), ends_ms - 1):
            assert decide(job, attempt, seen, limits=LIMITS, now_ms=at_ms) == STAY


@settings(max_examples=200)
@given(jobs, attempts, observations)
def test_a_later_act_has_its_bound(job: Job, attempt: Attempt, seen: Observation) -> None:
    """What happens later happens by a bound of this phase, with the key and the value of it."""
    act = next_act(job, attempt, seen, limits=LIMITS, now_ms=NOW_MS)
    if act is not None and act.at_ms > NOW_MS:
        assert act.deadline in list(deadlines(job, attempt, limits=LIMITS))
        assert act.deadline is not None
        assert act.deadline.at_ms == act.at_ms


def test_a_boot_that_does_not_end() -> None:
    """The bound of a booting machine, by its key."""
    job = a_job(phase=Phase.BOOTING)
    act = next_act(job, an_attempt(), RUNNING, limits=LIMITS, now_ms=NOW_MS)
    assert act is not None
    assert act.deadline is not None
    assert (act.deadline.bound, act.deadline.value_s) == ("limits.boot_timeout_s", 600.0)
    assert act.at_ms == NOW_MS - 60_000 + 600_000
    assert act.decision.phase is Phase.TERMINATING
