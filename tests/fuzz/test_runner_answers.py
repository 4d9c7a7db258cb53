"""The machine's side against answers that AWS never gives: a RunnerError or a value, in time and with bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from typing_extensions import override

from dstackd.runner import wire
from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import RunnerError, Unreachable
from dstackd.runner.imds import Imds
from dstackd.runner.logs import LogStream
from dstackd.runner.s3 import Bucket
from dstackd.runner.s3_listing import list_objects, read_page
from dstackd.runner.sigv4 import Credentials
from tests.fuzz.answers import ANSWERS
from tests.fuzz.hostile import MEGABYTE
from tests.fuzz.odd_server import Odd, http, odd_server

SOCKET_S = 1.0
SLACK_S = 6.0
BODY_BYTES = 300_000


@pytest.fixture(autouse=True)
def _in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstackd.runner.aws.TIMEOUT_S", SOCKET_S)
    monkeypatch.setattr("dstackd.runner.imds.TIMEOUT_S", SOCKET_S)
    monkeypatch.setattr(wire, "BODY_BYTES_MAX", BODY_BYTES)
    monkeypatch.setattr(wire, "WHOLE_TIMEOUTS", 2)


@pytest.fixture
def odd() -> Iterator[Odd]:
    with odd_server() as server:
        yield server


class Sink:
    """Counts."""

    def begin(self) -> None:
        self.size = 0

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)


class FixedRole(InstanceCredentials):
    """Without a metadata service."""

    def __init__(self) -> None:
        super().__init__(Imds("http://127.0.0.1:9"))

    @override
    def current(self) -> Credentials:
        return Credentials("k", "s", "t")


@contextmanager
def calling(odd: Odd) -> Iterator[dict[str, Callable[[], object]]]:
    """Every call that a machine makes."""
    bucket = Bucket("b", region="r", credentials=FixedRole(), endpoint_url=odd.url)
    logs = AwsApi("logs", url=odd.url, region="r", credentials=FixedRole())
    imds = Imds(odd.url)
    try:
        yield _calls(bucket, LogStream(logs, group="g", stream="s"), imds)
    finally:
        for each in (bucket, logs, imds):
            each.close()


def _calls(bucket: Bucket, stream: LogStream, imds: Imds) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: bucket.get("k", patience_s=0),
        "head": lambda: bucket.head("k", patience_s=0),
        "put": lambda: bucket.put("k", b"x", patience_s=0),
        "list": lambda: list(list_objects(bucket, "p", patience_s=0)),
        "download": lambda: bucket.download("k", Sink(), patience_s=0),
        "begin": lambda: bucket.begin_multipart("k", patience_s=0),
        "part": lambda: bucket.put_part("k", "u", number=1, body=b"x", patience_s=0),
        "complete": lambda: bucket.complete_multipart("k", "u", parts=[("e", "d")], patience_s=0),
        "create": lambda: stream.create(patience_s=0),
        "send": lambda: stream.put([(1, "m")], patience_s=0),
        "imds": lambda: imds.get("meta-data/x"),
        "role": lambda: InstanceCredentials(imds).current(),
    }


def outcome(call: Callable[[], object], *, within_s: float) -> object:
    """What it returned, or its RunnerError."""
    began_s = time.monotonic()
    result: object
    try:
        result = call()
    except RunnerError as error:
        result = error
    assert time.monotonic() - began_s < within_s
    return result


NAMES = (
    *("get", "head", "put", "list", "download", "begin", "part", "complete"),
    *("create", "send", "imds", "role"),
)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_comes_is_a_runner_error_or_a_value(odd: Odd, name: str) -> None:
    """Every call over every odd answer raises nothing but a RunnerError, and a list that cannot be read is never empty."""
    with calling(odd) as calls:
        assert set(NAMES) == set(calls)
        for shown, content in ANSWERS.items():
            odd.content = content
            result = outcome(calls[name], within_s=SLACK_S)
            if name in {"list", "begin"}:
                assert isinstance(result, RunnerError), shown


@pytest.mark.parametrize("name", ["get", "list", "send", "imds"])
def test_a_body_that_never_ends_has_an_end(odd: Odd, name: str) -> None:
    """Byte by byte, or as fast as the wire: it is given up in its time, with bounded memory."""
    odd.content = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    with calling(odd) as calls:
        odd.drip_s = 0.2
        assert isinstance(outcome(calls[name], within_s=2 * SOCKET_S + SLACK_S), Unreachable)
        odd.drip_s, odd.endless = 0.0, b"x" * 65_536
        assert isinstance(outcome(calls[name], within_s=SLACK_S), Unreachable)


def test_a_list_without_an_end_has_an_end(odd: Odd) -> None:
    """A token that comes back is an error; nothing is asked for ever."""
    odd.content = http(
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    )
    with calling(odd) as calls:
        result = outcome(calls["list"], within_s=SLACK_S)
    assert isinstance(result, Unreachable)
    assert odd.asked == 2


@pytest.mark.parametrize(
    "inside",
    [
        "<Contents>" * (MEGABYTE // 10),
        "<Contents><Key>" * (MEGABYTE // 15),
        "<Contents><Key>&#" + "9" * MEGABYTE,
        "<Contents><Key>a</Key><Size>" + "9" * MEGABYTE + "</Size></Contents>",
        "<Contents><Key>a</Key><Size>٣</Size></Contents>",
        "<Contents><Key>" + "%" * MEGABYTE,
    ],
)
def test_a_list_of_nonsense_is_refused_in_no_time(inside: str) -> None:
    """Each character is looked at once: a megabyte of unclosed elements is no work."""
    page = f"<ListBucketResult>{inside}</ListBucketResult>".encode()
    began_s = time.monotonic()
    with pytest.raises(Unreachable):
        read_page(page)
    assert time.monotonic() - began_s < 2.0
