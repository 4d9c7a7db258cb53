"""What the daemon's launch of one machine leaves in the bucket and in the machine's tags."""

from __future__ import annotations

from dstackd import protocol
from dstackd.launch_document import JobDocument
from tests.runner.conftest import Project


def store_launch(
    project: Project, job: JobDocument, *, lifetime_s: int | None = None
) -> dict[str, str]:
    """Put the document and the runner into the bucket; the instance's tags."""
    project.put_document("a-launch", job)
    tags = {
        protocol.TAG_BUCKET: project.bucket,
        protocol.TAG_LAUNCH: "a-launch",
        protocol.TAG_RUNNER: project.put_runner(),
    }
    return tags if lifetime_s is None else {**tags, protocol.TAG_LIFETIME: str(lifetime_s)}
