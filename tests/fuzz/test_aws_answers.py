"""The AWS adapter against answers that AWS never gives: a CloudError or a value, in time, and never "there is nothing".

Anything else than an OperatingError that leaves a port ends the daemon's process: that is what must not happen.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dstackd.aws import api as api_module
from dstackd.aws import bounded_session, session
from dstackd.aws import bucket as bucket_module
from dstackd.aws.access import AwsAccess
from dstackd.aws.backend import AwsBackend, open_backend
from dstackd.aws.recorder import CallRecorder
from dstackd.clock import SystemClock
from dstackd.core.ec2_limits import Ec2Limits
from dstackd.errors import CloudError, CloudUnavailable, InvalidRequest
from dstackd.simulated.places import REGION
from tests.builders import a_request
from tests.fuzz.answers import ANSWERS
from tests.fuzz.odd_server import Odd, http, odd_server

MANY = 100_000
LIMITS = Ec2Limits(
    run_instances_burst=MANY,
    run_instances_machines_burst=MANY,
    terminate_instances_burst=MANY,
    terminate_instances_machines_burst=MANY,
    describe_burst=MANY,
    other_burst=MANY,
)
CALL_S = 3.0
"""In the place of minutes."""
SLACK_S = 5.0
"""For a busy machine."""
BODY_BYTES = 300_000
"""In the place of 64 MiB."""

# After headers that are no text aiobotocore 3.10 lets go of an answer without closing it; the collector does.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Unclosed connection:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

Ask = Callable[[AwsBackend], Awaitable[object]]


async def _sweep(backend: AwsBackend) -> Sequence[object]:
    return [page async for page in backend.logs.sweep(start_ms=0)]


ASKED: dict[str, Ask] = {
    "snapshot": lambda backend: backend.compute.snapshot(),
    "reclaimed": lambda backend: backend.compute.reclaimed(),
    "open_requests": lambda backend: backend.compute.open_requests(),
    "cancel_requests": lambda backend: backend.compute.cancel_requests(["sir-1"]),
    "strangers": lambda backend: backend.compute.strangers(),
    "launch": lambda backend: backend.compute.launch(a_request()),
    "terminate": lambda backend: backend.compute.terminate(["i-1", "i-2"]),
    "instance_types": lambda backend: backend.compute.instance_types(),
    "subnets": lambda backend: backend.compute.subnets(),
    "spot_prices": lambda backend: backend.compute.spot_prices(["m5.large"]),
    "image": lambda backend: backend.compute.image("x86_64", gpu=False),
    "put": lambda backend: backend.bucket.put("k", b"x", only_if_new=True),
    "get": lambda backend: backend.bucket.get("k"),
    "exists": lambda backend: backend.bucket.exists("k"),
    "facts": lambda backend: backend.bucket.facts("k"),
    "renew": lambda backend: backend.bucket.renew("k"),
    "list": lambda backend: backend.bucket.list("p"),
    "delete": lambda backend: backend.bucket.delete(["k"]),
    "ensure_rules": lambda backend: backend.bucket.ensure_rules([]),
    "sweep": _sweep,
    "identity": lambda backend: backend.identity.ensure(),
}
SAYS_NOTHING = ("snapshot", "reclaimed", "open_requests", "strangers", "list", "sweep", "launch")
"""What must never be answered with "none" for something that cannot be read."""


@pytest.fixture(autouse=True)
def _in_seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No repeats, short time-outs, small bodies: the product's own, in a test's time."""
    monkeypatch.setattr(session, "ATTEMPTS_MAX", 1)
    monkeypatch.setattr(session, "READ_TIMEOUT_S", CALL_S)
    monkeypatch.setattr(api_module, "CALL_MAX_S", CALL_S)
    monkeypatch.setattr(bucket_module, "GET_MAX_S", CALL_S)
    monkeypatch.setattr(bucket_module, "GET_BYTES_MAX", BODY_BYTES)
    monkeypatch.setattr(bounded_session, "ANSWER_BYTES_MAX", BODY_BYTES)
    yield
    gc.collect()  # so that no other test hears of what was let go of here


@asynccontextmanager
async def a_backend(odd: Odd, folder: Path) -> AsyncIterator[AwsBackend]:
    """A backend whose every API is the server."""
    access = AwsAccess(
        region=REGION,
        bucket="b",
        endpoint_url=odd.url,
        access_key_id="k",
        secret_access_key="s",
        ec2_limits=LIMITS,
    )
    clock = SystemClock()
    async with open_backend(
        access, owner="o", clock=clock, recorder=CallRecorder(clock), cache_dir=folder
    ) as backend:
        yield backend


async def _outcome(ask: Ask, backend: AwsBackend) -> object:
    began_s = time.monotonic()
    result: object
    try:
        result = await ask(backend)
    except CloudError as error:
        result = error
    assert not isinstance(result, CloudError) or len(str(result)) < 20_000
    assert time.monotonic() - began_s < CALL_S + SLACK_S
    return result


@pytest.mark.parametrize("name", ASKED)
async def test_whatever_comes_is_a_cloud_error_or_a_value(name: str, tmp_path: Path) -> None:
    """Every port over every odd answer: nothing but a CloudError is raised, and what cannot be read is never nothing."""
    ask, silent = ASKED[name], []
    with odd_server() as odd:
        async with a_backend(odd, tmp_path) as backend:
            for shown, content in ANSWERS.items():
                odd.content = content
                result = await _outcome(ask, backend)
                if name in SAYS_NOTHING and not isinstance(result, CloudError):
                    silent.append((shown, result))
    allowed = (
        {"JSON for XML"} if name == "sweep" else set()
    )  # that one is FilterLogEvents' own "none"
    assert [each for each in silent if each[0] not in allowed] == []


@pytest.mark.parametrize("name", ["snapshot", "list", "sweep", "launch", "get", "facts"])
async def test_a_body_that_never_ends_has_an_end(name: str, tmp_path: Path) -> None:
    """Byte by byte within every socket's time-out, or as fast as the wire: the call is over in its time, with bounded memory."""
    with odd_server() as odd:
        async with a_backend(odd, tmp_path) as backend:
            odd.content = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<DescribeInstancesResponse>"
            odd.drip_s = 0.2
            if name != "facts":  # HEAD has no body
                assert isinstance(await _outcome(ASKED[name], backend), CloudUnavailable)
            odd.drip_s, odd.endless = 0.0, b"<item>" * 10_000
            result = await _outcome(ASKED[name], backend)
            assert isinstance(result, (CloudUnavailable, InvalidRequest))
            odd.content, odd.endless = b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000
            assert isinstance(await _outcome(ASKED[name], backend), CloudUnavailable)


async def test_pages_without_an_end_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is always another one is no reason to ask for ever."""
    monkeypatch.setattr(api_module, "PAGES_MAX", 5)
    asked: list[str] = []

    async def none_of(token: str) -> dict[str, str]:
        asked.append(token)
        return {"NextToken": f"{len(asked)}"}

    with odd_server() as odd:
        async with a_backend(odd, tmp_path) as backend:
            odd.content = http(
                b"<?xml version='1.0'?><ListBucketResult><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
            )
            with pytest.raises(CloudUnavailable, match="RepeatedPageToken"):
                await backend.bucket.list("p")
            assert odd.asked == 2
            s3 = api_module.Api.__new__(api_module.Api)
            s3._service = "s3"
            monkeypatch.setattr(s3, "call", lambda _operation, **given: none_of(str(given)))
            with pytest.raises(CloudUnavailable, match="TooManyPages"):
                _ = [page async for page in s3.pages("ListObjectsV2")]
    assert len(asked) == 5
