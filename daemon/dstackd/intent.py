"""From jobs and an offering to a frozen request and its document. Law: pure; equal arguments give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dstackd import launch_document, protocol
from dstackd.core.job import Job
from dstackd.core.launching import Image, LaunchRequest, client_token
from dstackd.core.offering import Offering
from dstackd.launch_document import (
    ArtifactDocument,
    ContainerDocument,
    InputDocument,
    JobDocument,
    LaunchDocument,
    RegistryAuthDocument,
)
from dstackd.spec.model import JobSpec


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
    image: Image = field(default_factory=lambda: Image("", ""))

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
        jobs=tuple(_job_document(index, job) for index, job in enumerate(batch)),
    )
    return launch_document.encode(document).decode()


def _job_document(index: int, job: Job) -> JobDocument:
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
        artifacts=tuple(ArtifactDocument(each.path, each.every_s) for each in spec.artifacts),
        max_duration_s=spec.max_duration_s,
        stop_grace_s=spec.stop_grace_s,
        stop_signal=spec.stop_signal,
        container=_container_document(spec),
        permissions=spec.permissions,
        reuse_s=spec.reuse_s,
        resume_from=tuple(range(job.attempt, 0, -1)) if spec.resume else (),
        array_index=job.array_index,
    )


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
