"""What the daemon's launch of one machine leaves in the bucket and in the machine's tags."""

from __future__ import annotations

from dstackd import launch_document, protocol
from dstackd.bootstrap.zipapp import build_runner
from dstackd.launch_document import JobDocument, LaunchDocument
from tests.runner.conftest import REGION, Project


def store_launch(
    project: Project, job: JobDocument, *, lifetime_s: int | None = None
) -> dict[str, str]:
    """Put the document and the runner into the bucket; the instance's tags."""
    document = LaunchDocument(
        launch_id="a-launch",
        bucket=project.bucket,
        region=REGION,
        jobs=(job,),
        heartbeat_s=0.5,
        watch_s=0.2,
        log_flush_s=0.2,
    )
    project.put(protocol.launch_key("a-launch"), launch_document.encode(document))
    bundle = build_runner()
    project.put(protocol.runner_key(bundle.sha256), bundle.content)
    tags = {
        protocol.TAG_BUCKET: project.bucket,
        protocol.TAG_LAUNCH: "a-launch",
        protocol.TAG_RUNNER: bundle.sha256,
    }
    return tags if lifetime_s is None else {**tags, protocol.TAG_LIFETIME: str(lifetime_s)}
