"""The way of the lines into CloudWatch, against a server that refuses what AWS refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd.bootstrap.zipapp import build_runner
from dstackd.protocol import LogLine, decode_log_line
from dstackd.runner.aws import AwsApi
from dstackd.runner.batches import Batcher
from dstackd.runner.flush import flush
from dstackd.runner.job_log import STDERR, STDOUT, JobLog
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.power import LOCAL_VARIABLE
from dstackd.runner.shipper import Shipper, start_log
from dstackd.runner.spool import Spool
from tests.runner.conftest import wait_until
from tests.runner.loopback import CloudWatch, cloudwatch, credentials, metadata


@pytest.fixture
def server() -> Iterator[CloudWatch]:
    with cloudwatch() as running:
        yield running


@pytest.fixture
def api(server: CloudWatch) -> Iterator[AwsApi]:
    api = AwsApi("logs", url=server.url, region="us-east-1", credentials=credentials())
    yield api
    api.close()


def start(api: AwsApi, spool: Spool, *, flush_s: float = 0.05) -> tuple[JobLog, Shipper]:
    log = JobLog(spool)
    shipper = Shipper(
        log,
        Batcher(log.next_record),
        LogStream(api, group="g", stream="s"),
        flush_s=flush_s,
        journal=Journal(),
    )
    shipper.start()
    return log, shipper


def arrived(server: CloudWatch) -> list[LogLine]:
    with server.lock:
        lines = [decode_log_line(message) for message in server.streams.get("s", [])]
    return [line for line in lines if line is not None]


def test_lines_of_both_sources_are_numbered_without_gaps(
    server: CloudWatch, api: AwsApi, spool: Spool
) -> None:
    """Two writers at once; every line arrives once, numbered as it came, each source in order."""
    log, shipper = start(api, spool)

    def write(source: str) -> None:
        for n in range(2000):
            log.feed(source, f"{source} {n}\n".encode())

    writers = [threading.Thread(target=write, args=(source,)) for source in (STDOUT, STDERR)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    log.close()
    assert shipper.finish(patience_s=20)
    lines = arrived(server)
    assert [line.n for line in lines] == list(range(1, 4001))
    for source in (STDOUT, STDERR):
        assert [line.text for line in lines if line.source == source] == [
            f"{source} {n}" for n in range(2000)
        ]
    assert (log.lines, log.size_bytes) == (4000, sum(len(line.text) for line in lines))


def test_long_output_goes_in_full_batches(server: CloudWatch, api: AwsApi, spool: Spool) -> None:
    """What piles up in one flush interval takes few calls, each within the limits."""
    log, shipper = start(api, spool, flush_s=30)
    log.feed(STDOUT, b"first\n")
    wait_until(lambda: arrived(server))
    log.feed(STDOUT, b"x" * 99 + b"\n" * 25_000)
    log.feed(STDOUT, (b"y" * 150_000 + b"\n") * 20)
    log.close()
    assert shipper.finish(patience_s=20)
    assert len(arrived(server)) == 25_021
    assert max(server.batches) == 10_000
    assert len(server.batches) <= 8


def test_the_first_line_does_not_wait(server: CloudWatch, api: AwsApi, spool: Spool) -> None:
    """A flush interval of an hour holds back the second line, not the first."""
    log, shipper = start(api, spool, flush_s=3600)
    log.feed(STDOUT, b"up\n")
    wait_until(lambda: [line.text for line in arrived(server)] == ["up"])
    log.feed(STDOUT, b"half a li")
    log.close()
    assert shipper.finish(patience_s=20)
    assert [line.text for line in arrived(server)] == ["up", "half a li"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, "InternalFailure"),
        (503, "ServiceUnavailableException"),
        (400, "ThrottlingException"),
        (400, "AccessDeniedException"),
        (400, "ExpiredTokenException"),
        (400, "ResourceNotFoundException"),
    ],
)
def test_a_refused_batch_is_sent_again(
    server: CloudWatch, api: AwsApi, spool: Spool, answer: tuple[int, str]
) -> None:
    """Trouble on AWS's side delays lines and loses none."""
    server.answers = [answer] * 3
    log, shipper = start(api, spool)
    log.feed(STDOUT, b"a\nb\n")
    wait_until(lambda: not server.answers)
    log.feed(STDOUT, b"c\n")
    log.close()
    assert shipper.finish(patience_s=20)
    assert [line.text for line in arrived(server)] == ["a", "b", "c"]


def test_a_group_that_comes_late_gets_all_lines(
    server: CloudWatch, api: AwsApi, spool: Spool
) -> None:
    """The job goes on while there is no log group, and its lines wait on disk."""
    server.has_group = False
    log, shipper = start(api, spool)
    log.feed(STDOUT, b"line\n" * 1000)
    wait_until(lambda: not shipper.sent_lines)
    server.has_group = True
    log.close()
    assert shipper.finish(patience_s=20)
    assert len(arrived(server)) == 1000


def test_patience_ends(server: CloudWatch, api: AwsApi, spool: Spool) -> None:
    """A CloudWatch that never answers cannot keep a machine; the count says what is missing."""
    server.has_group = False
    log, shipper = start(api, spool)
    log.feed(STDOUT, b"line\n" * 10)
    log.close()
    assert not shipper.finish(patience_s=0.3)
    assert (shipper.sent_lines, log.lines) == (0, 10)


def test_a_bar_is_shown_while_it_moves(server: CloudWatch, api: AwsApi, spool: Spool) -> None:
    """Its state arrives although no line end was written, also the one at which it stopped."""
    log, shipper = start(api, spool)
    log.feed(STDOUT, b"\r10%")
    log.feed(STDOUT, b"\r20%")
    wait_until(lambda: [line.text for line in arrived(server)] == ["10%", "20%"])
    log.close()
    assert shipper.finish(patience_s=20)
    assert log.lines == 2


def test_what_a_killed_runner_left_is_sent(tmp_path: Path, server: CloudWatch) -> None:
    """`flush` sends what the spool of a runner without an end still holds; what comes twice has the same number."""
    metadata_server, _ = metadata()
    environ = {
        LOCAL_VARIABLE: f"http://127.0.0.1:{metadata_server.port}",
        "AWS_ENDPOINT_URL": server.url,
    }
    api = AwsApi("logs", url=server.url, region="us-east-1", credentials=credentials())
    server.answers = [(500, "InternalFailure")] * 1000
    folder = tmp_path / "spool" / "job-1-1"
    log, shipper = start_log(
        str(folder), logs=api, group="g", stream="s", flush_s=0.05, journal=Journal()
    )
    log.feed(STDOUT, b"line\n" * 3000)
    wait_until(lambda: len(server.answers) < 1000)
    assert not shipper.finish(patience_s=0)
    with next(folder.rglob("*.log")).open("ab") as segment:
        segment.write(b'5 1 30 {"timestamp":5,"mess')
    server.answers.clear()
    assert flush(str(tmp_path), environ=environ) == 3000
    (tmp_path / "runner.pyz").write_bytes(build_runner().content)
    again = subprocess.run(
        [sys.executable, "-I", tmp_path / "runner.pyz", "flush"],
        env={**environ, "PATH": ""},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"3000 lines sent" in again.stdout
    assert len(arrived(server)) == 6000
    assert {line.n for line in arrived(server)} == set(range(1, 3001))
    assert flush(str(tmp_path / "nothing"), environ=environ) == 0
    api.close()
