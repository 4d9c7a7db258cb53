"""From queued jobs to launch intents. Law: the whole RunInstances request is a function of the intent, frozen before the call.

Jobs whose machines would be alike share one call (MinCount=1, MaxCount=n); `ami-launch-index` tells them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dstackd.core.avoidance import avoided
from dstackd.core.instance import Market
from dstackd.core.job import Job
from dstackd.core.offering import Offering
from dstackd.core.quota import quota_key

BATCH_MAX = 100
"""EC2's advice for RunInstances: several requests of 100 rather than one of 500 (RunInstances API reference)."""


@dataclass(frozen=True, slots=True)
class Image:
    """An AMI and what a launch needs to know of it."""

    id: str
    root_device: str
    disk_gib_min: int = 0
    """Size of its root snapshot: EC2 refuses a smaller volume."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Everything that RunInstances is told. Stored with the intent; a replay reads it from there."""

    launch_id: str
    client_token: str
    instance_type: str
    subnet_id: str
    zone: str
    market: Market
    count: int
    image: Image
    disk_gib: int
    user_data: str
    tags: tuple[tuple[str, str], ...]
    instance_profile: str
    security_group_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Launched:
    """One instance of RunInstances' answer."""

    instance_id: str
    launch_index: int
    launched_at_ms: int
    """EC2's LaunchTime."""
    spot_request_id: str = ""
    private_ip: str = ""


def shape_of(job: Job) -> tuple[object, ...]:
    """Jobs of equal shape can share a launch: the machine, not the work, has to be equal."""
    spec = job.spec
    return (
        spec.resources,
        spec.instance_types,
        spec.spot_policy,
        spec.max_price,
        job.project,
        avoided(job),
    )


def group_by_shape(jobs: Iterable[Job]) -> tuple[tuple[Job, ...], ...]:
    """Groups in the order in which their first job came."""
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(shape_of(job), []).append(job)
    return tuple(tuple(group) for group in groups.values())


def client_token(launch_id: str, offering: Offering) -> str:
    """At most 64 ASCII characters, equal for equal intents.

    EC2's idempotency is zonal: the same token in another zone launches again, so the offering is part of it
    (EC2 API reference, Ensuring idempotency).
    """
    digest = hashlib.sha256(f"{launch_id}|{offering.key}".encode()).hexdigest()
    return f"dstackd-{digest[:48]}"


def batches(jobs: Sequence[Job], *, size_max: int = BATCH_MAX) -> Iterable[Sequence[Job]]:
    """`jobs` in runs of at most `size_max`."""
    for start in range(0, len(jobs), size_max):
        yield jobs[start : start + size_max]


@dataclass(frozen=True, slots=True)
class Block:
    """Something not to ask for until a time, and why."""

    until_ms: int
    message: str
    """The refusal in words: its code, what AWS said, and what would help."""
    code: str = ""
    advice: str = ""
    since_ms: int = 0
    """When the refusals began that go on until now."""
    awaits_room: bool = False
    """A quota is used up by our own machines: one that ends opens it before `until_ms`."""


def block_of(offering: Offering, blocks: Mapping[str, Block], *, now_ms: int) -> Block | None:
    """The block that rules the offering out the longest. Keys of `blocks`: see `block_keys`."""
    hits = [block for key in block_keys(offering) if (block := blocks.get(key)) is not None]
    holding = [block for block in hits if now_ms < block.until_ms]
    return max(holding, key=lambda block: block.until_ms, default=None)


def block_keys(offering: Offering) -> tuple[str, str, str, str, str]:
    """The names under which an offering can be blocked, by scope: offering, quota, subnet, market, region."""
    return (
        f"offering:{offering.key}",
        f"quota:{quota_key(offering.instance_type, offering.market)}",
        f"subnet:{offering.subnet_id}",
        f"market:{offering.market}",
        "region:",
    )
