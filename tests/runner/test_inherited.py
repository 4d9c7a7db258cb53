"""A resumed attempt never has a poorer set in the bucket than the attempt that it resumes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.launch_document import ArtifactDocument, JobDocument
from dstackd.runner import upload
from dstackd.runner.artifact_rounds import ArtifactRounds
from dstackd.runner.collect import collect
from dstackd.runner.inputs import restore_attempt
from dstackd.runner.journal import Journal
from dstackd.runner.ledger import Ledger
from dstackd.runner.ordering import CALL_BYTES
from dstackd.runner.pace import Deadline
from dstackd.runner.s3 import Bucket
from dstackd.runner.sealing import Sealed, seal
from dstackd.runner.upload import Terms, Uploader
from tests.runner.conftest import a_job
from tests.runner.small_s3 import NAME, SmallS3, bucket_of, small_s3, wait_for_uploads

SETTLING = Terms(threads=2, patience_s=0.0, settled_s=60.0)
"""Whatever a test has written is still fresh."""


class Attempt:
    """One attempt of a job with a disk of its own; it begins with what the attempt before left."""

    def __init__(self, number: int, root: Path, bucket: Bucket, terms: Terms = SETTLING) -> None:
        self.job: JobDocument = a_job(
            job_id="job-1",
            attempt=number,
            resume_from=tuple(range(number - 1, 0, -1)),
            artifacts=(ArtifactDocument("out", 3600.0),),
        )
        self.folder = root / f"attempt-{number}"
        (self.folder / "out").mkdir(parents=True)
        self._bucket = bucket
        self.rounds = ArtifactRounds(
            self.job, job_dir=str(self.folder), bucket=bucket, journal=Journal(), terms=terms
        )
        self.resumed = restore_attempt(
            self.job,
            job_dir=str(self.folder),
            bucket=bucket,
            say=print,
            ledger=self.rounds.ledger,
        )

    def write(self, name: str, content: bytes) -> None:
        (self.folder / "out" / name).write_bytes(content)

    def seal(self, deadline_s: float | None = None) -> Sealed:
        return seal(
            self.job,
            job_dir=str(self.folder),
            bucket=self._bucket,
            interrupted=True,
            journal=Journal(),
            ledger=self.rounds.ledger,
            deadline_s=deadline_s,
        )

    def files(self) -> dict[str, bytes]:
        folder = self.folder / "out"
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def manifest(s3: SmallS3, key: str) -> Manifest | None:
    stored = s3.objects.get((NAME, key))
    return artifact_manifest.decode(stored.body) if stored else None


def holders(found: Manifest | None) -> dict[str, int]:
    """The attempt that holds each file's object."""
    files = found.files if found else ()
    return {file.path.removeprefix("out/"): found.holder_of(file) for file in files if found}


def partial_of(s3: SmallS3, attempt: Attempt) -> Manifest | None:
    job = attempt.job
    return manifest(s3, protocol.partial_manifest_key(job.job_id, job.attempt))


def sealed_of(s3: SmallS3, attempt: Attempt) -> Manifest | None:
    return manifest(s3, protocol.manifest_key(attempt.job.job_id, attempt.job.attempt))


# --------------------------------------------------------------------------- inheritance


def test_one_busy_file_hides_nothing(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """A round names what was restored at once, also where a file is written all the time; the third
    attempt gets the new files, and the old state of the busy one.
    """
    first = Attempt(1, tmp_path, bucket)
    first.write("ckpt", b"1")
    first.write("log", b"1")
    first.seal()
    second = Attempt(2, tmp_path, bucket)
    second.write("log", b"22")
    second.rounds.round(["out"])
    assert holders(partial_of(s3, second)) == {"ckpt": 1, "log": 1}
    third = Attempt(3, tmp_path, bucket)
    assert (third.resumed, third.files()) == (2, {"ckpt": b"1", "log": b"1"})
    third.seal()
    assert holders(sealed_of(s3, third)) == {"ckpt": 1, "log": 1}


def test_what_is_unchanged_is_not_sent(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """It is named where it lies, with the mode that it has now; only what changed is uploaded."""
    first = Attempt(1, tmp_path, bucket)
    for name in ("big", "changed"):
        first.write(name, b"1" * 100)
    first.seal()
    second = Attempt(2, tmp_path, bucket)
    (second.folder / "out" / "big").chmod(0o600)
    second.write("changed", b"2" * 100)
    asked = len(s3.asked)
    assert (second.seal().files, second.seal().message[:30]) == (
        2,
        "this attempt was sealed before",
    )
    sent = [key for method, key in s3.asked[asked:] if method == "PUT"]
    assert not any(key.endswith("/big") for key in sent)
    found = sealed_of(s3, second)
    assert holders(found) == {"big": 1, "changed": 2}
    assert {file.mode for file in found.files if file.path == "out/big"} == {0o600} if found else 0


def test_what_did_not_arrive_is_said(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """A restored file that changed and is lost is sealed as the earlier attempt has it."""
    first = Attempt(1, tmp_path, bucket)
    first.write("ckpt", b"1")
    first.seal()
    second = Attempt(2, tmp_path, bucket)
    second.write("ckpt", b"22")
    ledger = second.rounds.ledger
    assert ledger.claim("out/ckpt", patience_s=0)  # an upload that hangs
    sealed = second.seal(deadline_s=1.0)
    assert "the bucket has an earlier state" in sealed.message
    assert (sealed.files, sealed.size_bytes) == (1, 1)
    assert holders(sealed_of(s3, second)) == {"ckpt": 1}


changes = st.dictionaries(
    st.sampled_from("abc"), st.sampled_from([b"", b"x", b"yy", b"zz"]), max_size=3
)


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(changes, st.booleans()), min_size=1, max_size=4))
def test_a_chain_of_attempts_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, chain: list[tuple[dict[str, bytes], bool]]
) -> None:
    """However many attempts die, with a seal or after a round: the next one finds all that was there,
    and each object is where the manifest says.
    """
    root = tmp_path_factory.mktemp("chain")
    at_once = Terms(threads=2, patience_s=0.0, settled_s=1e-9)
    expected: dict[str, bytes] = {}
    with small_s3() as s3:
        bucket = bucket_of(s3)
        for number, (written, is_sealed) in enumerate(chain, start=1):
            attempt = Attempt(number, root, bucket, at_once)
            assert attempt.files() == expected
            for name, content in written.items():
                attempt.write(name, content)
            expected |= written
            time.sleep(0.02)  # a step of the kernel's clock
            attempt.seal() if is_sealed else attempt.rounds.round(["out"])
            found = (sealed_of if is_sealed else partial_of)(s3, attempt)
            for file in found.files if found else ():
                body = s3.objects[NAME, found.key_of(file) if found else ""].body
                assert protocol.sha256_hex(body) == file.sha256
        assert Attempt(len(chain) + 1, root, bucket).files() == expected
        wait_for_uploads()
        bucket.close()


def test_manifests_without_inheritance_are_as_ever() -> None:
    """A file of the attempt itself has no `attempt` in JSON; one of no earlier attempt is refused."""
    own = Manifest("j", 2, "complete", (ManifestFile("a", 1, "0" * 64, 0o644),))
    assert b'"attempt":2' in artifact_manifest.encode(own).replace(b" ", b"")
    assert artifact_manifest.encode(own).count(b'"attempt"') == 1
    assert artifact_manifest.decode(artifact_manifest.encode(own)) == own
    for number, is_earlier in ((1, True), (2, False), (0, False), (-1, False)):
        file = ManifestFile("a", 1, "0" * 64, 0o644, attempt=number)
        content = artifact_manifest.encode(Manifest("j", 2, "complete", (file,)))
        if is_earlier:
            assert artifact_manifest.decode(content).files == (file,)
        else:
            with pytest.raises(artifact_manifest.ManifestError):
                artifact_manifest.decode(content)


# ----------------------------------------------------------------------- files that are busy


def test_a_file_that_is_always_fresh_waits_three_rounds(
    s3: SmallS3, bucket: Bucket, tmp_path: Path
) -> None:
    """A short one is then taken; a long one is not."""
    attempt = Attempt(1, tmp_path, bucket)
    attempt.write("long", b"x" * (upload.PIECE_BYTES + 1))
    seen = []
    for number in range(5):
        attempt.write("log", b"line" * number)
        attempt.rounds.round(["out"])
        seen.append(sorted(holders(partial_of(s3, attempt))))
    assert seen == [[], [], [], ["log"], ["log"]]


def test_what_was_moved_into_place_is_whole(s3: SmallS3, bucket: Bucket, tmp_path: Path) -> None:
    """It does not wait, unless somebody has it open for writing."""
    attempt = Attempt(1, tmp_path, bucket)
    attempt.write("ckpt", b"1")
    attempt.rounds.round(["out"])
    assert partial_of(s3, attempt) is None
    new = attempt.folder / "new"
    with new.open("wb") as file:
        file.write(b"2")
        file.flush()
        new.replace(attempt.folder / "out" / "ckpt")
        attempt.rounds.round(["out"])
        assert partial_of(s3, attempt) is None
    new.write_bytes(b"3")
    new.replace(attempt.folder / "out" / "ckpt")
    attempt.rounds.round(["out"])
    assert holders(partial_of(s3, attempt)) == {"ckpt": 1}


def test_short_files_count_for_the_speed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a thousand small files in a moment, a long one is not said to have no time."""
    monkeypatch.setattr(upload, "_RATE_AFTER_S", 0.0)
    for number in range(200):
        (tmp_path / f"{number}").write_bytes(b"x")
    uploader = Uploader(
        bucket,
        job_dir=str(tmp_path),
        key_of=str,
        headers={},
        ledger=Ledger(),
        deadline=Deadline(60.0),
    )
    uploader.upload(collect(str(tmp_path), ["*"]).files)
    assert uploader._sent_bytes >= 200 * CALL_BYTES
    uploader._began_at = time.monotonic() - 40.0
    uploader._deadline = Deadline(20.0)
    assert uploader._fits(9 * 1024 * 1024)
