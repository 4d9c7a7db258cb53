"""The arithmetic of a token bucket that learns from throttles. Law: pure; `now_s` is any clock that never steps back.

Additive increase, multiplicative decrease: a throttle halves the refill and empties the bucket, and
from then on the refill grows evenly back to the published one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dstackd.errors import require

DECREASE = 0.5
"""What a throttle leaves of the refill."""
FLOOR = 0.1
"""The part of the published refill that no throttle takes away: nobody waits for ever."""
RECOVERY_S = 120.0
"""From nothing to the published refill. After one throttle the refill is whole again in half of it."""
_ROUNDING = 1e-9
"""Tokens that may be missing: what a sum of floats is off by."""


@dataclass(frozen=True, slots=True)
class BucketSize:
    """As AWS publishes it: tokens at most, and tokens a second. Both are positive."""

    capacity: float
    refill_per_s: float


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket at a moment; every method that changes it returns another one."""

    size: BucketSize
    tokens: float
    """Negative after a take of more than the capacity: a debt."""
    refill_per_s: float
    """What it is now, at most the published one."""
    at_s: float
    """When `tokens` and `refill_per_s` held."""
    slowed_at_s: float = -math.inf
    """The last throttle that counted."""

    @classmethod
    def full(cls, size: BucketSize, *, now_s: float) -> TokenBucket:
        """A bucket that nobody has taken from."""
        return cls(size, size.capacity, size.refill_per_s, now_s)

    def at(self, now_s: float) -> TokenBucket:
        """The bucket later on."""
        elapsed_s = max(now_s - self.at_s, 0.0)
        growing_s = min(elapsed_s, self._growth_left_s)
        grown = self.refill_per_s + self._growth * growing_s
        fallen = (self.refill_per_s + grown) / 2 * growing_s + self.size.refill_per_s * (
            elapsed_s - growing_s
        )
        return replace(
            self,
            tokens=min(self.size.capacity, self.tokens + fallen),
            refill_per_s=min(grown, self.size.refill_per_s),
            at_s=max(now_s, self.at_s),
        )

    def ready_s(self, count: float, *, now_s: float) -> float:
        """When `count` tokens may be taken: `now_s`, or later. More than the capacity needs a full bucket."""
        bucket = self.at(now_s)
        missing = min(count, self.size.capacity) - bucket.tokens
        return bucket.at_s + bucket._seconds_for(missing)  # noqa: SLF001 - of the same class

    def take(self, count: float, *, now_s: float) -> TokenBucket:
        """The bucket without `count` tokens. InvariantError before `ready_s`."""
        bucket = self.at(now_s)
        is_ready = bucket.ready_s(count, now_s=now_s) <= bucket.at_s
        require(is_ready, "tokens are taken when they are there")
        return replace(bucket, tokens=bucket.tokens - count)

    def give_back(self, count: float, *, now_s: float) -> TokenBucket:
        """The bucket with `count` tokens that were taken and never used."""
        bucket = self.at(now_s)
        return replace(bucket, tokens=min(self.size.capacity, bucket.tokens + count))

    def throttled(self, *, now_s: float, sent_s: float) -> TokenBucket:
        """The bucket after AWS refused a call that was sent at `sent_s`.

        Calls that were under way together are refused together, which is one lesson: a call that was
        sent before the last throttle teaches nothing.
        """
        if sent_s <= self.slowed_at_s:
            return self
        bucket = self.at(now_s)
        slower = max(bucket.refill_per_s * DECREASE, self.size.refill_per_s * FLOOR)
        return replace(
            bucket, tokens=min(bucket.tokens, 0.0), refill_per_s=slower, slowed_at_s=now_s
        )

    @property
    def _growth(self) -> float:
        """Tokens a second, a second."""
        return self.size.refill_per_s / RECOVERY_S

    @property
    def _growth_left_s(self) -> float:
        return max(self.size.refill_per_s - self.refill_per_s, 0.0) / self._growth

    def _seconds_for(self, missing: float) -> float:
        """How long that many tokens take to fall; the inverse of what `at` adds."""
        if missing <= _ROUNDING:
            return 0.0
        left_s = self._growth_left_s
        while_growing = (self.refill_per_s + self.size.refill_per_s) / 2 * left_s
        if missing >= while_growing:
            return left_s + (missing - while_growing) / self.size.refill_per_s
        # growth/2 t^2 + refill t = missing, in the form that does not cancel
        root = math.sqrt(self.refill_per_s**2 + 2 * self._growth * missing)
        return 2 * missing / (self.refill_per_s + root)
