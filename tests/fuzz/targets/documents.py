"""Launch documents and manifests: their own error or a value, which survives being written and read again."""

from __future__ import annotations

from dstackd import artifact_manifest, launch_document
from dstackd.artifact_manifest import Manifest, ManifestError, ManifestFile
from dstackd.launch_document import (
    ArtifactDocument,
    ContainerDocument,
    DocumentError,
    InputDocument,
    JobDocument,
    LaunchDocument,
)

_JOB = JobDocument(
    index=0,
    job_id="abc",
    attempt=1,
    commands=("true",),
    env={"A": "b"},
    inputs=(InputDocument("0" * 64, "d", 10),),
    artifacts=(ArtifactDocument("out", 60.0),),
    container=ContainerDocument("python:3.12"),
    max_duration_s=60.0,
    resume_from=(1,),
)
_FILE = ManifestFile("out/a b", 3, "0" * 64, 0o644)
SAMPLES = (
    launch_document.encode(LaunchDocument("l", "bucket", "region", (_JOB,))),
    artifact_manifest.encode(Manifest("abc", 1, artifact_manifest.COMPLETE, (_FILE,))),
)


def run(content: bytes) -> None:
    """See the module."""
    try:
        document = launch_document.decode(content)
    except DocumentError as error:
        assert len(str(error)) <= len(content) + 500  # noqa: PT017 - the error is the result
    else:
        for job in document.jobs:
            assert launch_document.job_at(document, job.index).index == job.index
    try:
        manifest = artifact_manifest.decode(content)
    except ManifestError:
        return
    assert manifest.size_bytes == sum(file.size for file in manifest.files)
