"""What the job declared is in the bucket, and the manifest says exactly what is there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.launch_document import JobDocument
from dstackd.runner import upload
from dstackd.runner.collect import collect
from dstackd.runner.inputs import restore_attempt
from dstackd.runner.journal import Journal
from dstackd.runner.s3 import Bucket
from dstackd.runner.sealing import Sealed, seal
from tests.runner.conftest import Project, a_job


@pytest.fixture
def bucket(project: Project) -> Iterator[Bucket]:
    bucket = project.machines_bucket()
    yield bucket
    bucket.close()


def seal_folder(
    job: JobDocument, folder: Path, bucket: Bucket, *, interrupted: bool = False
) -> Sealed:
    return seal(job, job_dir=str(folder), bucket=bucket, interrupted=interrupted, journal=Journal())


# Names with any character that a file may have and UTF-8 can say. S3 takes them all; moto 5.2.5 has
# no route for a key with a line feed (measured: 404).
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0\n"), min_size=1, max_size=6
).filter(lambda name: name not in {".", ".."})
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map(tuple),
    st.tuples(st.binary(max_size=100), st.sampled_from([0o600, 0o644, 0o755])),
    max_size=5,
)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees)
def test_a_manifest_equals_the_disk_and_comes_back(
    project: Project,
    bucket: Bucket,
    tmp_path: Path,
    tree: dict[tuple[str, ...], tuple[bytes, int]],
) -> None:
    """Sealed, then restored for the next attempt: the same files, contents and modes."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name, (content, mode) in tree.items():
        path = source.joinpath("out", *name)
        with contextlib.suppress(OSError):  # one name may be a file and a folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
    job = a_job(artifacts=("out",))
    sealed = seal_folder(job, source, bucket)
    on_disk = contents(source)
    assert sealed.message in {"", "nothing at out"}
    manifest = project.manifest(job)
    assert {file.path: (file.size, file.sha256, file.mode) for file in manifest.files} == {
        path: (len(content), protocol.sha256_hex(content), mode)
        for path, (content, mode) in on_disk.items()
    }
    assert (sealed.verdict, sealed.files) == ("complete", len(on_disk))
    assert sealed.size_bytes == manifest.size_bytes
    after = a_job(job_id=job.job_id, attempt=2, resume_from=(1,))
    assert restore_attempt(after, job_dir=str(target), bucket=bucket, say=print) == 1
    assert contents(target) == on_disk


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_long_file_goes_up_in_parts(
    project: Project, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multipart or not, the object is the file and the manifest has the digest of the whole."""
    monkeypatch.setattr(upload, "PIECE_BYTES", 5 * 1024 * 1024)
    content = os.urandom(1024) * (12 * 1024 + 1)
    (tmp_path / "long").write_bytes(content)
    (tmp_path / "short").write_bytes(b"short")
    job = a_job(artifacts=("long", "short"))
    assert seal_folder(job, tmp_path, bucket).verdict == "complete"
    assert project.get(protocol.artifact_key(job.job_id, 1, "long")) == content
    [long, _short] = project.manifest(job).files
    assert (long.size, long.sha256) == (len(content), protocol.sha256_hex(content))


def test_links_and_special_files(project: Project, bucket: Bucket, tmp_path: Path) -> None:
    """A link is followed where it ends in the job's folder; the rest is skipped and said."""
    folder = tmp_path / "job"
    (folder / "out").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "shared").mkdir()
    (folder / "shared" / "file").write_text("shared")
    links = {"in": "../shared", "up": "..", "away": str(tmp_path / "secret"), "dead": "nothing"}
    for name, target in links.items():
        (folder / "out" / name).symlink_to(target)
    os.mkfifo(folder / "out" / "pipe")
    job = a_job(artifacts=("out", "../secret", str(tmp_path / "secret"), "shared/f*"))
    sealed = seal_folder(job, folder, bucket)
    assert sealed.verdict == "complete"
    assert [file.path for file in project.manifest(job).files] == [
        "out/in/file",
        # Through `up`, the folder is seen again, but not `out` in it, which is around the link.
        "out/up/shared/file",
        "shared/file",
    ]
    for told in ("out/away: outside", "out/dead", "out/pipe: not a regular", "../secret: outside"):
        assert any(
            told in skipped
            for skipped in collect(str(folder), [each.path for each in job.artifacts]).skipped
        ), told
    assert f"nothing at {tmp_path}/secret" in sealed.message


def test_a_file_that_cannot_be_read_makes_the_set_partial(
    project: Project, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are sealed, and the message names what was lost."""
    for name in ("kept", "gone"):
        (tmp_path / name).write_text(name)
    job = a_job(artifacts=("kept", "gone"))
    found = collect(str(tmp_path), [each.path for each in job.artifacts])
    (tmp_path / "gone").unlink()
    monkeypatch.setattr("dstackd.runner.sealing.collect", lambda *_: found)
    sealed = seal_folder(job, tmp_path, bucket)
    assert (sealed.verdict, sealed.files) == ("partial", 1)
    assert sealed.message == "lost 1: gone: No such file or directory"
    assert [file.path for file in project.manifest(job).files] == ["kept"]


def test_a_name_that_is_not_utf8_is_skipped_and_said(bucket: Bucket, tmp_path: Path) -> None:
    """S3 has no key for it; the message shows the name's bytes, and the set is not complete."""
    try:
        (tmp_path / os.fsdecode(b"caf\xe9")).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    sealed = seal_folder(a_job(artifacts=("*",)), tmp_path, bucket)
    assert sealed.message == "lost 1: caf\\xe9: the name is not UTF-8, and S3 has no key for it"
    assert sealed.verdict == "partial"


def test_a_manifest_is_written_once(project: Project, bucket: Bucket, tmp_path: Path) -> None:
    """A runner that begins again finds the set sealed, says so, and touches none of its objects."""
    (tmp_path / "file").write_text("first")
    job = a_job(artifacts=("file",))
    assert seal_folder(job, tmp_path, bucket).verdict == "complete"
    (tmp_path / "file").write_text("second")
    sealed = seal_folder(job, tmp_path, bucket)
    assert (sealed.verdict, sealed.files, sealed.size_bytes) == ("complete", 1, 5)
    assert "sealed before" in sealed.message
    assert project.get(protocol.artifact_key(job.job_id, 1, "file")) == b"first"


def test_an_interrupted_set_is_partial(project: Project, bucket: Bucket, tmp_path: Path) -> None:
    """Even when every file of it is there."""
    (tmp_path / "file").write_text("x")
    job = a_job(artifacts=("file",))
    assert seal_folder(job, tmp_path, bucket, interrupted=True).verdict == "partial"
    assert project.manifest(job).verdict == "partial"
