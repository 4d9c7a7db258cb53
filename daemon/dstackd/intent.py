"""From jobs and an offering to a frozen request and its document. Law: pure; equal arguments give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dstackd import launch_document, protocol
from dstackd.core.job import Job
from dstackd.core.launching import Image, LaunchRequest, client_token
from dstackd.core.lifecycle import keep_days
from dstackd.core.lifetime import lifetime_s
from dstackd.core.limits import Limits
from dstackd.core.offering import Offering
from dstackd.launch_document import (
    ArtifactDocument,
    ContainerDocument,
    InputDocument,
    JobDocument,
    LaunchDocument,
    RegistryAuthDocument,
    S3InputDocument,
)
from dstackd.spec.model import InputSpec, JobSpec


@dataclass(frozen=True, slots=True)
class LaunchTerms:
    """What is equal for every launch of a backend."""

    backend: str
    bucket: str
    region: str
    owner: str
    runner_sha256: str
    user_data: str
    instance_profile: str
    security_group_ids: tuple[str, ...]
    heartbeat_s: float
    watch_s: float
    log_flush_s: float
    silence_timeout_s: float = launch_document.SILENCE_TIMEOUT_S
    log_quota_bytes: int | None = None
    artifact_days: int = 0
    """How long artifacts are kept; 0 is for ever."""
    image: Image = field(default_factory=lambda: Image("", ""))
    limits: Limits = field(default_factory=Limits)

    def with_identity(self, profile: str, groups: tuple[str, ...]) -> LaunchTerms:
        """The same terms under a role and security groups."""
        return replace(self, instance_profile=profile, security_group_ids=groups)

    def with_image(self, image: Image) -> LaunchTerms:
        """The same terms for one architecture's image."""
        return replace(self, image=image)


def request_for(
    launch_id: str, batch: Sequence[Job], offering: Offering, terms: LaunchTerms
) -> LaunchRequest:
    """The whole RunInstances request."""
    return LaunchRequest(
        launch_id=launch_id,
        client_token=client_token(launch_id, offering),
        instance_type=offering.instance_type,
        subnet_id=offering.subnet_id,
        zone=offering.zone,
        market=offering.market,
        count=len(batch),
        image=terms.image,
        disk_gib=max(batch[0].spec.resources.disk_gib, terms.image.disk_gib_min),
        user_data=terms.user_data,
        tags=(
            ("Name", f"dstackd-{launch_id}"),
            ("owner", "dstackd"),
            (protocol.TAG_BUCKET, terms.bucket),
            (protocol.TAG_OWNER, terms.owner),
            (protocol.TAG_LAUNCH, launch_id),
            (protocol.TAG_RUNNER, terms.runner_sha256),
            (
                protocol.TAG_LIFETIME,
                str(lifetime_s((job.spec for job in batch), limits=terms.limits)),
            ),
        ),
        instance_profile=terms.instance_profile,
        security_group_ids=terms.security_group_ids,
    )


def document_for(launch_id: str, batch: Sequence[Job], terms: LaunchTerms) -> str:
    """The launch document's text."""
    document = LaunchDocument(
        launch_id=launch_id,
        bucket=terms.bucket,
        region=terms.region,
        heartbeat_s=terms.heartbeat_s,
        watch_s=terms.watch_s,
        log_flush_s=terms.log_flush_s,
        silence_timeout_s=terms.silence_timeout_s,
        jobs=tuple(_job_document(index, job, terms) for index, job in enumerate(batch)),
    )
    return launch_document.encode(document).decode()


def _job_document(index: int, job: Job, terms: LaunchTerms) -> JobDocument:
    spec = job.spec
    return JobDocument(
        index=index,
        job_id=job.id,
        attempt=job.attempt + 1,
        name=spec.name or job.id,
        commands=spec.commands,
        env=dict(spec.env),
        working_dir=spec.working_dir,
        # The names in a tar are those in the job's folder, so that a file can be an input as well as a folder.
        inputs=tuple(InputDocument(sha256=digest) for digest in job.inputs_digest),
        s3_inputs=tuple(_s3_input(each) for each in spec.inputs if each.is_s3),
        artifacts=tuple(ArtifactDocument(each.path, each.every_s) for each in spec.artifacts),
        log_quota_bytes=terms.log_quota_bytes,
        artifact_keep_days=keep_days(terms.artifact_days, attempt_s=_longest_s(spec, terms)),
        max_duration_s=spec.max_duration_s,
        stop_grace_s=spec.stop_grace_s,
        stop_signal=spec.stop_signal,
        container=_container_document(spec),
        permissions=spec.permissions,
        reuse_s=spec.reuse_s,
        resume=spec.resume,
        resume_from=tuple(range(job.attempt, 0, -1)) if spec.resume else (),
        array_index=job.array_index,
    )


def _longest_s(spec: JobSpec, terms: LaunchTerms) -> float:
    """How long one attempt can last: its machine ends itself, whatever runs."""
    lifetime_s = terms.limits.machine_lifetime_s
    return lifetime_s if spec.max_duration_s is None else min(spec.max_duration_s, lifetime_s)


def _s3_input(source: InputSpec) -> S3InputDocument:
    bucket, _, prefix = source.source.removeprefix("s3://").partition("/")
    return S3InputDocument(bucket=bucket, prefix=prefix, target=source.target)


def _container_document(spec: JobSpec) -> ContainerDocument | None:
    if spec.image is None:
        return None
    auth, gpu = spec.registry_auth, spec.resources.gpu
    return ContainerDocument(
        image=spec.image,
        registry_auth=RegistryAuthDocument(auth.username, auth.password) if auth else None,
        shm_size_mib=spec.resources.shm_size_mib,
        gpus=(gpu.count.min or 1) if gpu else 0,
    )
