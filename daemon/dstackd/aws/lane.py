"""The calls of one EC2 operation and the buckets that they take from. Law: arithmetic and order; waits for nothing.

What comes back to the buckets is little, on purpose: tokens of a call that was never sent, and the
machine tokens of one that AWS refused for its request rate (a refusal at the door counts no machine).
A launch that was filled in part, or that failed for capacity, has used all that it asked for: AWS does
not say that it gives any back, and counts "the number of resources that are impacted by the request".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

import anyio

from dstackd.core.ec2_limits import Ec2Limits
from dstackd.core.token_bucket import BucketSize, TokenBucket

DELAY_SPREAD_S = 0.5
"""How much longer one call may be on its way to AWS than another (a first TLS handshake, a busy host).

Calls that leave at the right moments may arrive closer together. A bucket that holds what AWS lets fall
in this time less than AWS's own never sends more than AWS accepts, whatever the delays within it.
"""
RATE_CODES = frozenset(
    {"EC2ThrottledException", "RequestLimitExceeded", "RequestThrottled"}
    | {"Throttling", "ThrottlingException"}
)
"""What AWS calls it when a bucket of its own is empty."""


class Urgency(IntEnum):
    """Who goes first when calls wait for room."""

    TERMINATE = 0
    """A machine that nobody needs costs money."""
    DESCRIBE = 1
    """What is known of the machines decides everything else."""
    LAUNCH = 2


def urgency_of(operation: str) -> Urgency:
    """The urgency of an operation's calls."""
    if operation == "TerminateInstances":
        return Urgency.TERMINATE
    return Urgency.LAUNCH if operation == "RunInstances" else Urgency.DESCRIBE


@dataclass(slots=True, eq=False)
class Turn:
    """One call's place in its lane."""

    lane: Lane
    machines: int
    number: int
    """Its place in the order of all calls."""
    is_repeat: bool = False
    """Another HTTP request of a call that has its room already."""
    granted: bool = False
    asleep: bool = False
    """It waits for a time, and looks again by itself."""
    woken: anyio.Event = field(default_factory=anyio.Event)


class Lane:
    """First come, first served, so that a large launch is not overtaken by small ones for ever."""

    def __init__(self, operation: str, *, limits: Ec2Limits, now_s: float) -> None:
        self.operation = operation
        self.urgency = urgency_of(operation)
        self.turns: deque[Turn] = deque()
        """Those that wait."""
        machines = limits.machines(operation)
        self._requests = _bucket(limits.requests(operation), now_s)
        self._machines = None if machines is None else _bucket(machines, now_s)

    def is_first(self, turn: Turn) -> bool:
        """Whether nobody of the lane is before it."""
        return self.turns[0] is turn

    def ready_s(self, turn: Turn, *, now_s: float) -> float:
        """When the tokens of the turn are there: `now_s`, or later."""
        request_s = self._requests.ready_s(1, now_s=now_s)
        if self._machines is None:
            return request_s
        return max(request_s, self._machines.ready_s(turn.machines, now_s=now_s))

    def take(self, turn: Turn, *, now_s: float) -> None:
        """Spend the tokens of a turn that is ready."""
        self._requests = self._requests.take(1, now_s=now_s)
        if self._machines is not None:
            self._machines = self._machines.take(turn.machines, now_s=now_s)

    def give_back(self, turn: Turn, *, now_s: float) -> None:
        """The turn was never used: nothing was sent."""
        self._requests = self._requests.give_back(1, now_s=now_s)
        self._give_machines_back(turn.machines, now_s)

    def throttled(self, message: str, *, machines: int, now_s: float, sent_s: float) -> None:
        """AWS refused a call for `machines` machines. Its message says which bucket was empty, or nothing."""
        if self._machines is not None and "resource rate" in message:
            self._machines = self._machines.throttled(now_s=now_s, sent_s=sent_s)
            return
        self._requests = self._requests.throttled(now_s=now_s, sent_s=sent_s)
        if "request rate" in message:
            self._give_machines_back(machines, now_s)

    def _give_machines_back(self, machines: int, now_s: float) -> None:
        if self._machines is not None:
            self._machines = self._machines.give_back(machines, now_s=now_s)


def _bucket(size: BucketSize, now_s: float) -> TokenBucket:
    """Full, as AWS's is when nobody has called for a while; one token at least, or nobody could call."""
    capacity = max(1.0, size.capacity - DELAY_SPREAD_S * size.refill_per_s)
    return TokenBucket.full(BucketSize(capacity, size.refill_per_s), now_s=now_s)
