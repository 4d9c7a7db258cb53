"""The clients: what they refuse to send, what is counted, and how a whole backend is opened."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from dstackd.aws.access import BUCKET_LENGTH_MAX, AwsAccess
from dstackd.aws.api import Api
from dstackd.aws.backend import open_backend
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.untyped import Untyped
from dstackd.clock import SystemClock
from dstackd.errors import CloudUnavailable, ConfigError, InvariantError
from tests.aws.local_world import Ground, LocalWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_operation_outside_the_table_is_not_sent(ground: Ground) -> None:
    """Neither our own way of calling nor the client itself lets another operation out."""
    before = ground.cloud.control.calls()["client"]
    with pytest.raises(InvariantError):
        await ground.clients.ec2.call("StopInstances", InstanceIds=["i-1"])
    with pytest.raises(InvariantError):
        await ground.clients.ec2._client.stop_instances(InstanceIds=["i-1"])
    assert ground.cloud.control.calls()["client"] == before


async def test_a_backend_is_opened_used_and_counted(
    local_world: LocalWorld, tmp_path: Path
) -> None:
    """The composition root gets every part from one place, and each attempt is counted once."""
    clock = SystemClock()
    recorder = CallRecorder(clock)
    async with open_backend(
        local_world.access,
        owner=local_world.owner,
        clock=clock,
        recorder=recorder,
        cache_dir=tmp_path / "cache",
    ) as backend:
        assert recorder.stats == {}
        await backend.bucket.put("dstackd/a", b"1")
        assert not await backend.bucket.exists("dstackd/b")
        assert (await backend.compute.snapshot()).instances == {}
        assert await backend.compute.subnets()
        identity = await backend.identity.ensure()
        assert identity == await local_world.identity.ensure()
        assert [page async for page in backend.logs.sweep(start_ms=0)] == [()]
    stats = recorder.stats
    assert {name: one.attempts for name, one in stats.items() if name.startswith("s3:")} == {
        "s3:PutObject": 1,
        "s3:HeadObject": 1,
    }
    assert stats["s3:HeadObject"].failures == {"404": 1}
    assert stats["s3:HeadObject"].last_trouble_at_ms is None
    put = stats["s3:PutObject"]
    assert put.failures == {}
    assert 0 < put.seconds_total == put.seconds_max < 30
    assert put.last_ok_at_ms is not None


async def test_a_launch_is_sent_once_even_when_nobody_answers(
    local_world: LocalWorld, tmp_path: Path
) -> None:
    """The SDK repeats other calls and counts as trouble what got no answer; it never repeats a launch."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        access = replace(local_world.access, endpoint_url=nowhere)
        recorder = CallRecorder(local_world.clock)
        opened = open_backend(
            access,
            owner=local_world.owner,
            clock=local_world.clock,
            recorder=recorder,
            cache_dir=tmp_path,
        )
        request = await local_world.template()
        async with opened as backend:
            with pytest.raises(CloudUnavailable):
                await backend.compute.launch(replace(request, client_token="t"))
            with pytest.raises(CloudUnavailable):
                await backend.bucket.exists("dstackd/a")
    assert recorder.stats["ec2:RunInstances"].attempts == 1
    head = recorder.stats["s3:HeadObject"]
    assert head.attempts == 3
    assert (head.last_ok_at_ms, head.last_trouble_code) == (None, "EndpointConnectionError")


class Turning(Api):
    """A page token that never changes."""

    def __init__(self) -> None:
        pass

    @override
    async def call(self, operation: str, /, **parameters: Untyped) -> dict[str, Untyped]:
        return {"NextToken": "again", "operation": operation, **parameters}


async def test_a_page_token_that_repeats_is_an_error() -> None:
    """A sweep ends, whatever AWS answers."""
    api = Turning()
    api._service = "ec2"
    with pytest.raises(CloudUnavailable):
        _ = [page async for page in api.pages("DescribeInstances")]


async def test_access_is_checked_and_keeps_its_secret() -> None:
    """A bucket name that IAM cannot carry and half a key are refused; the secret is in no repr."""
    AwsAccess(region="r", bucket="b" * BUCKET_LENGTH_MAX)
    with pytest.raises(ConfigError, match="52"):
        AwsAccess(region="r", bucket="b" * (BUCKET_LENGTH_MAX + 1))
    with pytest.raises(ConfigError, match="both"):
        AwsAccess(region="r", bucket="b", access_key_id="AKIA")
    access = AwsAccess(region="r", bucket="b", access_key_id="AKIA", secret_access_key="hush")
    assert "hush" not in repr(access)
