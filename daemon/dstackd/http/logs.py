"""/v1/jobs/{id}/logs: stored lines as newline-delimited JSON. Law: reads files of this host;
CloudWatch only for lines that have arrived at another daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing, nullcontext
from functools import partial

from aiohttp import web

from dstackd.http.asked import refuse_parameter, switch, whole_in
from dstackd.http.context import HttpContext
from dstackd.http.following import FollowBoard
from dstackd.http.job_names import one_job
from dstackd.http.log_reading import LogReader
from dstackd.http.log_steps import Selection, attempt_of
from dstackd.http.responses import Refusal, streamed
from dstackd.store import queries
from dstackd.store.queries import LogProgress

ALL = "all"


class LogCalls:
    """The call for logs, and the board that followers share."""

    def __init__(self, context: HttpContext, board: FollowBoard) -> None:
        self._context = context
        self._board = board

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/jobs/{job}/logs", self._logs, allow_head=False)]

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        asked = read_selection(request.query)
        job = await one_job(self._context.database, request.match_info["job"])
        with self._board.following(job["id"]) if asked.follow else nullcontext():
            return await self._stream(request, job["id"], asked)

    async def _stream(
        self, request: web.Request, job_id: str, asked: Selection
    ) -> web.StreamResponse:
        progress = await self._progress(job_id)
        if asked.attempt is not None and attempt_of(progress, asked.attempt) is None:
            message = (
                f"job {job_id} has {len(progress.attempts)} attempts, and none is {asked.attempt}"
            )
            raise Refusal(404, "no_such_attempt", message)
        reader = LogReader(
            self._context.log_files,
            job_id=job_id,
            asked=asked,
            board=self._board,
            clock=self._context.clock,
            distant=self._context.distant_logs,
        )
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async with streamed(request, response), aclosing(reader.entries(progress)) as entries:
            async for chunk in entries:
                if request.transport is None:
                    break
                if chunk:
                    await response.write(chunk)
        return response

    async def _progress(self, job_id: str) -> LogProgress:
        read = partial(queries.log_progress, job_ids=[job_id])
        found = await self._context.database.read(read)
        if job_id not in found:
            raise Refusal(404, "no_such_job", f"job {job_id} has just been deleted")
        return found[job_id]


def read_selection(query: Mapping[str, str]) -> Selection:
    """The parameters: `attempt` (a number, or all), `follow` (0 or 1), `after`.

    `after=N` begins behind line N of the attempt (of the first one for all), `after=A:N` behind line N of attempt A.
    """
    written = query.get("attempt", ALL)
    attempt = None if written == ALL else whole_in(written, "attempt", low=1)
    first_text, colon, after_text = query.get("after", "0").rpartition(":")
    first = whole_in(first_text, "after", low=1) if colon else attempt or 1
    if attempt is not None and first != attempt:
        refuse_parameter("after", f"is in attempt {first}", f"leave out attempt={attempt}")
    after = whole_in(after_text, "after", low=0)
    return Selection(attempt, first, after, follow=switch(query, "follow"))
