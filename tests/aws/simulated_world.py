"""The world that is the simulated cloud. Law: in memory, on a clock that nobody moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstackd.core.launching import LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.simulated.clock import SimulatedClock
from dstackd.simulated.cloud import SimulatedCloud
from dstackd.simulated.faults import Faults
from tests.aws.worlds import World
from tests.builders import a_request


class SimulatedWorld:
    """Implements `World`."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        # These tests read what they have just written.
        self._cloud = SimulatedCloud(self.clock, faults=Faults(log_lag_s=0.0))
        self.bucket_name = self._cloud.bucket_name
        self.owner = self._cloud.owner
        self.compute = self._cloud.compute
        self.bucket = self._cloud.bucket
        self.logs = self._cloud.logs
        self.sibling_bucket_name = f"{self.bucket_name}-2"
        self.sibling = self._cloud.compute_of(self.sibling_bucket_name)

    async def template(self) -> LaunchRequest:
        """See `World`."""
        return a_request()

    async def take_capacity_away(self, instance_type: str) -> None:
        """See `World`."""
        self._cloud.faults.capacity[f"{instance_type}|*|*"] = 0

    async def leave_requests_open(self, count: int) -> None:
        """See `World`."""
        self._cloud.faults.left_open = count

    async def write_log(self, stream: str, events: Sequence[tuple[int, str]]) -> None:
        """See `World`."""
        for at_ms, message in events:
            self.logs.write(stream, message, at_ms=at_ms)

    async def write_rules(self, rules: Sequence[Rule]) -> None:
        """See `World`."""
        self.bucket.rules = list(rules)

    async def read_rules(self) -> list[Rule]:
        """See `World`."""
        return list(self.bucket.rules)


if TYPE_CHECKING:
    _: type[World] = SimulatedWorld
