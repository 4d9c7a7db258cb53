"""/v1/jobs and /v1/machines: submit, list, describe, stop. Law: writes exactly what a submitter could write by plain SQL."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import anyio
from aiohttp import web

from dstackd.core.phase import TERMINAL
from dstackd.errors import StorageFailed
from dstackd.http.asked import json_object, switch, whole
from dstackd.http.context import HttpContext
from dstackd.http.job_names import one_job
from dstackd.http.needs import needs_json
from dstackd.http.responses import reply
from dstackd.http.rows import event_json, job_json
from dstackd.http.submission import read_submission
from dstackd.store import queries
from dstackd.store.engine import Connection
from dstackd.store.jobs import request_cancel

API_VERSION = 1
PAGE_DEFAULT = 50
PAGE_MAX = 500
REPEAT_AFTER_S = (0.2, 1.0, 3.0)

Insert: TypeAlias = Callable[[Connection], Awaitable[tuple[str, bool]]]


class JobCalls:
    """The calls about jobs and machines."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._database = context.database

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/version", self._version),
            web.post("/v1/jobs", self._submit),
            web.get("/v1/jobs", self._list),
            web.get("/v1/jobs/{job}", self._describe),
            web.post("/v1/jobs/{job}/stop", self._stop),
            web.get("/v1/machines", self._machines),
        ]

    async def _version(self, _request: web.Request) -> web.Response:
        python = platform.python_version()
        return reply({"version": self._context.version, "api": API_VERSION, "python": python})

    async def _submit(self, request: web.Request) -> web.Response:
        job = read_submission(await json_object(request))
        insert = partial(
            queries.insert_job,
            job_id=self._context.clock.new_id(),
            spec=job.spec,
            project=job.project,
            priority=job.priority,
            unique_key=job.unique_key,
            run_at=job.run_at,
        )
        job_id, new = await self._insert(insert)
        headers = {"Location": f"/v1/jobs/{job_id}"}
        return reply(
            {"id": job_id, "existing": not new}, status=201 if new else 200, headers=headers
        )

    async def _insert(self, insert: Insert) -> tuple[str, bool]:
        """Once more when nobody knows whether it was committed, as after a restart of the database: that makes no second job."""
        for pause_s in REPEAT_AFTER_S:
            try:
                return await self._database.write(insert)
            except StorageFailed:
                await anyio.sleep(pause_s)
        return await self._database.write(insert)

    async def _list(self, request: web.Request) -> web.Response:
        count = whole(request.query, "limit", low=1, high=PAGE_MAX) or PAGE_DEFAULT
        page = partial(
            queries.list_jobs,
            active_only=not switch(request.query, "all"),
            count_max=count,
            before_seq=whole(request.query, "before"),
        )
        rows = await self._database.read(page)
        next_before = rows[-1]["seq"] if len(rows) == count else None
        return reply({"jobs": [job_json(row) for row in rows], "next_before": next_before})

    async def _describe(self, request: web.Request) -> web.Response:
        row = await one_job(self._database, request.match_info["job"])
        read, job_id = self._database.read, row["id"]
        events = await read(partial(queries.job_events, job_id=job_id))
        return reply(
            {
                "job": job_json(row),
                "attempts": await read(partial(queries.job_attempts, job_id=job_id)),
                "events": [event_json(event) for event in events],
                "elements": await read(partial(queries.array_elements, job_id=job_id)),
                "needs": await needs_json(self._database, row["spec"]),
            }
        )

    async def _stop(self, request: web.Request) -> web.Response:
        found = await one_job(self._database, request.match_info["job"])
        await self._database.write(partial(request_cancel, job_ids=[found["id"]]))
        row = await one_job(self._database, found["id"])
        stopping = row["phase"] not in TERMINAL
        return reply({"id": row["id"], "phase": row["phase"], "stopping": stopping})

    async def _machines(self, _request: web.Request) -> web.Response:
        return reply({"machines": await self._database.read(queries.list_machines)})
