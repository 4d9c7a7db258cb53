"""Which inputs in the bucket are still needed. Law: read only."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.job import Job
from dstackd.store.jobs import UNSTAGED, job_of
from dstackd.store.tables import JOB, of_backend


async def needed_digests(
    connection: AsyncConnection, *, backend: str | None = None
) -> frozenset[str]:
    """Of every job of the backend that has not ended: it may be launched, or launched again."""
    statement = (
        select(JOB.c.inputs_digest)
        .where(
            JOB.c.finished_at_ms.is_(None),
            JOB.c.inputs_digest != "[]",
            of_backend(JOB.c.backend, backend),
        )
        .distinct()
    )
    written = (await connection.execute(statement)).scalars()
    return frozenset(digest for text in written if text != UNSTAGED for digest in json.loads(text))


async def queued_with(
    connection: AsyncConnection, digests: AbstractSet[str], *, backend: str | None = None
) -> list[Job]:
    """Queued jobs that have one of these among their inputs."""
    statement = select(JOB).where(
        JOB.c.finished_at_ms.is_(None),
        JOB.c.inputs_digest != "[]",
        JOB.c.phase == "queued",
        of_backend(JOB.c.backend, backend),
    )
    jobs = [job_of(row) for row in await connection.execute(statement)]
    return [job for job in jobs if not digests.isdisjoint(job.inputs_digest)]
