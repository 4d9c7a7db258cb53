"""Artifacts go up while the job runs, and whenever the machine dies, what can be restored is whole."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest
from dstackd.launch_document import ArtifactDocument, JobDocument
from dstackd.runner import sealing, upload
from dstackd.runner.artifact_rounds import ArtifactRounds
from dstackd.runner.inputs import restore_attempt
from dstackd.runner.journal import Journal
from dstackd.runner.s3 import Bucket
from dstackd.runner.sealing import seal
from dstackd.runner.upload import Terms
from tests.runner.conftest import a_job, wait_until
from tests.runner.small_s3 import NAME, Answer, SmallS3, bucket_of, small_s3

AT_ONCE = Terms(threads=2, patience_s=0.0, settled_s=1e-9)


def a_rounds_job(*paths: str, **fields: Any) -> JobDocument:  # noqa: ANN401 - as JobDocument
    return a_job(artifacts=tuple(ArtifactDocument(path, 0.05) for path in paths), **fields)


def rounds_of(
    job: JobDocument, folder: Path, bucket: Bucket, terms: Terms = AT_ONCE
) -> ArtifactRounds:
    return ArtifactRounds(job, job_dir=str(folder), bucket=bucket, journal=Journal(), terms=terms)


def partial(s3: SmallS3, job: JobDocument) -> Manifest | None:
    stored = s3.objects.get((NAME, protocol.partial_manifest_key(job.job_id, job.attempt)))
    return artifact_manifest.decode(stored.body) if stored else None


def paths(manifest: Manifest | None) -> list[str]:
    return [file.path for file in manifest.files] if manifest else []


# ------------------------------------------------------------------------------ crashes

PIECE = 4096
writes = st.tuples(
    st.sampled_from(["out/a", "out/b", "out/deep/c"]),
    st.sampled_from(["write", "append", "replace", "remove"]),
    st.sampled_from([0, 10, PIECE + 1, 3 * PIECE]),
)
jobs = st.lists(st.lists(writes, max_size=3), min_size=1, max_size=4)


class Disk:
    """What a job writes, and every state in which it has ever left each file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: dict[str, set[bytes]] = {}
        self._numbers = itertools.count()

    def apply(self, name: str, action: str, size: int) -> None:
        path = self.folder / name
        if action == "remove":
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"{next(self._numbers)} ".encode().ljust(size, b"x")
        if action == "append" and path.exists():
            content = path.read_bytes() + content
        if action == "replace":
            path.with_name("new").write_bytes(content)
            path.with_name("new").replace(path)
        else:
            path.write_bytes(content)
        self._let_the_clock_tick(path)
        self.states.setdefault(name, set()).add(content)

    def _let_the_clock_tick(self, path: Path) -> None:
        """The kernel's times have steps of some milliseconds; rounds rely on files that are older."""
        probe = self.folder.parent / "probe"
        while True:
            probe.write_bytes(b"")
            if probe.stat().st_ctime_ns > path.stat().st_ctime_ns:
                return

    def now(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(jobs, st.integers(1, 60), st.booleans(), st.booleans())
def test_a_machine_may_die_at_any_request(  # noqa: PLR0917 - hypothesis gives them in order
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[list[tuple[str, str, int]]],
    dies_at: int,
    executed: bool,
    sealed: bool,
) -> None:
    """Every file that the next attempt restores is one that the job had written, whole; nothing is
    refused; and what the last partial manifest named is there.
    """
    monkeypatch.setattr(upload, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(upload, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sealing, "PATIENCE_S", 0.0)
    for name in ("job", "next"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name).mkdir()
    disk = Disk(tmp_path / "job")
    job = a_rounds_job("out")
    with small_s3() as s3:
        bucket = bucket_of(s3)
        s3.dies_at, s3.executes_the_last = dies_at, executed
        rounds = rounds_of(job, disk.folder, bucket)
        for changes in steps:
            for change in changes:
                disk.apply(*change)
            rounds._run_round(["out"])
        if sealed:
            seal(
                job,
                job_dir=str(disk.folder),
                bucket=bucket,
                interrupted=True,
                journal=Journal(),
                ledger=rounds.ledger,
            )
        s3.dies_at = None
        named = partial(s3, job)
        is_sealed = (NAME, protocol.manifest_key(job.job_id, 1)) in s3.objects
        restored = Disk(tmp_path / "next")
        after = a_job(job_id=job.job_id, attempt=2, resume_from=(1,))
        number = restore_attempt(after, job_dir=str(restored.folder), bucket=bucket, say=print)
        bucket.close()
    assert number == (1 if named is not None or is_sealed else None)
    found = restored.now()
    for name, content in found.items():
        assert content in disk.states[name]
    if is_sealed:
        assert found == disk.now()
    elif named is not None:
        assert sorted(found) == paths(named)


# ------------------------------------------------------------------------------- rounds


def test_rounds_run_beside_the_job(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """A path with `every` is in the bucket while the commands run, the others are not; a round without
    changes asks nothing of S3; the seal sends only what changed.
    """
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one").write_bytes(b"1")
    (tmp_path / "out" / "two").write_bytes(b"2")
    (tmp_path / "late").write_bytes(b"late")
    job = a_job(artifacts=(ArtifactDocument("out", 0.05), ArtifactDocument("late")))
    rounds = rounds_of(job, tmp_path, bucket)
    rounds.start()
    wait_until(lambda: paths(partial(s3, job)) == ["out/one", "out/two"], seen=lambda: s3.asked)
    asked = len(s3.asked)
    time.sleep(0.2)
    assert len(s3.asked) == asked
    (tmp_path / "out" / "two").write_bytes(b"22")
    wait_until(lambda: (partial(s3, job) or pytest.fail("gone")).size_bytes == 3)
    rounds.stop()
    before = len(s3.asked)
    (tmp_path / "out" / "one").write_bytes(b"11")
    sealed = seal(
        job,
        job_dir=str(tmp_path),
        bucket=bucket,
        interrupted=False,
        journal=Journal(),
        ledger=rounds.ledger,
    )
    assert (sealed.verdict, sealed.files, sealed.size_bytes) == ("complete", 3, 8)
    sent = {key.rpartition("files/")[2] for method, key in s3.asked[before:] if method == "PUT"}
    assert sent == {"out/one", "late", protocol.manifest_key(job.job_id, 1)}


def test_what_is_being_written_waits(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """A file that changed just now keeps its whole state in the bucket until it has settled."""
    job = a_rounds_job("ckpt")
    path = tmp_path / "ckpt"
    path.write_bytes(b"whole")
    rounds = rounds_of(job, tmp_path, bucket)
    rounds.round(["ckpt"])
    rounds._terms = Terms(threads=2, patience_s=0, settled_s=60)
    path.write_bytes(b"ha")
    rounds.round(["ckpt"])
    assert s3.objects[NAME, protocol.artifact_key(job.job_id, 1, "ckpt")].body == b"whole"
    assert paths(partial(s3, job)) == ["ckpt"]
    rounds._terms = AT_ONCE
    rounds.round(["ckpt"])
    assert s3.objects[NAME, protocol.artifact_key(job.job_id, 1, "ckpt")].body == b"ha"


def test_a_long_file_open_for_writing_waits(
    s3: SmallS3, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago its last byte was written: nobody knows whether that was the last."""
    monkeypatch.setattr(upload, "PIECE_BYTES", PIECE)
    job = a_rounds_job("ckpt")
    rounds = rounds_of(job, tmp_path, bucket)
    with (tmp_path / "ckpt").open("wb") as file:
        file.write(b"x" * (2 * PIECE))
        file.flush()
        rounds.round(["ckpt"])
        assert s3.objects == {}
    rounds.round(["ckpt"])
    assert paths(partial(s3, job)) == ["ckpt"]


def test_a_file_that_is_gone_leaves_the_set_after_two_rounds(
    s3: SmallS3, bucket: Bucket, tmp_path: Path
) -> None:
    """A job that removes its checkpoint to write it anew does not lose both."""
    (tmp_path / "ckpt").write_text("1")
    (tmp_path / "log").write_text("1")
    job = a_rounds_job("*")
    rounds = rounds_of(job, tmp_path, bucket)
    seen = []
    for _ in range(3):
        rounds.round(["*"])
        seen.append(paths(partial(s3, job)))
        (tmp_path / "ckpt").unlink(missing_ok=True)
    assert seen == [["ckpt", "log"], ["ckpt", "log"], ["log"]]


def test_a_notice_hurries(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """One round at once over all paths, also of a job that has no `every`."""
    (tmp_path / "out").write_text("x")
    job = a_job(artifacts=("out",))
    rounds = rounds_of(job, tmp_path, bucket)
    rounds.start()
    assert s3.asked == []
    rounds.hurry()
    wait_until(lambda: paths(partial(s3, job)) == ["out"])
    rounds.stop()


def test_rounds_outlive_a_bucket_that_refuses(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """Errors end a round, never the rounds, and stopping does not wait for the bucket."""
    (tmp_path / "out").write_text("x")
    job = a_rounds_job("out")
    s3.refuse = [Answer(503)] * 5
    rounds = rounds_of(job, tmp_path, bucket)
    rounds.start()
    wait_until(lambda: paths(partial(s3, job)) == ["out"])
    s3.slow_s = 3.0
    (tmp_path / "out").write_text("y")
    time.sleep(0.2)
    begun = time.monotonic()
    rounds.stop(patience_s=0.2)
    assert time.monotonic() - begun < 1.0
    s3.slow_s = 0.0
