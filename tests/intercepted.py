"""EC2 and S3 with somebody in between. Law: every call goes by way of `through`, under the name of AWS's operation, and nothing
else happens here: `through` makes the call, or does not, and what it returns is the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from dstackd.core.instance import Snapshot
from dstackd.core.launching import Image, Launched, LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.core.offering import InstanceType, Subnet
from dstackd.core.orphan import SpotRequest, Stranger
from dstackd.ports import Bucket, Compute, ObjectFacts, ObjectHead

T = TypeVar("T")

CONDITIONAL_PUT = "PutObject, if new"


class Through(Protocol):
    """Who is in between. `shown`: what the call is about, for calls that change something."""

    async def __call__(
        self, operation: str, work: Callable[[], Awaitable[T]], shown: str = ""
    ) -> T: ...


class InterceptedCompute:
    """EC2."""

    def __init__(self, inner: Compute, through: Through) -> None:
        self._inner = inner
        self._through = through

    async def snapshot(self) -> Snapshot:
        return await self._through("DescribeInstances", self._inner.snapshot)

    async def reclaimed(self) -> frozenset[str]:
        return await self._through("DescribeSpotInstanceRequests", self._inner.reclaimed)

    async def launch(self, request: LaunchRequest) -> tuple[Launched, ...]:
        shown = f"{request.launch_id} {request.count} {request.instance_type} {request.market}"
        return await self._through("RunInstances", lambda: self._inner.launch(request), shown)

    async def open_requests(self) -> tuple[SpotRequest, ...]:
        return await self._through("DescribeSpotInstanceRequests", self._inner.open_requests)

    async def cancel_requests(self, request_ids: Sequence[str]) -> None:
        shown = " ".join(request_ids)
        await self._through(
            "CancelSpotInstanceRequests", lambda: self._inner.cancel_requests(request_ids), shown
        )

    async def strangers(self) -> tuple[Stranger, ...]:
        return await self._through("DescribeInstances", self._inner.strangers)

    async def terminate(self, instance_ids: Sequence[str]) -> None:
        shown = " ".join(sorted(instance_ids))
        await self._through(
            "TerminateInstances", lambda: self._inner.terminate(instance_ids), shown
        )

    async def instance_types(self) -> tuple[InstanceType, ...]:
        return await self._through("DescribeInstanceTypes", self._inner.instance_types)

    async def subnets(self) -> tuple[Subnet, ...]:
        return await self._through("DescribeSubnets", self._inner.subnets)

    async def spot_prices(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        return await self._through(
            "DescribeSpotPriceHistory", lambda: self._inner.spot_prices(names)
        )

    async def image(self, architecture: str, *, gpu: bool) -> Image:
        return await self._through(
            "DescribeImages", lambda: self._inner.image(architecture, gpu=gpu)
        )


class InterceptedBucket:
    """S3; objects that are read in chunks come by themselves."""

    def __init__(self, inner: Bucket, through: Through) -> None:
        self._inner = inner
        self._through = through

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        operation = CONDITIONAL_PUT if only_if_new else "PutObject"
        await self._through(
            operation, lambda: self._inner.put(key, body, only_if_new=only_if_new), key
        )

    async def put_file(self, key: str, path: Path) -> None:
        await self._through("PutObject", lambda: self._inner.put_file(key, path), key)

    async def exists(self, key: str) -> bool:
        return await self._through("HeadObject", lambda: self._inner.exists(key))

    async def facts(self, key: str) -> ObjectFacts:
        return await self._through("HeadObject", lambda: self._inner.facts(key))

    async def renew(self, key: str) -> None:
        await self._through("CopyObject", lambda: self._inner.renew(key), key)

    async def ensure_rules(self, ours: Sequence[Rule]) -> bool:
        return await self._through(
            "PutBucketLifecycleConfiguration", lambda: self._inner.ensure_rules(ours)
        )

    async def get(self, key: str) -> bytes:
        return await self._through("GetObject", lambda: self._inner.get(key))

    def read(self, key: str) -> AsyncIterator[bytes]:
        return self._inner.read(key)

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        return await self._through("ListObjectsV2", lambda: self._inner.list(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._through("DeleteObjects", lambda: self._inner.delete(keys), f"{len(keys)} keys")
