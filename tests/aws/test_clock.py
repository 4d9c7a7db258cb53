"""What time it is for the daemon, once AWS has answered."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dstackd.aws.access import AwsAccess
from dstackd.aws.recorder import CallRecorder
from dstackd.aws.session import open_clients
from dstackd.aws.translation import date_of
from dstackd.clock import SystemClock
from tests.aws.local_world import REGION, Ground

NEAR_MS = 60_000
"""What the slowest call of a busy test machine may take."""


def set_wall_clock(patch: pytest.MonkeyPatch, *, off_s: int, now_ns: Callable[[], int]) -> None:
    """Of this process, for those who ask as the daemon does."""
    patch.setattr(time, "time_ns", lambda: now_ns() + off_s * 10**9)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("off_s", [-200, 200, 86_400])
async def test_an_answer_sets_the_daemons_clock(
    off_s: int, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However wrong the host's clock is, and wherever it jumps from then on, the daemon's shows AWS's time."""
    now_ns = time.time_ns
    set_wall_clock(monkeypatch, off_s=off_s, now_ns=now_ns)
    clock = SystemClock()
    assert clock.now_ms() - now_ns() // 10**6 == pytest.approx(off_s * 1000, abs=NEAR_MS)
    access = AwsAccess(
        region=REGION,
        bucket="anything",
        endpoint_url=ground.cloud.endpoint_url,
        access_key_id="test",
        secret_access_key="test",
    )
    async with open_clients(access, recorder=CallRecorder(clock), clock=clock) as clients:
        await clients.sts.call("GetCallerIdentity")
    for later_s in (off_s, -off_s, 0):
        set_wall_clock(monkeypatch, off_s=later_s, now_ns=now_ns)
        assert clock.now_ms() == pytest.approx(now_ns() // 10**6, abs=NEAR_MS)


def test_a_right_clock_is_not_moved() -> None:
    """Each answer of a cloud whose clock is ours leaves it where it is."""
    clock = SystemClock()
    for _ in range(5):
        told_ms = time.time_ns() // 10**9 * 1000
        assert clock.learn(told_ms, took_s=0.2) == 0


@pytest.mark.parametrize(
    ("headers", "expected_ms"),
    [
        ({"date": "Tue, 24 Nov 2026 18:00:00 GMT"}, 1_795_543_200_000),
        ({}, None),
        ({"date": ""}, None),
        ({"date": "yesterday"}, None),
        ({"date": "Tue, 99 Nov 2026 18:00:00 GMT"}, None),
        ({"date": "Tue, 24 Nov 99999999 18:00:00 GMT"}, None),
    ],
)
def test_a_date_that_is_none_tells_nothing(
    headers: dict[str, str], expected_ms: int | None
) -> None:
    """The header of an answer is read as far as it is one."""
    assert date_of({"ResponseMetadata": {"HTTPHeaders": headers}}) == expected_ms
    assert date_of({}) is None
