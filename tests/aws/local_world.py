"""The world that is moto's server, corrected, over HTTP. Law: the code under test is the one for AWS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import boto3  # type: ignore[import-untyped] # ships no types
from anyio import to_thread

from dstackd.aws.access import AwsAccess
from dstackd.aws.bucket import S3Bucket
from dstackd.aws.compute import Ec2Compute
from dstackd.aws.identity import Identity, IdentitySetup
from dstackd.aws.logs import CloudWatchLogs
from dstackd.aws.session import Clients
from dstackd.clock import SystemClock
from dstackd.core.instance import Market
from dstackd.core.launching import LaunchRequest
from dstackd.core.lifecycle import Rule
from dstackd.local.cloud import LocalCloud
from dstackd.protocol import job_log_group

REGION = "us-east-1"
INSTANCE_TYPE = "m5.large"
USER_DATA = "#!/bin/sh\n"


class Admin:
    """Calls that the daemon's policy does not allow."""

    def __init__(self, endpoint_url: str) -> None:
        session = boto3.session.Session(
            aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION
        )
        self.ec2: Any = session.client("ec2", endpoint_url=endpoint_url)
        self.s3: Any = session.client("s3", endpoint_url=endpoint_url)
        self.logs: Any = session.client("logs", endpoint_url=endpoint_url)
        self.iam: Any = session.client("iam", endpoint_url=endpoint_url)

    def write_log(self, group: str, stream: str, events: Sequence[tuple[int, str]]) -> None:
        """PutLogEvents, with group and stream made when they are missing."""
        exists = self.logs.exceptions.ResourceAlreadyExistsException
        for create, names in (
            (self.logs.create_log_group, {"logGroupName": group}),
            (self.logs.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            try:
                create(**names)
            except exists:
                continue
        self.logs.put_log_events(
            logGroupName=group,
            logStreamName=stream,
            logEvents=[{"timestamp": at_ms, "message": text} for at_ms, text in events],
        )


@dataclass(frozen=True, slots=True)
class Ground:
    """What all worlds of one run share."""

    cloud: LocalCloud
    admin: Admin
    clients: Clients
    clock: SystemClock
    cache_dir: Path

    def access(self, bucket_name: str) -> AwsAccess:
        """To this cloud, for a bucket."""
        return AwsAccess(
            region=REGION,
            bucket=bucket_name,
            endpoint_url=self.cloud.endpoint_url,
            access_key_id="test",
            secret_access_key="test",
        )


class LocalWorld:
    """A bucket, an owner and a log group of its own on the common ground."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.clock = ground.clock
        self.bucket_name = f"proj-{ground.clock.new_id()}"
        self.sibling_bucket_name = f"{self.bucket_name}-2"
        self.owner = f"owner-{ground.clock.new_id()}"
        self.access = ground.access(self.bucket_name)
        self.compute = self._compute(self.access)
        self.sibling = self._compute(ground.access(self.sibling_bucket_name))
        self.bucket = S3Bucket(ground.clients.s3, name=self.bucket_name)
        self.logs = CloudWatchLogs(ground.clients.logs, group=job_log_group(self.bucket_name))
        self.identity = IdentitySetup(
            ground.clients, self.access, owner=self.owner, compute=self.compute
        )
        ground.admin.s3.create_bucket(Bucket=self.bucket_name)

    def _compute(self, access: AwsAccess) -> Ec2Compute:
        path = anyio.Path(self.ground.cache_dir / "instance-types.json")
        return Ec2Compute(
            self.ground.clients, access, owner=self.owner, clock=self.clock, types_path=path
        )

    async def template(self) -> LaunchRequest:
        """See `World`."""
        identity: Identity = await self.identity.ensure()
        subnet = (await self.compute.subnets())[0]
        return LaunchRequest(
            launch_id="",
            client_token="",
            instance_type=INSTANCE_TYPE,
            subnet_id=subnet.id,
            zone=subnet.zone,
            market=Market.ON_DEMAND,
            count=1,
            image=await self.compute.image("x86_64", gpu=False),
            disk_gib=20,
            user_data=USER_DATA,
            tags=(),
            instance_profile=identity.instance_profile,
            security_group_ids=(identity.security_group_id,),
        )

    async def take_capacity_away(self, instance_type: str) -> None:
        """See `World`."""
        await to_thread.run_sync(
            lambda: self.ground.cloud.control.faults(capacity={f"{instance_type}|*|*": 0})
        )

    async def leave_requests_open(self, count: int) -> None:
        """See `World`."""
        await to_thread.run_sync(lambda: self.ground.cloud.control.faults(left_open_requests=count))

    async def write_log(self, stream: str, events: Sequence[tuple[int, str]]) -> None:
        """See `World`."""
        group = job_log_group(self.bucket_name)
        await to_thread.run_sync(self.ground.admin.write_log, group, stream, events)

    async def write_rules(self, rules: Sequence[Rule]) -> None:
        """See `World`."""
        s3, name = self.ground.admin.s3, self.bucket_name
        if rules:
            wanted = {"Rules": list(rules)}
            put = s3.put_bucket_lifecycle_configuration
            await to_thread.run_sync(lambda: put(Bucket=name, LifecycleConfiguration=wanted))
        else:
            await to_thread.run_sync(lambda: s3.delete_bucket_lifecycle(Bucket=name))

    async def read_rules(self) -> list[Rule]:
        """See `World`."""
        get = self.ground.admin.s3.get_bucket_lifecycle_configuration
        answer = await to_thread.run_sync(lambda: get(Bucket=self.bucket_name))
        return list(answer["Rules"])

    def with_parts_of(self, part_bytes: int) -> S3Bucket:
        """The bucket again, with other parts."""
        return S3Bucket(self.ground.clients.s3, name=self.bucket_name, part_bytes=part_bytes)
