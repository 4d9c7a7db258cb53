"""A world is a cloud behind the ports, plus what only a test may do to it.

Law: knows the ports and no implementation, so that one suite holds every implementation to the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from dstackd.core.instance import Market
from dstackd.core.launching import LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.ports import Bucket, Clock, Compute, LogSource
from dstackd.protocol import TAG_BUCKET, TAG_LAUNCH, TAG_OWNER


class World(Protocol):
    """One backend, its sibling, and the hand of fate."""

    @property
    def bucket_name(self) -> str: ...

    @property
    def owner(self) -> str: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def compute(self) -> Compute: ...

    @property
    def bucket(self) -> Bucket: ...

    @property
    def logs(self) -> LogSource: ...

    @property
    def sibling(self) -> Compute:
        """Of another backend in the same account: its bucket's name begins with ours."""
        ...

    @property
    def sibling_bucket_name(self) -> str: ...

    async def template(self) -> LaunchRequest:
        """A request that the cloud accepts, for one on-demand machine of ours."""
        ...

    async def take_capacity_away(self, instance_type: str) -> None:
        """From now on nobody can launch this type."""
        ...

    async def leave_requests_open(self, count: int) -> None:
        """So many of the next spot launches that find no capacity leave a request behind that waits."""
        ...

    async def write_log(self, stream: str, events: Sequence[tuple[int, str]]) -> None:
        """Write (time in ms, message) to a stream of our jobs' group; both come to be when missing."""
        ...

    async def write_rules(self, rules: Sequence[Rule]) -> None:
        """Somebody else gives the bucket exactly these lifecycle rules; none: it has none."""
        ...

    async def read_rules(self) -> list[Rule]:
        """The bucket's lifecycle rules, as S3 shows them to anybody."""
        ...


async def a_request(
    world: World,
    launch_id: str,
    *,
    count: int = 1,
    market: Market = Market.ON_DEMAND,
    bucket_name: str | None = None,
    instance_type: str | None = None,
) -> LaunchRequest:
    """A launch of ours, or of a sibling when `bucket_name` says so."""
    template = await world.template()
    tags = {
        TAG_BUCKET: bucket_name or world.bucket_name,
        TAG_OWNER: world.owner,
        TAG_LAUNCH: launch_id,
    }
    return replace(
        template,
        launch_id=launch_id,
        client_token=f"{world.bucket_name}-{launch_id}",
        count=count,
        market=market,
        tags=tuple(tags.items()),
        instance_type=instance_type or template.instance_type,
    )
