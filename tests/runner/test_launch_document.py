"""The launch document survives the way from the daemon to the machine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import artifact_manifest, launch_document, protocol
from dstackd.launch_document import (
    ArtifactDocument,
    DocumentError,
    DocumentTooNew,
    InputDocument,
    JobDocument,
    LaunchDocument,
)

# JSON has no surrogates of its own, and the spec lets none in.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
inputs = st.builds(InputDocument, sha256=names, target=names, size_bytes=st.integers(0))
seconds = st.floats(0, 1e9)
artifacts = st.builds(ArtifactDocument, path=names, every_s=st.none() | seconds)
jobs = st.builds(
    JobDocument,
    index=st.integers(0, 99),
    job_id=names,
    attempt=st.integers(1, 99),
    name=texts,
    commands=st.lists(texts, max_size=3).map(tuple),
    env=st.dictionaries(names, texts, max_size=3),
    working_dir=st.none() | names,
    inputs=st.lists(inputs, max_size=2).map(tuple),
    artifacts=st.lists(artifacts, max_size=2).map(tuple),
    max_duration_s=st.none() | seconds,
    stop_grace_s=seconds,
    resume=st.booleans(),
    resume_from=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    array_index=st.none() | st.integers(0),
)
documents = st.builds(
    LaunchDocument,
    launch_id=names,
    bucket=names,
    region=names,
    jobs=st.lists(jobs, max_size=3).map(tuple),
    heartbeat_s=seconds,
    watch_s=seconds,
    log_flush_s=seconds,
)


@given(documents)
def test_a_document_is_read_as_it_was_written(document: LaunchDocument) -> None:
    """Decoding what was encoded gives the same values."""
    assert launch_document.decode(launch_document.encode(document)) == document


@given(documents, names)
def test_unknown_keys_are_passed_over(document: LaunchDocument, key: str) -> None:
    """A daemon of the same version may say more than this runner knows."""
    value = json.loads(launch_document.encode(document))
    value[f"new {key}"] = 1
    for job in value["jobs"]:
        job[f"new {key}"] = {"a": [1]}
    assert launch_document.decode(protocol.canonical_json(value)) == document


def test_a_newer_document_is_refused() -> None:
    """A runner does not guess at what a newer version means, not even at its fields."""
    with pytest.raises(DocumentTooNew, match="version 2"):
        launch_document.decode(b'{"version": 2}')


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"launch_id": None}, "document.launch_id is missing"),
        ({"jobs": {}}, "document.jobs is not a list"),
        ({"jobs": [{"index": "0"}]}, r"document.jobs\[0\].index is not an integer"),
        ({"jobs": [{"index": True}]}, r"document.jobs\[0\].index is not an integer"),
        ({"heartbeat_s": "1"}, "document.heartbeat_s is not a number"),
    ],
)
def test_an_error_names_its_field(change: dict[str, Any], named: str) -> None:
    """Whoever reads `failed(document, …)` knows what is wrong with it."""
    document = LaunchDocument(launch_id="l", bucket="b", region="r", jobs=())
    value = json.loads(launch_document.encode(document)) | change
    with pytest.raises(DocumentError, match=named):
        launch_document.decode(json.dumps(value).encode())


def test_a_job_is_found_by_its_index() -> None:
    """The index is the job's own, not its place in the list."""
    job = JobDocument(index=7, job_id="j", attempt=1, commands=())
    document = LaunchDocument(launch_id="l", bucket="b", region="r", jobs=(job,))
    assert launch_document.job_at(document, 7) is job
    with pytest.raises(DocumentError, match="no job with index 0"):
        launch_document.job_at(document, 0)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1}'])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    """Anybody may write into a bucket."""
    with pytest.raises(artifact_manifest.ManifestError):
        artifact_manifest.decode(content)
