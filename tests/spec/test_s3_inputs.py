"""Sources in S3 and artifacts with `every`, as a spec writes them."""

import pytest

from dstackd.spec.canonical import to_json
from dstackd.spec.errors import SpecError
from dstackd.spec.model import ArtifactSpec, InputSpec
from dstackd.spec.parse import parse_spec


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("s3://bucket/key:data", InputSpec("s3://bucket/key", "data")),
        ("s3://bucket/a/b/", InputSpec("s3://bucket/a/b/", "b")),
        ("s3://bucket", InputSpec("s3://bucket", "bucket")),
        ({"source": "s3://b-1.c/x:y", "target": "."}, InputSpec("s3://b-1.c/x:y", ".")),
    ],
)
def test_sources(written: object, read: InputSpec) -> None:
    """The target is given, or the last part of the source."""
    spec = parse_spec({"commands": ["true"], "inputs": [written]})
    assert spec.inputs == (read,)
    assert parse_spec(to_json(spec)) == spec


@pytest.mark.parametrize("source", ["s3:///key", "s3://UPPER/key", "s3://b/key", "s3://"])
def test_buckets_that_cannot_be(source: str) -> None:
    """The error names the source and says what a bucket's name is made of."""
    with pytest.raises(SpecError) as caught:
        parse_spec({"commands": ["true"], "inputs": [{"source": source, "target": "t"}]})
    (error,) = caught.value.errors
    assert error.field == "inputs[0].source"
    assert "s3://bucket/prefix" in error.fix


def test_every() -> None:
    """How often a path goes up while the job runs."""
    spec = parse_spec({"commands": ["true"], "artifacts": [{"path": "out", "every": "5m"}]})
    assert spec.artifacts == (ArtifactSpec("out", 300),)
    assert parse_spec(to_json(spec)) == spec
