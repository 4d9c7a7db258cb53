"""No thread of the runner dies in silence: what nobody expected is said once, and the thread goes on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typing_extensions import override

from dstackd import protocol
from dstackd.launch_document import ArtifactDocument
from dstackd.runner.artifact_rounds import ArtifactRounds
from dstackd.runner.aws import AwsApi
from dstackd.runner.batches import Batcher
from dstackd.runner.control import Watch
from dstackd.runner.inbox import Reporter
from dstackd.runner.job_log import OURS, JobLog
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.s3 import Bucket
from dstackd.runner.shipper import Shipper
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from dstackd.runner.unexpected import Unexpected
from tests.runner.conftest import a_job, wait_until
from tests.runner.loopback import CloudWatch, credentials, metadata, scripted
from tests.runner.test_control import DOCUMENT, INSTANCE_ID
from tests.runner.test_shipper import api, arrived, server

__all__ = ["api", "server"]


class Fails:
    """Raises what nobody expects, so many times."""

    def __init__(self, times: int, error: type[Exception] = RuntimeError) -> None:
        self._left = times
        self._error = error

    def perhaps(self) -> None:
        if self._left > 0:
            self._left -= 1
            raise self._error("can't start new thread")


class FailingStream(LogStream):
    fails: Fails

    @override
    def put_encoded(self, entries: bytes, *, patience_s: float) -> str:
        self.fails.perhaps()
        return super().put_encoded(entries, patience_s=patience_s)


class FailingBucket(Bucket):
    fails: Fails

    @override
    def put(
        self,
        key: str,
        body: bytes,
        *,
        patience_s: float,
        headers: Mapping[str, str] | None = None,
        only_if_new: bool = False,
        digest: bytes = b"",
    ) -> None:
        self.fails.perhaps()
        super().put(
            key,
            body,
            patience_s=patience_s,
            headers=headers,
            only_if_new=only_if_new,
            digest=digest,
        )


class FailingLog(JobLog):
    fails: Fails

    @override
    def feed(self, source: str, chunk: bytes) -> None:
        self.fails.perhaps()
        super().feed(source, chunk)

    @override
    def look(self) -> None:
        self.fails.perhaps()
        super().look()


def shipped(
    log: JobLog, read: Callable[[], bytes | None], stream: LogStream, journal: Journal
) -> Shipper:
    shipper = Shipper(log, Batcher(read), stream, flush_s=0.05, journal=journal)
    shipper.start()
    return shipper


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "unexpected" in line]


def test_the_shipper_survives_its_stream(
    server: CloudWatch,
    api: AwsApi,
    spool: Spool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two calls raise; all lines arrive, once, and it was said once."""
    stream = FailingStream(api, group="g", stream="s")
    stream.fails = Fails(2)
    log = JobLog(spool)
    shipper = shipped(log, log.next_record, stream, Journal())
    log.feed("stdout", b"a\nb\n")
    wait_until(lambda: shipper.sent_lines == 2)
    log.feed("stdout", b"c\n")
    log.close()
    assert shipper.finish(patience_s=20)
    assert [line.text for line in arrived(server)] == ["a", "b", "c"]
    assert shipper.is_well
    (line,) = said(capsys)
    assert "logs: unexpected: RuntimeError: can't start new thread (test_threads.py:" in line


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_the_shipper_survives_its_log_and_its_spool(
    server: CloudWatch,
    api: AwsApi,
    spool: Spool,
    error: type[Exception],
) -> None:
    """What was read when it failed is not lost, also when the log was closed meanwhile."""
    log = FailingLog(spool)
    log.fails = Fails(0)
    log.feed("stdout", b"a\nb\n")
    log.feed("stdout", b"c\n")
    log.close()
    log.fails = Fails(1, error)
    reads = Fails(0)

    def read() -> bytes | None:
        # After the first record, in the middle of a batch.
        record = log.next_record()
        if record is None:
            reads.perhaps()
        return record

    reads = Fails(2, error)
    shipper = shipped(log, read, LogStream(api, group="g", stream="s"), Journal())
    assert shipper.finish(patience_s=20)
    assert [line.text for line in arrived(server)] == ["a", "b", "c"]


def test_the_reporter_survives_its_bucket(capsys: pytest.CaptureFixture[str]) -> None:
    """The report is written at the third try, the later ones behind it."""
    with scripted() as s3:
        bucket = FailingBucket(
            "a-bucket", region="us-east-1", credentials=credentials(), endpoint_url=s3.url
        )
        bucket.fails = Fails(2)
        reporter = Reporter(bucket, instance_id=INSTANCE_ID, journal=Journal())
        reporter.start()
        assert reporter.is_well
        reporter.report(protocol.BOOTED, "1")
        reporter.report(protocol.STARTED)
        assert reporter.close(patience_s=20)
        bucket.close()
        assert len(s3.asked) == 2
    assert len(said(capsys)) == 1


def test_a_watch_survives_what_it_meets(capsys: pytest.CaptureFixture[str]) -> None:
    """The heartbeat fails three times with what nobody expects, and is given again."""
    _, imds = metadata()
    with scripted() as s3:
        bucket = FailingBucket(
            "a-bucket", region="us-east-1", credentials=credentials(), endpoint_url=s3.url
        )
        bucket.fails = Fails(3)
        journal = Journal()
        journal.say("something to ship")
        reporter = Reporter(bucket, instance_id=INSTANCE_ID, journal=journal)

        class Nowhere(LogStream):
            @override
            def create(self, *, patience_s: float) -> None:
                raise RuntimeError("no stream")

        unused = AwsApi("logs", url=s3.url, region="us-east-1", credentials=credentials())
        watch = Watch(
            instance_id=INSTANCE_ID,
            stop_grace_s=1.0,
            imds=imds,
            bucket=bucket,
            switch=StopSwitch(),
            reporter=reporter,
            journal=journal,
            journal_stream=Nowhere(unused, group="g", stream="s"),
        )
        watch.start(DOCUMENT)
        try:
            wait_until(lambda: any(protocol.HEARTBEAT_PREFIX in each.target for each in s3.asked))
        finally:
            watch.stop()
            names = {"spot", "rebalance", "control", "silence", "heartbeat", "journal"}
            wait_until(lambda: not names & {each.name for each in threading.enumerate()})
            bucket.close()
            imds.close()
    lines = said(capsys)
    assert len([line for line in lines if "heartbeat: unexpected" in line]) == 1
    assert len([line for line in lines if "journal: unexpected" in line]) == 1


def test_the_rounds_survive_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A round that raises what nobody expects is not the last one."""
    (tmp_path / "model").write_text("x")
    job = a_job(artifacts=(ArtifactDocument("model", 0.05),))
    with scripted() as s3:
        bucket = Bucket("b", region="r", credentials=credentials(), endpoint_url=s3.url)

        class Rounds(ArtifactRounds):
            fails = Fails(2)
            made = 0

            @override
            def round(self, patterns: object) -> None:
                self.fails.perhaps()
                self.made += 1

        rounds = Rounds(job, job_dir=str(tmp_path), bucket=bucket, journal=Journal())
        rounds.start()
        wait_until(lambda: rounds.made > 1)
        rounds.stop()
        bucket.close()
    assert len(said(capsys)) == 1


def test_our_own_lines_are_masked(spool: Spool) -> None:
    """They may hold what a program said that was given the secret."""
    log = JobLog(spool, mask=lambda text: text.replace("hunter2", "***"))
    log.say("image: cannot log in with hunter2")
    log.close()
    (record,) = iter(log.next_record, None)
    assert b"hunter2" not in record
    assert b"log in with ***" in record
    assert OURS.encode() in record


def test_a_journal_that_nobody_reads_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is closed, or its disk is full."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w", buffering=1))
    Journal().say("hello")
    with pytest.raises(BrokenPipeError):
        sys.stdout.close()


def test_each_kind_is_said_once() -> None:
    """Where it came from tells kinds apart; pauses grow, and begin anew when it went well."""
    words: list[str] = []
    unexpected = Unexpected("loop", words.append)
    fails = Fails(10)

    def meet() -> float:
        try:
            fails.perhaps()
        except RuntimeError as error:
            return unexpected.met(error)
        return 0.0

    pauses = [meet() for _ in range(8)]
    assert len(words) == 1
    assert pauses[-1] > pauses[0]
    unexpected.passed()
    assert meet() < pauses[-1]
    unexpected.met(KeyError("x"))
    assert words[1:] == ["loop: unexpected: KeyError: 'x' (nowhere)"]


def test_what_cannot_be_said_is_not_raised() -> None:
    """Without memory, nothing can be said."""

    def full(_: str) -> None:
        raise MemoryError

    assert Unexpected("loop", full).met(MemoryError()) > 0
