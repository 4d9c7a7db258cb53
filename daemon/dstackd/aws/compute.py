"""EC2 as `ports.Compute`. Law: one page loop, one call a launch; decides nothing about jobs."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import anyio

from dstackd.aws.access import AwsAccess
from dstackd.aws.catalogue import Images, Places, SpotPrices
from dstackd.aws.instances import launched, owned, strangers
from dstackd.aws.kept import Kept
from dstackd.aws.launch_parameters import launch_parameters
from dstackd.aws.session import Clients
from dstackd.aws.spot_requests import cancel_requests, open_requests
from dstackd.aws.termination import terminate
from dstackd.aws.translation import reading
from dstackd.aws.type_catalogue import TypeCatalogue
from dstackd.core.instance import Instance, Snapshot
from dstackd.core.launching import Image, Launched, LaunchRequest
from dstackd.core.offering import InstanceType, Subnet
from dstackd.core.orphan import SpotRequest, Stranger
from dstackd.ports import Clock, Compute
from dstackd.protocol import TAG_BUCKET, TAG_OWNER

INSTANCES_A_PAGE = 1000
"""EC2's maximum; `lean_parser.py` keeps such a page from stalling the loop."""
TYPES_AGE_MAX_S = 3600.0
RECLAIM_CODES = (
    "instance-terminated-no-capacity",
    "instance-terminated-by-price",
    "marked-for-termination",
)
"""Spot request status codes of a machine that EC2 takes back (EC2 User Guide, Spot request status)."""


class Ec2Compute:
    """One backend's machines, told from others by the tags of bucket and owner."""

    def __init__(
        self,
        clients: Clients,
        access: AwsAccess,
        *,
        owner: str,
        clock: Clock,
        types_path: anyio.Path,
    ) -> None:
        self._ec2 = clients.ec2
        self._ec2_launch = clients.ec2_launch
        self._bucket = access.bucket
        self._owner = owner
        self._clock = clock
        types = TypeCatalogue(clients.ec2, path=types_path, clock=clock)
        self._types = Kept(types.read, age_max_s=TYPES_AGE_MAX_S, clock=clock)
        self._places = Places(clients.ec2, access, clock=clock)
        self._spot_prices = SpotPrices(clients.ec2, clock=clock)
        self._images = Images(clients.ec2, access, clock=clock)

    async def snapshot(self) -> Snapshot:
        """See `ports.Compute`."""
        taken_at_ms = self._clock.now_ms()
        found: dict[str, Instance] = {}
        pages = self._ec2.pages(
            "DescribeInstances",
            MaxResults=INSTANCES_A_PAGE,
            Filters=[
                {"Name": f"tag:{TAG_BUCKET}", "Values": [self._bucket]},
                {"Name": f"tag:{TAG_OWNER}", "Values": [self._owner]},
            ],
        )
        async for page in pages:
            for instance in owned(page, bucket=self._bucket, owner=self._owner):
                found[instance.instance_id] = instance
        return Snapshot(taken_at_ms=taken_at_ms, instances=MappingProxyType(found))

    async def reclaimed(self) -> frozenset[str]:
        """See `ports.Compute`."""
        pages = self._ec2.pages(
            "DescribeSpotInstanceRequests",
            MaxResults=INSTANCES_A_PAGE,
            Filters=[
                {"Name": f"tag:{TAG_BUCKET}", "Values": [self._bucket]},
                {"Name": f"tag:{TAG_OWNER}", "Values": [self._owner]},
                {"Name": "status-code", "Values": list(RECLAIM_CODES)},
            ],
        )
        found: set[str] = set()
        async for page in pages:
            with reading("ec2:DescribeSpotInstanceRequests"):
                found |= {each.get("InstanceId", "") for each in page["SpotInstanceRequests"]}
        return frozenset(found - {""})

    async def open_requests(self) -> tuple[SpotRequest, ...]:
        """See `ports.Compute`."""
        return await open_requests(self._ec2, bucket=self._bucket, owner=self._owner)

    async def cancel_requests(self, request_ids: Sequence[str]) -> None:
        """See `ports.Compute`."""
        await cancel_requests(self._ec2, request_ids)

    async def strangers(self) -> tuple[Stranger, ...]:
        """See `ports.Compute`."""
        found: list[Stranger] = []
        pages = self._ec2.pages(
            "DescribeInstances",
            MaxResults=INSTANCES_A_PAGE,
            Filters=[{"Name": f"tag:{TAG_BUCKET}", "Values": [self._bucket]}],
        )
        async for page in pages:
            found += strangers(page, bucket=self._bucket, owner=self._owner)
        return tuple(found)

    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        """See `ports.Compute`."""
        return launched(await self._ec2_launch.call("RunInstances", **launch_parameters(request)))

    async def terminate(self, instance_ids: Sequence[str]) -> None:
        """See `ports.Compute`. Unauthorized for a single machine is raised after the others were asked for."""
        await terminate(self._ec2, instance_ids)

    async def instance_types(self) -> tuple[InstanceType, ...]:
        """See `ports.Compute`."""
        return await self._types.get()

    async def subnets(self) -> tuple[Subnet, ...]:
        """See `ports.Compute`."""
        return await self._places.subnets()

    async def spot_prices(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        """See `ports.Compute`."""
        return await self._spot_prices.read(names)

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        """See `ports.Compute`."""
        return await self._images.image(architecture, gpu=gpu)


if TYPE_CHECKING:
    _: type[Compute] = Ec2Compute
