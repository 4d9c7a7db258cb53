"""A whole backend, open. Law: the composition root makes one of these and hands its parts out as ports."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from dstackd.aws.access import AwsAccess
from dstackd.aws.bucket import S3Bucket
from dstackd.aws.compute import Ec2Compute
from dstackd.aws.identity import IdentitySetup
from dstackd.aws.logs import CloudWatchLogs
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.session import open_clients
from dstackd.aws.tap import Permit
from dstackd.ports import Bucket, Clock, Compute, LogSource
from dstackd.protocol import job_log_group


@dataclass(frozen=True, slots=True)
class AwsBackend:
    """One region and bucket of one account."""

    compute: Compute
    bucket: Bucket
    logs: LogSource
    identity: IdentitySetup
    recorder: CallRecorder


@asynccontextmanager
async def open_backend(
    access: AwsAccess,
    *,
    owner: str,
    clock: Clock,
    recorder: CallRecorder,
    cache_dir: Path,
    permit: Permit = lambda: None,
) -> AsyncIterator[AwsBackend]:
    """Make every client (about half a second, before serving); close them at the end.

    `permit` raises CloudError while this daemon may not change anything: then no such request leaves.
    `owner` is the installation id that tags the machines. `cache_dir` may be shared by backends and
    need not exist. No call is made before the first use.
    """
    async with open_clients(access, recorder=recorder, clock=clock, permit=permit) as clients:
        compute = Ec2Compute(
            clients,
            access,
            owner=owner,
            clock=clock,
            types_path=anyio.Path(cache_dir / _types_file(access)),
        )
        yield AwsBackend(
            compute=compute,
            bucket=S3Bucket(clients.s3, name=access.bucket),
            logs=CloudWatchLogs(clients.logs, group=job_log_group(access.bucket)),
            identity=IdentitySetup(clients, access, owner=owner, compute=compute),
            recorder=recorder,
        )


def _types_file(access: AwsAccess) -> str:
    """One file a region; the types of a cloud that is not AWS stay apart."""
    elsewhere = access.endpoint_url or ""
    mark = "-" + hashlib.sha256(elsewhere.encode()).hexdigest()[:8] if elsewhere else ""
    return f"instance-types-{access.region}{mark}.json"
