"""Calls to AWS and to the metadata service: what is repeated, what is not, and what is noticed."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.download import Download, Wanted, WrongDigest
from dstackd.runner.errors import AwsError, Unreachable
from dstackd.runner.identity import read_identity
from dstackd.runner.imds import Imds
from dstackd.runner.inbox import Reporter
from dstackd.runner.journal import Journal
from dstackd.runner.s3 import Bucket
from dstackd.runner.wall_clock import IGNORED_S, WallClock
from tests.runner.conftest import wait_until
from tests.runner.loopback import Canned, ScriptedServer, credentials, metadata, scripted

CONTENT = b"content " * 100
DIGEST = protocol.sha256_hex(CONTENT)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as running:
        yield running


@pytest.fixture
def bucket(server: ScriptedServer) -> Iterator[Bucket]:
    bucket = Bucket("b", region="r", credentials=credentials(), endpoint_url=server.url)
    yield bucket
    bucket.close()


def an_error(code: str, status: int, **headers: str) -> Canned:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    return Canned(status, body, headers)


@pytest.mark.parametrize(
    "answer",
    [
        Canned(500),
        Canned(503, b"<html>a proxy's own words</html>"),
        Canned(429),
        an_error("SlowDown", 503),
        an_error("AccessDenied", 403),
        an_error("ExpiredToken", 400),
        an_error("ConditionalRequestConflict", 409),
        Canned(body=CONTENT, cut=True),
    ],
)
def test_what_may_work_later_is_repeated(
    server: ScriptedServer, bucket: Bucket, answer: Canned
) -> None:
    """The caller sees only the answer that counts."""
    server.answers = [answer, answer, Canned(body=CONTENT)]
    assert bucket.get("k", patience_s=10) == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", ["NoSuchBucket", "PreconditionFailed", "KeyTooLongError"])
def test_what_is_wrong_is_not_repeated(server: ScriptedServer, bucket: Bucket, code: str) -> None:
    """One call, and AWS's own word for it."""
    server.answers = [an_error(code, 400)]
    with pytest.raises(AwsError) as caught:
        bucket.put("k", b"", patience_s=10)
    assert (caught.value.code, len(server.asked)) == (code, 1)


def test_patience_ends(server: ScriptedServer, bucket: Bucket) -> None:
    """The last error is raised when another try would come too late."""
    server.answers = [Canned(500)] * 50
    with pytest.raises(AwsError, match="HTTP500"):
        bucket.get("k", patience_s=0.5)
    assert 1 <= len(server.asked) < 6


def test_connections_stay_open_and_a_closed_one_is_no_failure(
    server: ScriptedServer, bucket: Bucket
) -> None:
    """Many calls take one connection; one that the other side closed is replaced in silence."""
    for _ in range(5):
        bucket.put("k", b"x", patience_s=0)
    assert server.connections == 1
    server.answers = [Canned(headers={"connection": "close"})]
    for _ in range(3):
        bucket.put("k", b"x", patience_s=0)
    assert server.connections == 2


def test_a_wrong_clock_is_corrected(server: ScriptedServer, bucket: Bucket) -> None:
    """AWS's Date tells a machine without NTP what to sign with."""
    ahead = email.utils.formatdate(time.time() + 7200, usegmt=True)
    server.answers = [an_error("RequestTimeTooSkewed", 403, date=ahead)]
    bucket.put("k", b"", patience_s=10)
    first, second = [request.headers["x-amz-date"] for request in server.asked]
    assert int(second[9:11]) - int(first[9:11]) in {2, -22}


@given(off_s=st.floats(-90_000, 90_000), before_s=st.floats(0, 200), after_s=st.floats(0, 200))
def test_any_answer_tells_a_wrong_clock(off_s: float, before_s: float, after_s: float) -> None:
    """However long an answer took, it makes no right clock wrong, and a wrong one right to within that time."""
    clock = WallClock()
    ours = time.time()
    date = email.utils.formatdate(ours - after_s + off_s, usegmt=True)
    clock.learn(date, asked_at=ours - before_s - after_s)
    left_s = clock.now() - time.time() - off_s
    assert abs(left_s) <= max(before_s, after_s) + 1.5 + IGNORED_S
    if off_s == 0:
        assert clock.now() - time.time() == pytest.approx(0, abs=0.5)
    settled = clock.now() - time.time()
    clock.learn(date, asked_at=ours - before_s - after_s)
    assert clock.now() - time.time() == pytest.approx(settled, abs=0.5)


def test_a_download_cut_short_begins_again(
    server: ScriptedServer, bucket: Bucket, tmp_path: Path
) -> None:
    """What came before the cut is not in the file."""
    server.answers = [Canned(body=CONTENT, cut=True), Canned(body=CONTENT)]
    Download(bucket).fetch([Wanted("k", str(tmp_path / "file"), sha256=DIGEST, mode=0o640)])
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_wrong_digest_leaves_nothing(
    server: ScriptedServer, bucket: Bucket, tmp_path: Path
) -> None:
    """Neither the file nor a part of it."""
    server.answers = [Canned(body=b"other")]
    with pytest.raises(WrongDigest):
        Download(bucket).fetch([Wanted("k", str(tmp_path / "file"), sha256=DIGEST)])
    assert list(tmp_path.iterdir()) == []


def test_reports_wait_for_the_bucket_in_order(server: ScriptedServer, bucket: Bucket) -> None:
    """While the bucket refuses, reporting returns at once; then all arrive, as they were told."""
    server.answers = [Canned(503)] * 3
    reporter = Reporter(bucket, instance_id="i-1", journal=Journal())
    reporter.start()
    reporter.report("booted", "v")
    reporter.know_job("a/b", 2)
    reporter.report("exited", "0", "exit")
    assert reporter.close(patience_s=20)
    keys = [request.target.removeprefix("/b/") for request in server.asked]
    events = [
        protocol.decode_inbox_key(key.replace("%21", "!").replace("%3D", "=")) for key in keys
    ]
    assert [event and (event.seq, event.kind, event.job_id) for event in events] == [
        *[(1, "booted", "-")] * 4,
        (2, "exited", "a/b"),
    ]


def test_the_bucket_may_stay_away(server: ScriptedServer, bucket: Bucket) -> None:
    """Closing the reporter ends within its patience, and says that not all was told."""
    server.answers = [Canned(503)] * 1000
    reporter = Reporter(bucket, instance_id="i-1", journal=Journal())
    reporter.start()
    reporter.report("booted", "v")
    assert not reporter.close(patience_s=0.3)
    server.answers = []
    wait_until(lambda: not reporter._thread.is_alive())


def test_identity_waits_for_the_tags() -> None:
    """Tags may appear some time after the first second."""
    server, imds = metadata(tags={})
    with pytest.raises(Unreachable, match="dstack_bucket"):
        read_identity(imds, patience_s=0.3)
    server.update({"tags": {"dstack_bucket": "b", "dstackd:launch": "l"}, "launch_index": 3})
    identity = read_identity(imds, patience_s=5)
    assert (identity.bucket, identity.launch_id, identity.launch_index) == ("b", "l", 3)


def test_a_token_that_ended_is_renewed() -> None:
    """The metadata service forgets its tokens when the instance is moved or restarted."""
    server, imds = metadata()
    assert imds.get("meta-data/instance-id") == "i-0123456789abcdef0"
    server._tokens.clear()
    assert imds.get("meta-data/instance-id") == "i-0123456789abcdef0"
    assert imds.get("meta-data/spot/instance-action") is None


def test_credentials_are_renewed_before_they_end(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once while they are good, again from five minutes before their end."""
    now = time.time()
    clock = {"now": now}
    monkeypatch.setattr("dstackd.runner.credentials.time.time", lambda: clock["now"])
    imds = Imds(server.url)
    source = InstanceCredentials(imds)

    def offer(key_id: str, *, end_s: float) -> None:
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + end_s))
        role = {"AccessKeyId": key_id, "SecretAccessKey": "s", "Token": "t", "Expiration": end}
        server.answers = [Canned(body=b"role"), Canned(body=json.dumps(role).encode())]

    server.answers = []
    offer("first", end_s=3600)
    server.answers.insert(0, Canned(body=b"token"))
    assert source.current().access_key_id == "first"
    clock["now"] = now + 3200
    assert source.current().access_key_id == "first"
    clock["now"] = now + 3301
    offer("second", end_s=7200)
    assert source.current().access_key_id == "second"
    source.distrust()
    server.answers = [Canned(500)]
    assert source.current().access_key_id == "second"
    imds.close()
