"""Inputs: what is there before the commands begin, from tars and from buckets, or why it is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.launch_document import InputDocument, JobDocument, S3InputDocument
from dstackd.runner import download, s3_inputs
from dstackd.runner.errors import StageFailed
from dstackd.runner.inputs import restore_attempt, restore_inputs
from dstackd.runner.progress import Progress
from dstackd.runner.s3 import Bucket
from dstackd.runner.s3_listing import list_objects
from tests.runner import small_s3 as fake
from tests.runner.conftest import Project, a_job, pack
from tests.runner.small_s3 import NAME, SmallS3, Stored, an_error


def fill(s3: SmallS3, objects: Mapping[str, bytes], *, name: str = "data") -> None:
    for number, (key, body) in enumerate(objects.items()):
        s3.objects[name, key] = Stored(body, f'"etag-{number}"')


def restore(
    folder: Path,
    bucket: Bucket,
    *wanted: S3InputDocument,
    **fields: Any,  # noqa: ANN401 - as JobDocument
) -> list[str]:
    said: list[str] = []
    job: JobDocument = a_job(s3_inputs=wanted, **fields)
    (folder / "job").mkdir(exist_ok=True)
    restore_inputs(
        job,
        job_dir=str(folder / "job"),
        scratch_dir=str(folder),
        bucket=bucket,
        say=said.append,
    )
    return said


def contents(folder: Path) -> dict[str, bytes]:
    root = folder / "job"
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


keys = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=5
).filter(lambda name: name not in {".", ".."})


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(keys, st.binary(max_size=40), max_size=7), st.sampled_from(["in", "."]))
def test_every_key_becomes_its_file(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, objects: dict[str, bytes], target: str
) -> None:
    """Whatever characters it has, over several pages of the listing."""
    page, fake.PAGE_KEYS = fake.PAGE_KEYS, 3
    try:
        s3.objects.clear()
        fill(s3, {f"a/b/{key}": body for key, body in objects.items()} | {"a/bc": b"", "z": b""})
        other = bucket.other("data")
        listed = {listed.key for listed in list_objects(other, "a/b/", patience_s=1)}
        other.close()
        assert listed == {f"a/b/{key}" for key in objects}
        shutil.rmtree(tmp_path / "job", ignore_errors=True)
        if objects:
            restore(tmp_path, bucket, S3InputDocument("data", "a/b", target))
            prefix = "" if target == "." else f"{target}/"
            assert contents(tmp_path) == {f"{prefix}{key}": body for key, body in objects.items()}
    finally:
        fake.PAGE_KEYS = page


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("data", {"t/x": b"1", "t/deep/y": b"2"}),
        ("data/", {"t/x": b"1", "t/deep/y": b"2"}),
        ("data/x", {"t": b"1"}),
        ("data/deep", {"t/y": b"2"}),
        ("database", {"t/z": b"3"}),
    ],
)
def test_what_a_prefix_means(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, prefix: str, found: dict[str, bytes]
) -> None:
    """The object of that key, or all below it as a folder; not the neighbour that begins alike."""
    fill(
        s3,
        {"data/": b"", "data/x": b"1", "data/deep/y": b"2", "data/empty/": b"", "database/z": b"3"},
    )
    restore(tmp_path, bucket, S3InputDocument("data", prefix, "t"))
    assert contents(tmp_path) == found
    assert (tmp_path / "job" / "t" / "empty").is_dir() == (prefix in {"data", "data/"})


def test_a_whole_bucket(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """Without a prefix."""
    fill(s3, {"a": b"1", "b/c": b"2"})
    restore(tmp_path, bucket, S3InputDocument("data", "", "."))
    assert contents(tmp_path) == {"a": b"1", "b/c": b"2"}


@pytest.mark.parametrize(
    "key", ["d/../../etc", "d//x", "d/./x", "d//", "d/x/..", "d/" + "x" * 256, "d/full/"]
)
def test_keys_that_cannot_be_paths(s3: SmallS3, bucket: Bucket, tmp_path: Path, key: str) -> None:
    """Refused by name, before anything is written."""
    fill(s3, {"d/good": b"x", key: b"not empty"})
    with pytest.raises(StageFailed, match="cannot be a path of a file") as caught:
        restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))
    assert caught.value.stage == "inputs"
    assert contents(tmp_path) == {}


def test_a_key_that_is_a_file_and_a_folder(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """S3 has both, a disk cannot."""
    fill(s3, {"d/x": b"1", "d/x/y": b"2"})
    with pytest.raises(StageFailed, match="'d/x' is an object, and there are others below it"):
        restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))


def test_a_prefix_that_is_not_there(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """The message has the whole source; no other machine would find it."""
    fill(s3, {"database": b"x"})
    with pytest.raises(StageFailed, match="s3://data/dat: there is no such object") as caught:
        restore(tmp_path, bucket, S3InputDocument("data", "dat", "t"))
    assert caught.value.final


def test_a_bucket_that_is_not_there(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """As final as a prefix."""
    s3.refuse = [an_error("NoSuchBucket", 404)]
    with pytest.raises(StageFailed, match="there is no bucket of that name") as caught:
        restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))
    assert caught.value.final


def test_a_role_that_may_not_read(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the permission and the key of the configuration."""
    monkeypatch.setattr(s3_inputs, "LIST_PATIENCE_S", 0.0)
    s3.refuse = [an_error("AccessDenied", 403)]
    with pytest.raises(StageFailed, match=r"s3:ListBucket.*name data in input_buckets") as caught:
        restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))
    assert not caught.value.final


def test_a_bucket_of_another_region(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """Followed to where S3 says that it is, and signed for there."""
    s3.regions["data"] = "eu-west-3"
    fill(s3, {"d/x": b"1"})
    restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))
    assert contents(tmp_path) == {"t/x": b"1"}


def test_long_objects_come_in_pieces_of_one_object(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces side by side, also when some of them have to come again."""
    monkeypatch.setattr(download, "PIECE_BYTES", 1000)
    body = os.urandom(10_500)
    fill(s3, {"d/long": body, "d/short": b"x", "d/exact": body[:2000]})
    s3.refuse_by_number = {number: an_error("SlowDown", 503) for number in range(5, 16, 3)}
    restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))
    assert contents(tmp_path) == {"t/long": body, "t/short": b"x", "t/exact": body[:2000]}


def test_an_object_that_changes_while_it_is_read(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of two objects never become one file: the stage fails, nothing of it is there."""
    fill(s3, {"d/x": b"1" * 100})
    real = download.Download.fetch

    def change_then_fetch(self: download.Download, wanted: object) -> None:
        fill(s3, {"-": b"", "d/x": b"2" * 100})
        real(self, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(download.Download, "fetch", change_then_fetch)
    with pytest.raises(StageFailed, match="s3://data/d: an object changed while it was read"):
        restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))
    assert contents(tmp_path) == {}


def test_a_disk_that_is_too_small_is_said_at_once(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first byte, with what is needed and what would help."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2048))
    fill(s3, {"d/x": b"1" * 3072})
    with pytest.raises(StageFailed, match=r"need 3.0 KB and the disk has 2.0 KB: ask for more"):
        restore(tmp_path, bucket, S3InputDocument("data", "d", "t"))


def test_tars_and_objects(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """A job may have both."""
    packed = pack({"local/file": b"tar"})
    digest = protocol.sha256_hex(packed)
    fill(s3, {protocol.input_key(digest): packed}, name=NAME)
    fill(s3, {"d/x": b"1"})
    restore(
        tmp_path, bucket, S3InputDocument("data", "d", "t"), inputs=(InputDocument(sha256=digest),)
    )
    assert contents(tmp_path) == {"local/file": b"tar", "t/x": b"1"}
    with pytest.raises(StageFailed, match="not in the bucket"):
        restore(tmp_path, bucket, inputs=(InputDocument(sha256="0" * 64),))


def test_progress_is_said_now_and_then() -> None:
    """How much of how much; and the end of what was long."""
    said: list[str] = []
    progress = Progress("inputs", 10 * 2**30, said.append, every_s=0.0)
    progress.add(2**30)
    progress.add(-(2**29))
    progress.end()
    assert said == [
        "inputs: 1.0 GB of 10.0 GB",
        "inputs: 512.0 MB of 10.0 GB",
        "inputs: 512.0 MB of 10.0 GB",
    ]
    quiet = Progress("inputs", 1, said.append)
    quiet.add(1)
    quiet.end()
    assert len(said) == 3


def test_nothing_to_resume(bucket: Bucket, tmp_path: Path) -> None:
    """No attempt left a set: the number is None."""
    job = a_job(attempt=3, resume_from=(2, 1))
    assert restore_attempt(job, job_dir=str(tmp_path), bucket=bucket, say=print) is None


def test_against_another_s3(project: Project, tmp_path: Path) -> None:
    """The same through moto, which is not ours: listing, ranges, If-Match, odd characters."""
    own = project.machines_bucket()
    for number, name in enumerate(["a b", "ü+%20", "x&<y>", "deep/er"]):
        project.put(f"in/{name}", str(number).encode())
    project.put("in/long", b"0123456789" * 2_000_000)
    restore(tmp_path, own, S3InputDocument(project.bucket, "in", "t"))
    own.close()
    found = contents(tmp_path)
    assert found.pop("t/long") == b"0123456789" * 2_000_000
    assert found == {"t/a b": b"0", "t/ü+%20": b"1", "t/x&<y>": b"2", "t/deep/er": b"3"}
