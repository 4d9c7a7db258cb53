"""CloudWatch Logs through aiobotocore: pages."""

from __future__ import annotations

import pytest

from tests.aws.local_world import LocalWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_empty_pages_do_not_end_a_sweep(local_world: LocalWorld) -> None:
    """CloudWatch answers with empty pages and a token when it looked at much and found nothing."""
    now_ms = local_world.clock.now_ms()
    await local_world.write_log("noise/1", [(now_ms - 1000 + n, "noise") for n in range(20)])
    await local_world.write_log("wanted/1", [(now_ms, "wanted")])
    local_world.ground.cloud.control.faults(log_scan_events=5)
    pages = [
        page async for page in local_world.logs.sweep(start_ms=now_ms - 5000, streams=["wanted/1"])
    ]
    assert [len(page) for page in pages] == [0, 0, 0, 0, 1]
