"""What a script does that only launches. Law: the same SDK and the same calls as the daemon, no queue and nothing after the launch.

Both scripts know the published buckets and send no call before its token should be there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import anyio
from aiobotocore.config import AioConfig  # type: ignore[import-untyped] # aiobotocore ships no types
from aiobotocore.session import get_session  # type: ignore[import-untyped] # as above
from botocore.exceptions import ClientError  # type: ignore[import-untyped] # botocore ships no types

from dstackd.aws.untyped import Untyped
from tests.benchmarks.launch.cloud import FakeCloud
from tests.benchmarks.launch.ec2_xml import subnet_id
from tests.benchmarks.launch.plan import REGION

BURST = 5
REFILL_S = 2.0
MARGIN_S = 0.1
"""After the burst: a call on the very moment of its token would come early, since the tokens of the first calls begin to
come back when these have arrived. One that comes early all the same is sent again after this time.
"""
EARLY_MAX = 50
BATCH_MAX = 100


def launch_alone(cloud: FakeCloud, jobs: int) -> float:
    """One RunInstances for each job, paced; seconds until the last one is answered."""
    return _run(cloud, [("c5.large", 1)] * jobs)


def launch_batched(cloud: FakeCloud, jobs: int, *, shapes: Sequence[str] = ("c5.large",)) -> float:
    """As few calls as there can be, paced; seconds until the last one is answered."""
    each = jobs // len(shapes)
    return _run(
        cloud,
        [
            (shape, min(BATCH_MAX, each - start))
            for shape in shapes
            for start in range(0, each, BATCH_MAX)
        ],
    )


def paced_floor_s(calls: int) -> float:
    """When the token for the last of `calls` is there: (n - 5) / 2 seconds."""
    return max(0.0, (calls - BURST) / REFILL_S)


def _run(cloud: FakeCloud, calls: Sequence[tuple[str, int]]) -> float:
    cloud.fresh()
    return asyncio.run(_launch(cloud.endpoint_url, calls))


async def _launch(endpoint_url: str, calls: Sequence[tuple[str, int]]) -> float:
    session = get_session()
    config = AioConfig(
        max_pool_connections=64, retries={"mode": "standard", "total_max_attempts": 1}
    )
    async with session.create_client(
        "ec2",
        region_name=REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id="AKIAOFTHESCRIPT",
        aws_secret_access_key="of no meaning",
        config=config,
    ) as client:
        await client.describe_subnets(MaxResults=5)  # the first call of a client takes longer
        began_s = time.monotonic()
        async with anyio.create_task_group() as group:
            for number, (kind, count) in enumerate(calls):
                due_s = paced_floor_s(number + 1)
                margin_s = MARGIN_S if due_s else 0.0
                group.start_soon(_one, client, kind, count, began_s + due_s + margin_s)
        return time.monotonic() - began_s


async def _one(client: Untyped, kind: str, count: int, due_s: float) -> None:
    await anyio.sleep(max(0.0, due_s - time.monotonic()))
    for _ in range(EARLY_MAX):
        if await _launched(client, kind, count):
            return
        await anyio.sleep(MARGIN_S)
    message = f"the script was throttled {EARLY_MAX} times in a row"
    raise RuntimeError(message)


async def _launched(client: Untyped, kind: str, count: int) -> bool:
    try:
        await client.run_instances(
            ImageId="ami-1",
            InstanceType=kind,
            MinCount=1,
            MaxCount=count,
            UserData="#!/bin/sh\n",
            SubnetId=subnet_id(0),
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "owner", "Value": "script"}]}
            ],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "RequestLimitExceeded":
            raise
        return False
    return True
