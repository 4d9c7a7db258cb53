"""What EC2 shows of one machine. Law: Absent is not Unknown, and nothing destructive follows from Unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Market(StrEnum):
    """What EC2 calls InstanceMarketOptions: how the machine is bought."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


class InstanceState(StrEnum):
    """EC2's own instance states (InstanceState.Name)."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance in a snapshot."""

    instance_id: str
    state: InstanceState
    launch_id: str
    """From the tag `dstackd:launch`; empty when the tag is missing."""
    launch_index: int
    instance_type: str
    zone: str
    market: Market
    launched_at_ms: int
    spot_request_id: str = ""
    private_ip: str = ""
    state_reason: str = ""
    """EC2's StateReason.Code, such as `Server.SpotInstanceTermination`; empty while it runs."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything of ours that EC2 showed in one paged, tagged sweep.

    `taken_at_ms` is the time *before* the first page was asked for: what was launched later may be missing.
    """

    taken_at_ms: int
    instances: Mapping[str, Instance] = field(default_factory=lambda: MappingProxyType({}))


class Seen(StrEnum):
    """What a snapshot tells about one expected machine."""

    UNKNOWN = "unknown"
    """Nothing: no snapshot, or the machine is too young for this one."""
    ABSENT = "absent"
    """EC2 does not list it, and would if it existed."""
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    """Stopped or stopping: never ours to restart, it still costs its volume."""
    LEAVING = "leaving"
    GONE = "gone"


SPOT_RECLAIM_REASONS = frozenset({"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"})


@dataclass(frozen=True, slots=True)
class Observation:
    """One machine as seen in one snapshot."""

    seen: Seen
    state_reason: str = ""

    @property
    def reclaimed(self) -> bool:
        """EC2 took the spot machine back."""
        return self.state_reason in SPOT_RECLAIM_REASONS

    @property
    def over(self) -> bool:
        """The machine is certainly not running any more."""
        return self.seen in {Seen.ABSENT, Seen.GONE}


UNKNOWN = Observation(Seen.UNKNOWN)
