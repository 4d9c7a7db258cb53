"""Rows for store tests, put there through the store's own functions. Law: each function commits."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.instance import Market
from dstackd.core.launching import Launched
from dstackd.core.offering import Offering
from dstackd.core.phase import Phase, Reason
from dstackd.store import launches
from dstackd.store.backends import ensure_backend
from dstackd.store.engine import Database
from dstackd.store.launches import Launch, Member
from dstackd.store.moves import Move, save_moves
from tests.builders import NOW_MS, a_request

OFFERING = Offering("m5.large", "subnet-a", "us-east-1a", Market.SPOT, "x86_64", 0.05)
SPEC = json.dumps({"commands": ["true"]})


async def rows(database: Database, statement: str, **values: object) -> list[dict[str, Any]]:
    """What a SELECT finds."""

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [dict(row._mapping) for row in await connection.execute(text(statement), values)]

    return await database.read(work)


async def run(database: Database, statement: str, **values: object) -> None:
    """One statement, committed."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(statement), values)

    await database.write(work)


async def submit(database: Database, *job_ids: str, project: str = "main") -> None:
    """Jobs as a submitter leaves them."""
    for job_id in job_ids:
        statement = "INSERT INTO job (id, spec, project, submitted_at_ms) VALUES (:id, :spec, :project, :at)"
        await run(database, statement, id=job_id, spec=SPEC, project=project, at=NOW_MS)


async def accept(database: Database, *job_ids: str, project: str = "main") -> None:
    """Jobs in the queue, at version 1."""
    await submit(database, *job_ids, project=project)
    moves = [
        Move(
            job_id,
            0,
            Phase.SUBMITTED,
            NOW_MS,
            phase=Phase.QUEUED,
            reason=Reason.ACCEPTED,
            message="waits",
            next_visit_at_ms=NOW_MS,
        )
        for job_id in job_ids
    ]
    await database.write(lambda connection: save_moves(connection, moves))


async def intend(database: Database, *job_ids: str, launch_id: str = "launch-1") -> Launch:
    """A committed intent for accepted jobs, their first attempt."""
    request = a_request(launch_id=launch_id, client_token=f"token-{launch_id}", count=len(job_ids))

    async def work(connection: AsyncConnection) -> None:
        await ensure_backend(
            connection,
            name="main",
            region="us-east-1",
            bucket="bucket",
            subnet=None,
            endpoint_url=None,
            now_ms=NOW_MS,
        )
        await launches.commit_intent(
            connection,
            backend="main",
            request=request,
            document="{}",
            offering=OFFERING,
            members=[Member(job_id, 1, 1, 0.0) for job_id in job_ids],
            now_ms=NOW_MS,
        )

    await database.write(work)
    return Launch(launch_id, request, "{}", NOW_MS)


async def answer(database: Database, launch: Launch, *instance_ids: str) -> None:
    """EC2's answer, saved: machines in the order of their index."""
    given = [Launched(instance_id, index, NOW_MS) for index, instance_id in enumerate(instance_ids)]
    await database.write(
        lambda connection: launches.save_answer(connection, launch, given, now_ms=NOW_MS)
    )


async def boot(database: Database, job_id: str = "job-1", instance_id: str = "i-1") -> None:
    """A job on a machine that has not said anything yet."""
    await accept(database, job_id)
    await answer(database, await intend(database, job_id), instance_id)


async def job(database: Database, job_id: str = "job-1") -> dict[str, Any]:
    """The job's row."""
    return (await rows(database, "SELECT * FROM job WHERE id = :id", id=job_id))[0]


async def attempt(database: Database, job_id: str = "job-1") -> dict[str, Any]:
    """The job's only attempt."""
    (found,) = await rows(database, "SELECT * FROM attempt WHERE job_id = :id", id=job_id)
    return found
