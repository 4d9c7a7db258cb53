"""AWS's published token buckets. Law: arithmetic on the time it is given; a refused request takes no token.

Sizes and refill rates: EC2 API throttling page ("Request token bucket sizes", "Resource token bucket
sizes"), CloudWatch Logs quotas page for FilterLogEvents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BROAD = frozenset({"DescribeInstances", "DescribeSecurityGroups", "DescribeSpotInstanceRequests"})
"""Without a filter and without MaxResults these have a smaller bucket of their own."""


@dataclass(slots=True)
class TokenBucket:
    """Full at first; `refill_s` tokens come back each second."""

    capacity: float
    refill_s: float
    tokens: float = -1.0
    at_s: float = 0.0

    def has(self, count: int, *, now_s: float) -> bool:
        """Whether `count` tokens are there now."""
        if self.tokens < 0:
            self.tokens = self.capacity
        else:
            grown = self.tokens + (now_s - self.at_s) * self.refill_s
            self.tokens = min(self.capacity, grown)
        self.at_s = now_s
        return self.tokens >= count

    def take(self, count: int) -> None:
        """Take them; `has` was asked before."""
        self.tokens -= count


_REQUESTS: Mapping[str, tuple[float, float]] = {
    "RunInstances": (5, 2),
    "TerminateInstances": (100, 5),
    "CancelSpotInstanceRequests": (50, 5),
    "CreateTags": (100, 10),
    "FilterLogEvents": (10, 10),
}
_DESCRIBE, _DESCRIBE_BROAD, _MUTATE = (100.0, 20.0), (50.0, 10.0), (50.0, 5.0)
_RESOURCES: Mapping[str, tuple[float, float]] = {
    "RunInstances": (1000, 2),
    "TerminateInstances": (1000, 20),
}


class Throttles:
    """The buckets of one account and region."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def admit(
        self, operation: str, *, now_s: float, resources: int = 0, broad: bool = False
    ) -> bool:
        """Take the tokens of one call; False: RequestLimitExceeded. Either bucket refuses for both."""
        wanted = [(self._requests(operation, broad=broad), 1)]
        if operation in _RESOURCES:
            bucket = self._bucket(f"{operation} resources", _RESOURCES[operation])
            wanted.append((bucket, resources))
        if not all(bucket.has(count, now_s=now_s) for bucket, count in wanted):
            return False
        for bucket, count in wanted:
            bucket.take(count)
        return True

    def _requests(self, operation: str, *, broad: bool) -> TokenBucket:
        if operation in BROAD and broad:
            return self._bucket(f"{operation} broad", _DESCRIBE_BROAD)
        default = _DESCRIBE if operation.startswith("Describe") else _MUTATE
        return self._bucket(operation, _REQUESTS.get(operation, default))

    def _bucket(self, name: str, size: tuple[float, float]) -> TokenBucket:
        return self._buckets.setdefault(name, TokenBucket(*size))
