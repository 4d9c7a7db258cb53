"""The same through connections that are awaited."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dstackd.client import NewJob, UnknownJob, aio
from tests.client.places import ASYNC_KINDS

SPEC = {"commands": ["true"]}
AT = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize("kind", ASYNC_KINDS)
async def test_a_job_from_its_insert_to_its_end(kind: str, url: str) -> None:
    """Inserted in the caller's transaction, once a key; seen after the commit; cancelled; waited for."""
    async with ASYNC_KINDS[kind](url) as (connection, commit):
        job = await aio.enqueue(connection, SPEC, unique_key="k", run_at=AT)
        again = await aio.enqueue_many(connection, [NewJob(SPEC, unique_key="k"), NewJob(SPEC)])
        async with ASYNC_KINDS[kind](url) as (other, _):
            with pytest.raises(UnknownJob):
                await aio.status(other, job.job_id)
        with pytest.raises(RuntimeError, match="commit first"):
            await aio.wait(connection, job.job_id)
        await commit()

        seen = await aio.status(connection, job.job_id)
        assert await aio.cancel(connection, job.job_id)

    assert (job.is_new, again[0], again[1].is_new) == (True, (job.job_id, False), True)
    assert (seen.state, seen.run_at) == ("waiting", AT)


@pytest.mark.parametrize("kind", ASYNC_KINDS)
async def test_waits_are_bounded(kind: str, url: str) -> None:
    """What is not over after the timeout is told with its phase."""
    async with ASYNC_KINDS[kind](url) as (connection, commit):
        job_id = (await aio.enqueue(connection, SPEC)).job_id
        await commit()

        with pytest.raises(TimeoutError, match=f"{job_id} is not over after 0.1 s: submitted"):
            await aio.wait(connection, job_id, timeout_s=0.1)
