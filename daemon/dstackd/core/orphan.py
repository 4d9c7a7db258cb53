"""Machines and spot requests that nobody needs. Law: only what carries our tags, is old enough, and has no live attempt is an orphan.

One look proves nothing: EC2 shows new things late, and a table is read after a snapshot. What is an orphan in two looks
is one (`confirmed`); a look in which it is none takes the mark off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from dstackd.core.instance import Instance, InstanceState, Snapshot

ORPHAN_GRACE_MS = 120_000
"""A machine younger than this is never an orphan: its launch may still be on its way into the table."""
LOOKS_APART_MS = 5_000
"""Between two looks that confirm each other."""
STUCK_AFTER_S = 900.0
"""From the time when nobody needs a machine any more to the alarm that it is still there."""
STUCK_REPEAT_MS = 60_000
"""Between two requests to terminate a machine that is stuck, whatever state EC2 shows."""

_COSTS_MONEY = frozenset(
    {InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING, InstanceState.STOPPED}
)


class Standing(StrEnum):
    """What a machine of this bucket is to this installation."""

    NEEDED = "needed"
    """An attempt that is not over has it."""
    IDLE = "idle"
    """It waits for another job, and may."""
    ANSWERING = "answering"
    """Its launch has no saved answer yet: it is somebody's, nobody knows whose."""
    YOUNG = "young"
    """Nobody's so far, and too young to be judged."""
    LEAVING = "leaving"
    """Asked to terminate, or ending itself."""
    STUCK = "stuck"
    """Leaving for too long."""
    ORPHAN = "orphan"
    """Nobody needs it; one look has said so, or none yet."""
    CONFIRMED = "confirmed"
    """An orphan in two looks: it is terminated."""
    FOREIGN = "foreign"
    """Another installation's in the same bucket. Shown, never touched."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A machine with our bucket's tag and the mark of another installation, or of none."""

    owner: str
    instance: Instance


class RequestState(StrEnum):
    """EC2's states of a spot request (EC2 User Guide, "Spot request states")."""

    OPEN = "open"
    """Waiting to be fulfilled."""
    ACTIVE = "active"
    """Fulfilled: it has an instance."""
    CLOSED = "closed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DISABLED = "disabled"
    """Its instance was stopped: persistent requests only, which are never made here."""


@dataclass(frozen=True, slots=True)
class SpotRequest:
    """One record of DescribeSpotInstanceRequests, with our tags.

    RunInstances with InstanceMarketOptions answers when its one-time requests are fulfilled, or with an error, so a
    request of ours is `active` with an instance, and `closed` with its end. One that is `open` can still become a
    machine which no launch knows.
    """

    id: str
    state: RequestState
    launch_id: str
    created_at_ms: int
    status_code: str = ""


def is_orphan(
    instance: Instance,
    *,
    needed_ids: AbstractSet[str],
    open_launch_ids: AbstractSet[str],
    now_ms: int,
) -> bool:
    """Whether the machine is nobody's. See `find_orphans`."""
    return (
        instance.state in _COSTS_MONEY
        and instance.instance_id not in needed_ids
        and instance.launch_id not in open_launch_ids
        and now_ms - instance.launched_at_ms > ORPHAN_GRACE_MS
    )


def find_orphans(
    snapshot: Snapshot,
    *,
    needed_ids: AbstractSet[str],
    open_launch_ids: AbstractSet[str],
    now_ms: int,
) -> tuple[Instance, ...]:
    """Machines in `snapshot` without a live attempt.

    `needed_ids`: instances of attempts that are not over. `open_launch_ids`: launches without a saved answer;
    their machines are somebody's, we just do not know yet whose. Both must be read *after* the snapshot was
    taken, so that a launch saved in between does not look like an orphan.
    """
    return tuple(
        instance
        for instance in snapshot.instances.values()
        if is_orphan(
            instance, needed_ids=needed_ids, open_launch_ids=open_launch_ids, now_ms=now_ms
        )
    )


def find_unwanted(
    requests: Iterable[SpotRequest], *, open_launch_ids: AbstractSet[str], now_ms: int
) -> tuple[SpotRequest, ...]:
    """Spot requests that are to be cancelled: `open` for too long, and their launch has its answer.

    Cancelling does not end an instance (EC2 User Guide, "Cancel a Spot Instance request"), so one that is `active`
    is left alone: its machine is judged as a machine, and its status is how a reclaim is noticed.
    """
    return tuple(
        request
        for request in requests
        if request.state is RequestState.OPEN
        and request.launch_id not in open_launch_ids
        and now_ms - request.created_at_ms > ORPHAN_GRACE_MS
    )


@dataclass(frozen=True, slots=True)
class Marks:
    """When each suspect was first looked at, by id; times are those of the looks."""

    since_ms: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def after(self, suspects: Iterable[str], *, looked_at_ms: int) -> Marks:
        """The marks once a look has shown just these: old marks stay, who is not among them has none."""
        return Marks({each: self.since_ms.get(each, looked_at_ms) for each in suspects})

    def confirms(self, suspect: str, *, looked_at_ms: int) -> bool:
        """Whether an earlier look has said the same."""
        since_ms = self.since_ms.get(suspect)
        return since_ms is not None and looked_at_ms - since_ms >= LOOKS_APART_MS


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a machine beside what EC2 shows."""

    job: bool = False
    """An attempt that is not over has it."""
    idle: bool = False
    suspected: bool = False
    confirmed: bool = False
    leaving_since_ms: int | None = None
    """Since when nobody needs it, where that is written."""


def standing_of(instance: Instance, known: Known, *, now_ms: int) -> Standing:
    """What one of our machines is. Who leaves is asked already, whatever else is known."""
    if known.leaving_since_ms is not None:
        return Standing.STUCK if is_stuck(known.leaving_since_ms, now_ms) else Standing.LEAVING
    if instance.state is InstanceState.SHUTTING_DOWN:
        return Standing.LEAVING
    if known.suspected:
        return Standing.CONFIRMED if known.confirmed else Standing.ORPHAN
    if known.job:
        return Standing.NEEDED
    if known.idle:
        return Standing.IDLE
    young = now_ms - instance.launched_at_ms <= ORPHAN_GRACE_MS
    return Standing.YOUNG if young else Standing.ANSWERING


def is_stuck(leaving_since_ms: int, now_ms: int) -> bool:
    """Whether a machine that nobody needs is there for too long."""
    return now_ms - leaving_since_ms > STUCK_AFTER_S * 1000
