"""Which files become artifacts, whatever a job has put into its folder, also while it is looked at."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest
from dstackd.launch_document import ArtifactDocument, JobDocument
from dstackd.runner import sealing, upload
from dstackd.runner.collect import collect
from dstackd.runner.inputs import restore_attempt
from dstackd.runner.journal import Journal
from dstackd.runner.ledger import Ledger
from dstackd.runner.opening import is_being_written, opened_inside
from dstackd.runner.s3 import Bucket
from dstackd.runner.sealing import Sealed, seal
from tests.runner.conftest import a_job
from tests.runner.small_s3 import NAME, SmallS3, an_error
from tests.runner.test_trees import make_deep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job" / "out").mkdir(parents=True)
    return tmp_path / "job"


def seal_all(
    job: JobDocument,
    folder: Path,
    bucket: Bucket,
    *,
    deadline_s: float | None = None,
    ledger: Ledger | None = None,
) -> Sealed:
    return seal(
        job,
        job_dir=str(folder),
        bucket=bucket,
        interrupted=False,
        journal=Journal(),
        ledger=ledger,
        deadline_s=deadline_s,
    )


def manifest(s3: SmallS3, job: JobDocument) -> Manifest:
    stored = s3.objects[NAME, protocol.manifest_key(job.job_id, job.attempt)]
    return artifact_manifest.decode(stored.body)


# -------------------------------------------------------------------------------- names


def test_names_of_every_kind_come_back(
    s3: SmallS3, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    """A line feed, leading dashes, both forms of an umlaut, 255 bytes, spaces, what URLs and XML mean
    something by; hard links and sparse files are files, an empty file is one, an empty folder is none.
    """
    names = [
        "line\nfeed",
        "-rf",
        "--",
        "u\u0308",
        "\u00fc",
        "x" * 255,
        " ",
        "a+b%20&<c>?#",
        "\x01\x7f",
    ]
    for number, name in enumerate(names):
        (folder / "out" / name).write_text(str(number))
    (folder / "out" / "linked").hardlink_to(folder / "out" / "-rf")
    with (folder / "out" / "sparse").open("wb") as sparse:
        sparse.truncate(1_000_000)
    (folder / "out" / "empty").touch()
    (folder / "out" / "folder").mkdir()
    job = a_job(artifacts=("out",))
    sealed = seal_all(job, folder, bucket)
    assert (sealed.verdict, sealed.message) == ("complete", "")
    after = a_job(job_id=job.job_id, attempt=2, resume_from=(1,))
    target = tmp_path / "next"
    target.mkdir()
    assert restore_attempt(after, job_dir=str(target), bucket=bucket, say=print) == 1
    came = {path.name: path.read_bytes() for path in (target / "out").iterdir()}
    assert came == {
        **{name: str(number).encode() for number, name in enumerate(names)},
        "linked": b"1",
        "sparse": bytes(1_000_000),
        "empty": b"",
    }


def test_a_key_that_s3_does_not_take_is_said(s3: SmallS3, bucket: Bucket, folder: Path) -> None:
    """A path whose key is longer than 1,024 bytes is lost, the set is partial."""
    deep = folder / "out" / "/".join(["x" * 200] * 5)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (folder / "out" / "kept").write_text("x")
    job = a_job(artifacts=("out",))
    sealed = seal_all(job, folder, bucket)
    assert (sealed.verdict, sealed.files) == ("partial", 1)
    assert "longer than S3's 1024 bytes" in sealed.message


def test_pipes_sockets_and_devices_are_not_waited_for(bucket: Bucket, folder: Path) -> None:
    """They are skipped and said; opening a pipe would wait for a writer for ever."""
    os.mkfifo(folder / "out" / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder / "out")  # a socket's path has at most 108 bytes
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    (folder / "out" / "null").symlink_to("/dev/null")
    sealed = seal_all(a_job(artifacts=("out",)), folder, bucket)
    assert (sealed.verdict, sealed.files) == ("complete", 0)
    for told in ("out/pipe: not a regular", "out/socket: not a regular", "out/null: outside"):
        assert told in sealed.message


def test_folders_deeper_than_pythons_stack(folder: Path) -> None:
    """Found as far as the kernel takes their path; the rest is said."""
    (folder / "out" / "file").write_text("x")
    try:
        make_deep(folder / "out", name="d")
        found = collect(str(folder), ["out"])
    finally:
        subprocess.run(["rm", "-rf", str(folder / "out")], check=True)
    assert {file.path.rpartition("/")[2] for file in found.files} == {"file"}
    assert len(found.files) + len(found.lost) == 2


def test_links_cannot_make_the_walk_endless(folder: Path) -> None:
    """Folders that link to each other are each walked until they come round."""
    for name in "abcd":
        (folder / "out" / name).mkdir()
        (folder / "out" / name / "file").write_text(name)
        for other in "abcd":
            (folder / "out" / name / f"to-{other}").symlink_to(f"../{other}")
    found = collect(str(folder), ["out/a"])
    assert "out/a/to-b/to-c/to-d/file" in {file.path for file in found.files}
    assert len(found.files) == 1 + 3 + 6 + 6


# ----------------------------------------------------------------------- against the job


def test_a_link_put_in_place_of_a_file_is_not_followed_out(
    s3: SmallS3, bucket: Bucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening, the job changes files and a folder for links to what only the
    runner may read: none of it is uploaded.
    """
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("one", "long", "three"):
        (secret / name).write_bytes(b"secret" * 1000)
    for name in ("one", "long", "in/three", "kept"):
        (folder / "out" / name).parent.mkdir(exist_ok=True)
        (folder / "out" / name).write_bytes(b"x" * 4000)
    monkeypatch.setattr(upload, "PIECE_BYTES", 3000)

    def collect_then_swap(job_dir: str, patterns: list[str]) -> object:
        found = collect(job_dir, patterns)
        for name in ("one", "long"):
            (folder / "out" / name).unlink()
            (folder / "out" / name).symlink_to(secret / name)
        (folder / "out" / "in").rename(folder / "was")
        (folder / "out" / "in").symlink_to(secret)
        return found

    monkeypatch.setattr(sealing, "collect", collect_then_swap)
    job = a_job(artifacts=("out",))
    sealed = seal_all(job, folder, bucket)
    assert (sealed.verdict, sealed.files) == ("partial", 1)
    assert sealed.message.count("leads out of the job's folder now") == 3
    assert not any(b"secret" in stored.body for stored in s3.objects.values())


def test_swapping_all_the_time_gains_nothing(folder: Path, tmp_path: Path) -> None:
    """A thousand openings against a job that swaps a file and a link as fast as it can."""
    (tmp_path / "secret").write_text("secret")
    target, over = folder / "out" / "file", threading.Event()

    def swap() -> None:
        while not over.is_set():
            (folder / "link").symlink_to(tmp_path / "secret")
            (folder / "link").replace(target)
            (folder / "file").write_text("public")
            (folder / "file").replace(target)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    for _ in range(1000):
        try:
            with opened_inside(str(folder.resolve()), "out/file") as fd:
                seen.add(os.read(fd, 100))
        except OSError:
            continue
    over.set()
    swapping.join()
    assert seen <= {b"public", b""}


def test_who_writes_is_known(folder: Path) -> None:
    """As long as a process has the file open for writing, also through another name."""
    path = folder / "out" / "file"
    path.write_text("x")
    (folder / "other").hardlink_to(path)
    with opened_inside(str(folder.resolve()), "out/file") as fd:
        assert not is_being_written(fd)
        with (folder / "other").open("r+"):
            assert is_being_written(fd)
        assert not is_being_written(fd)


# ------------------------------------------------------------------------ time and errors


def test_sealing_ends_before_the_deadline(s3: SmallS3, bucket: Bucket, folder: Path) -> None:
    """What fits is sealed, small and new first; the rest is said as lost; the seal returns in time."""
    for number in range(300):
        path = folder / "out" / f"{number:03}"
        path.write_bytes(b"x" * 1000 * (300 - number))
    s3.slow_s = 0.4
    job = a_job(artifacts=("out",))
    begun = time.monotonic()
    sealed = seal_all(job, folder, bucket, deadline_s=6.0)
    assert time.monotonic() - begun < 6.3
    assert sealed.verdict == "partial"
    assert 0 < sealed.files < 300
    assert f"lost {300 - sealed.files}: " in sealed.message
    assert "no time was left" in sealed.message
    kept = {int(file.path[-3:]) for file in manifest(s3, job).files}
    assert 299 in kept
    assert 0 not in kept


def test_a_bucket_that_hangs_does_not_hold_the_seal(
    s3: SmallS3, bucket: Bucket, folder: Path
) -> None:
    """Nothing answers: the verdict is `failed`, in time."""
    (folder / "out" / "file").write_text("x")
    s3.slow_s = 5.0
    begun = time.monotonic()
    sealed = seal_all(a_job(artifacts=("out",)), folder, bucket, deadline_s=0.5)
    assert time.monotonic() - begun < 1.0
    assert sealed.verdict == "failed"


def test_an_earlier_state_is_better_than_none(
    s3: SmallS3, bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose newest state does not get through is sealed as a round left it, and that is said."""
    job = a_job(artifacts=(ArtifactDocument("out", 1.0),))
    path = folder / "out" / "ckpt"
    path.write_bytes(b"old")
    ledger = Ledger()
    uploader = upload.Uploader(
        bucket,
        job_dir=str(folder),
        key_of=lambda name: protocol.artifact_key(job.job_id, 1, name),
        headers={},
        ledger=ledger,
    )
    uploader.upload(collect(str(folder), ["out"]).files)
    path.unlink()
    path.write_bytes(b"newer")

    def collect_then_remove(job_dir: str, patterns: list[str]) -> object:
        found = collect(job_dir, patterns)
        path.unlink()
        return found

    monkeypatch.setattr(sealing, "collect", collect_then_remove)
    sealed = seal_all(job, folder, bucket, ledger=ledger)
    assert (sealed.verdict, sealed.files, sealed.size_bytes) == ("partial", 1, 3)
    assert "the bucket has an earlier state" in sealed.message


def test_a_refusing_bucket_is_waited_for(
    s3: SmallS3, bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SlowDown, server errors and lost connections in the middle of short files and of parts: all of it
    arrives, and the set is complete.
    """
    monkeypatch.setattr(upload, "PIECE_BYTES", 10_000)
    for number in range(20):
        (folder / "out" / f"{number}").write_bytes(os.urandom(100))
    (folder / "out" / "long").write_bytes(os.urandom(95_000))
    slow, broken = an_error("SlowDown", 503), an_error("InternalError", 500)
    s3.refuse_by_number = dict.fromkeys(range(4, 60, 3), slow)
    s3.refuse_by_number |= dict.fromkeys(range(5, 60, 7), broken)
    job = a_job(artifacts=("out",))
    sealed = seal_all(job, folder, bucket)
    assert (sealed.verdict, sealed.files, sealed.message) == ("complete", 21, "")
    for file in manifest(s3, job).files:
        body = s3.objects[NAME, protocol.artifact_key(job.job_id, 1, file.path)].body
        assert protocol.sha256_hex(body) == file.sha256


def test_one_patience_for_all(
    s3: SmallS3, bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one call has used its patience the other files are not tried: a thousand files do not take
    a thousand times as long.
    """
    monkeypatch.setattr(upload, "PATIENCE_S", 0.5)
    for number in range(1000):
        (folder / "out" / f"{number}").write_bytes(b"x")
    job = a_job(artifacts=("out",))
    s3.dies_at = 3
    uploader = upload.Uploader(
        bucket,
        job_dir=str(folder),
        key_of=lambda name: protocol.artifact_key(job.job_id, 1, name),
        headers={},
        ledger=Ledger(),
        terms=upload.Terms(patience_s=0.5),
    )
    begun = time.monotonic()
    uploader.upload(collect(str(folder), ["out"]).files)
    assert time.monotonic() - begun < 5
    assert len(uploader.fates.lost) == 998
    assert sum("not tried" in reason for reason in uploader.fates.lost) > 900


def test_objects_say_how_long_they_are_kept(s3: SmallS3, bucket: Bucket, folder: Path) -> None:
    """Files and the manifest carry the tag that the bucket's lifecycle rule looks for."""
    (folder / "out" / "file").write_text("x")
    job = a_job(artifacts=("out",), artifact_keep_days=30)
    assert seal_all(job, folder, bucket).verdict == "complete"
    assert {stored.tagging for stored in s3.objects.values()} == {protocol.keep_tagging(30)}
