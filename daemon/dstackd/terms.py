"""What every launch of a backend needs, prepared once. Law: nothing is launched before it is there; preparing again is harmless.

The role and its profile, the security group, the log groups, and the runner in the bucket. IAM shows new things late, so
this is done when the first job wants a machine at the latest, and again until it works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from dstackd import protocol
from dstackd.bootstrap.zipapp import build_runner, user_data
from dstackd.core.limits import Limits
from dstackd.intent import LaunchTerms
from dstackd.ports import Bucket

log = structlog.get_logger(__name__)

EnsureIdentity = Callable[[], Awaitable[tuple[str, tuple[str, ...]]]]
"""Creates or adopts (instance profile, security group ids). May raise any CloudError."""


class LaunchPreparation:
    """Gives the terms out once they hold."""

    def __init__(
        self,
        *,
        backend: str,
        bucket_name: str,
        region: str,
        owner: str,
        bucket: Bucket,
        ensure_identity: EnsureIdentity,
        heartbeat_s: float,
        watch_s: float,
        log_flush_s: float,
        silence_timeout_s: float,
        log_quota_bytes: int | None = None,
        artifact_days: int = 0,
        limits: Limits,
    ) -> None:
        self._bucket = bucket
        self._ensure_identity = ensure_identity
        self._preparing = anyio.Lock()
        self._terms: LaunchTerms | None = None
        self._draft = LaunchTerms(
            backend=backend,
            bucket=bucket_name,
            region=region,
            owner=owner,
            runner_sha256=build_runner().sha256,
            user_data=user_data(),
            instance_profile="",
            security_group_ids=(),
            heartbeat_s=heartbeat_s,
            watch_s=watch_s,
            log_flush_s=log_flush_s,
            silence_timeout_s=silence_timeout_s,
            log_quota_bytes=log_quota_bytes,
            artifact_days=artifact_days,
            limits=limits,
        )

    async def terms(self) -> LaunchTerms:
        """The terms. Raises CloudError while they cannot be prepared."""
        async with self._preparing:
            if self._terms is None:
                self._terms = await self._prepare()
            return self._terms

    async def _prepare(self) -> LaunchTerms:
        bundle = build_runner()
        key = protocol.runner_key(bundle.sha256)
        if not await self._bucket.exists(key):
            await self._bucket.put(key, bundle.content)
        profile, groups = await self._ensure_identity()
        log.info(
            "launches_prepared",
            instance_profile=profile,
            security_groups=groups,
            runner=bundle.sha256,
        )
        return self._draft.with_identity(profile, groups)
