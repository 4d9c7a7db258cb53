"""Our token bucket against a model of AWS's, for any pattern of calls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.core.token_bucket import DECREASE, FLOOR, RECOVERY_S, BucketSize, TokenBucket
from dstackd.errors import InvariantError

SIZES = st.builds(
    BucketSize,
    capacity=st.integers(1, 1000).map(float),
    refill_per_s=st.floats(0.1, 100),
)
GAPS_S = st.lists(st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 1000)), max_size=60)


@dataclass
class OfAws:
    """The token bucket of the EC2 developer guide, written as plainly as it is described there."""

    capacity: float
    refill_per_s: float
    tokens: float
    at_s: float = 0.0

    def accepts(self, count: float, at_s: float) -> bool:
        """Whether a call that arrives now is let in; a refused one takes nothing."""
        fallen = (at_s - self.at_s) * self.refill_per_s
        self.tokens, self.at_s = min(self.capacity, self.tokens + fallen), at_s
        if self.tokens < count - 1e-6:  # both sides add floats, each in its own order
            return False
        self.tokens -= count
        return True


def of_aws(size: BucketSize) -> OfAws:
    """AWS's bucket with the same parameters, full."""
    return OfAws(size.capacity, size.refill_per_s, size.capacity)


@settings(deadline=None)
@given(SIZES, GAPS_S, st.data())
def test_what_we_let_through_aws_accepts(
    size: BucketSize, gaps_s: list[float], data: st.DataObject
) -> None:
    """Whenever callers come and however much they take, AWS refuses none of them."""
    bucket, aws, now_s = TokenBucket.full(size, now_s=0), of_aws(size), 0.0
    for gap_s in gaps_s:
        count = data.draw(st.integers(1, int(size.capacity)))
        now_s = bucket.ready_s(count, now_s=now_s + gap_s)
        bucket = bucket.take(count, now_s=now_s)
        assert aws.accepts(count, now_s)


@settings(deadline=None)
@given(SIZES, GAPS_S)
def test_nothing_is_held_back_for_longer_than_aws_would(
    size: BucketSize, gaps_s: list[float]
) -> None:
    """A caller who waits would have been refused a moment before: the whole quota is used."""
    bucket, aws, now_s = TokenBucket.full(size, now_s=0), of_aws(size), 0.0
    for gap_s in gaps_s:
        ready_s = bucket.ready_s(1, now_s=now_s + gap_s)
        if ready_s > now_s + gap_s + 1e-3:
            assert not aws.accepts(1, ready_s - 1e-3)
        bucket = bucket.take(1, now_s=ready_s)
        assert aws.accepts(1, ready_s)
        now_s = ready_s


@settings(deadline=None)
@given(SIZES, st.lists(st.tuples(st.floats(0, 300), st.booleans()), max_size=40))
def test_nobody_starves(size: BucketSize, steps: list[tuple[float, bool]]) -> None:
    """Whatever was taken and throttled, a token is never further away than the floor's refill makes it."""
    bucket, now_s = TokenBucket.full(size, now_s=0), 0.0
    for gap_s, is_throttled in steps:
        now_s += gap_s
        ready_s = bucket.ready_s(1, now_s=now_s)
        assert now_s <= ready_s <= now_s + 1 / (size.refill_per_s * FLOOR) + 1e-6
        bucket = bucket.take(1, now_s=ready_s)
        now_s = ready_s
        if is_throttled:
            bucket = bucket.throttled(now_s=now_s, sent_s=now_s)


@settings(deadline=None)
@given(SIZES, st.floats(0.2, 1), st.integers(0, 5))
def test_the_moment_that_is_named_is_the_first(
    size: BucketSize, part: float, throttles: int
) -> None:
    """`ready_s` is the inverse of the refill, also while the refill grows."""
    bucket = TokenBucket.full(size, now_s=0).take(size.capacity, now_s=0)
    for number in range(throttles):
        bucket = bucket.throttled(now_s=number, sent_s=number)
    count, now_s = size.capacity * part, float(max(throttles - 1, 0))
    ready_s = bucket.ready_s(count, now_s=now_s)
    assert bucket.at(ready_s).tokens == pytest.approx(count)
    assert bucket.take(count, now_s=ready_s).tokens == pytest.approx(0, abs=1e-6)
    early_s = now_s + (ready_s - now_s) * 0.99
    with pytest.raises(InvariantError):
        bucket.take(count, now_s=early_s)


@settings(deadline=None)
@given(SIZES, st.lists(st.floats(0, 100), min_size=1, max_size=10))
def test_looking_changes_nothing(size: BucketSize, gaps_s: list[float]) -> None:
    """A bucket that is looked at often holds what one holds that is looked at once."""
    start = TokenBucket.full(size, now_s=0).take(size.capacity, now_s=0)
    start = start.throttled(now_s=0, sent_s=0)
    bucket, now_s = start, 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        bucket = bucket.at(now_s)
    assert bucket.tokens == pytest.approx(start.at(now_s).tokens)
    assert bucket.refill_per_s == pytest.approx(start.at(now_s).refill_per_s)


@settings(deadline=None)
@given(SIZES)
def test_a_throttle_halves_and_time_heals(size: BucketSize) -> None:
    """The refill is halved once for all calls that were under way together, and whole again after a while."""
    full = TokenBucket.full(size, now_s=0)
    slowed = full.throttled(now_s=3, sent_s=1)
    assert (slowed.tokens, slowed.refill_per_s) == (0, size.refill_per_s * DECREASE)
    assert slowed.throttled(now_s=4, sent_s=2) == slowed
    again = slowed.throttled(now_s=5, sent_s=4)
    assert again.refill_per_s < slowed.refill_per_s
    for number in range(10, 30):
        again = again.throttled(now_s=number, sent_s=number)
        assert again.refill_per_s >= size.refill_per_s * FLOOR
    healed = again.at(30 + RECOVERY_S)
    assert healed.refill_per_s == pytest.approx(size.refill_per_s)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.25, 1), st.floats(0, 0.2))
def test_a_share_of_the_quota_is_found(share: float, answer_s: float) -> None:
    """Where others use a part of AWS's bucket, we come to rest near what is left, with few refusals."""
    size = BucketSize(50, 10)
    aws = OfAws(size.capacity, size.refill_per_s * share, size.capacity)
    bucket, now_s, accepted, refused = TokenBucket.full(size, now_s=0), 0.0, 0, 0
    while now_s < 200:
        now_s = bucket.ready_s(1, now_s=now_s)
        bucket = bucket.take(1, now_s=now_s)
        if aws.accepts(1, now_s):
            accepted += 1
        else:
            refused += 1
            bucket = bucket.throttled(now_s=now_s + answer_s, sent_s=now_s)
            now_s += answer_s
    assert accepted >= 0.6 * 200 * size.refill_per_s * share
    assert refused <= 0.05 * accepted


def test_more_than_fits_takes_a_full_bucket() -> None:
    """A take of more than the capacity waits for all of it, and those after it wait for the rest."""
    bucket = TokenBucket.full(BucketSize(10, 2), now_s=0).take(4, now_s=0)
    assert bucket.ready_s(16, now_s=0) == 2
    owing = bucket.take(16, now_s=2)
    assert owing.tokens == -6
    assert owing.ready_s(1, now_s=2) == 5.5
    assert owing.throttled(now_s=2, sent_s=2).tokens == -6


def test_what_comes_back_fits_in() -> None:
    """Tokens that were not used are there again, and never more than the bucket holds."""
    bucket = TokenBucket.full(BucketSize(10, 2), now_s=0).take(8, now_s=0)
    assert bucket.give_back(5, now_s=0).tokens == 7
    assert bucket.give_back(8, now_s=1).tokens == 10
