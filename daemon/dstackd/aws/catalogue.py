"""Subnets, spot prices and images. Law: read-only questions to EC2, each answer kept as long as it stays true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from math import inf

from dstackd.aws.access import AwsAccess
from dstackd.aws.api import Api
from dstackd.aws.kept import Kept
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.core.launching import Image
from dstackd.core.offering import Subnet
from dstackd.errors import InvalidRequest
from dstackd.ports import Clock

SUBNETS_AGE_MAX_S = 60.0
IMAGE_AGE_MAX_S = 6 * 3600.0
SPOT_PRICE_AGE_MAX_S = 300.0
_TYPES_A_CALL = 100
_PRICES = "ec2:DescribeSpotPriceHistory"

GPU_IMAGE_OWNER = "amazon"
GPU_IMAGE_NAMES = {
    "x86_64": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) *",
    "arm64": "Deep Learning ARM64 Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) *",
}
"""Amazon's own, with NVIDIA's driver and container toolkit. Names, because the policy has no
ssm:GetParameter, which is the usual way to the newest image."""
_IMAGE_ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}


class Places:
    """Where machines can go."""

    def __init__(self, ec2: Api, access: AwsAccess, *, clock: Clock) -> None:
        self._ec2 = ec2
        self._access = access
        self._kept = Kept(self._ask, age_max_s=SUBNETS_AGE_MAX_S, clock=clock)

    async def subnets(self) -> tuple[Subnet, ...]:
        """The configured subnet, or the default ones, by zone. InvalidRequest when there is none."""
        return await self._kept.get()

    async def _ask(self) -> tuple[Subnet, ...]:
        configured = self._access.subnet
        filters = {"subnet-id": configured} if configured else {"default-for-az": "true"}
        pages = self._ec2.pages("DescribeSubnets", MaxResults=1000, Filters=_filters(filters))
        found: list[Subnet] = []
        async for page in pages:
            with reading("ec2:DescribeSubnets"):
                found += map(_subnet, page["Subnets"])
        if not found:
            missing = f"subnet {configured}" if configured else "a default VPC with subnets"
            raise InvalidRequest(
                "NoSubnet",
                f"region {self._access.region} does not have {missing}",
                operation="ec2:DescribeSubnets",
                advice="set `subnet` of the backend to one that exists in its region",
            )
        return tuple(sorted(found, key=lambda subnet: (subnet.zone, subnet.id)))


def _subnet(answer: Untyped) -> Subnet:
    return Subnet(
        id=answer["SubnetId"],
        vpc_id=answer["VpcId"],
        zone=answer["AvailabilityZone"],
        free_addresses=int(answer.get("AvailableIpAddressCount", 0)),
    )


def _filters(values: dict[str, str]) -> list[dict[str, Untyped]]:
    return [{"Name": name, "Values": [value]} for name, value in values.items()]


class SpotPrices:
    """What spot machines cost now."""

    def __init__(self, ec2: Api, *, clock: Clock) -> None:
        self._ec2 = ec2
        self._clock = clock
        self._held: dict[str, tuple[float, dict[str, float]]] = {}
        """By type: when asked (monotonic), and USD an hour by zone."""

    async def read(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        """(type, zone) -> USD an hour for Linux; types that nobody sells on spot are missing."""
        now_s = self._clock.monotonic_s()
        old = [name for name in dict.fromkeys(names) if not self._fresh(name, now_s)]
        for start in range(0, len(old), _TYPES_A_CALL):
            batch = old[start : start + _TYPES_A_CALL]
            prices = [entry async for entry in self._ask(batch)]
            self._held.update((name, (now_s, _newest(prices, name))) for name in batch)
        return {
            (name, zone): price for name in names for zone, price in self._held[name][1].items()
        }

    def _fresh(self, name: str, now_s: float) -> bool:
        held = self._held.get(name)
        return held is not None and now_s - held[0] <= SPOT_PRICE_AGE_MAX_S

    async def _ask(self, names: Sequence[str]) -> AsyncIterator[Untyped]:
        # A start time of now makes EC2 answer with the price in effect (DescribeSpotPriceHistory).
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, tz=UTC)
        pages = self._ec2.pages(
            "DescribeSpotPriceHistory",
            InstanceTypes=list(names),
            ProductDescriptions=["Linux/UNIX"],
            StartTime=now,
            MaxResults=1000,
        )
        async for page in pages:
            with reading(_PRICES):
                entries = list(page["SpotPriceHistory"])
            for entry in entries:
                yield entry


@reading(_PRICES)
def _newest(entries: Iterable[Untyped], name: str) -> dict[str, float]:
    ours = [entry for entry in entries if entry["InstanceType"] == name]
    ours.sort(key=lambda entry: entry["Timestamp"])
    return {str(entry["AvailabilityZone"]): _price(entry["SpotPrice"]) for entry in ours}


def _price(written: str) -> float:
    price = float(written)
    if not 0 <= price < inf:  # a NaN is in no order with any other price
        raise ValueError(f"{written!r} is no price")
    return price


class Images:
    """What machines boot."""

    def __init__(self, ec2: Api, access: AwsAccess, *, clock: Clock) -> None:
        self._ec2 = ec2
        self._access = access
        self._clock = clock
        self._kept: dict[tuple[str, bool], Kept[Image]] = {}

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        """The configured AMI, or the newest of its kind. InvalidRequest when there is none."""
        kept = self._kept.setdefault(
            (architecture, gpu),
            Kept(
                partial(self._ask, architecture, gpu=gpu),
                age_max_s=IMAGE_AGE_MAX_S,
                clock=self._clock,
            ),
        )
        return await kept.get()

    async def _ask(self, architecture: str, *, gpu: bool) -> Image:
        kind = f"{architecture}-gpu" if gpu else architecture
        configured = self._access.images.get(kind)
        wanted = {"ImageIds": [configured]} if configured else self._pin(architecture, gpu=gpu)
        answer = await self._ec2.call("DescribeImages", **wanted)
        with reading("ec2:DescribeImages"):
            newest = _newest_image(answer["Images"])
        if newest is None:
            raise InvalidRequest(
                "NoImage",
                f"region {self._access.region} has no image for {kind}",
                operation="ec2:DescribeImages",
                advice=f"set the backend's image for {kind} to an AMI id of its region",
            )
        return newest

    def _pin(self, architecture: str, *, gpu: bool) -> dict[str, Untyped]:
        access = self._access
        ours = access.image_name.replace("{arch}", _IMAGE_ARCHITECTURES[architecture])
        owner, name = (
            (GPU_IMAGE_OWNER, GPU_IMAGE_NAMES[architecture]) if gpu else (access.image_owner, ours)
        )
        filters = {"name": name, "architecture": architecture, "state": "available"}
        return {"Owners": [owner], "Filters": _filters(filters)}


def _newest_image(images: Sequence[Untyped]) -> Image | None:
    if not images:
        return None
    newest = max(images, key=lambda image: str(image.get("CreationDate", "")))
    return Image(
        id=newest["ImageId"],
        root_device=newest["RootDeviceName"],
        disk_gib_min=_root_gib(newest),
    )


def _root_gib(image: Untyped) -> int:
    """Size of the image's root volume, 0 where it does not say."""
    for mapping in image.get("BlockDeviceMappings", []):
        if mapping.get("DeviceName") == image["RootDeviceName"]:
            return int(mapping.get("Ebs", {}).get("VolumeSize", 0))
    return 0
