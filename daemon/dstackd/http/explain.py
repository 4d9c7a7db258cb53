"""GET /v1/jobs/{id}/explain: why a job is where it is. Law: gathers what is known; what it means is said by `core.explain`."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from aiohttp import web

from dstackd.core.explain import Asking, Situation, explain
from dstackd.core.instance import UNKNOWN, Observation, Seen
from dstackd.core.job import Attempt
from dstackd.core.observe import observe
from dstackd.core.phase import Phase
from dstackd.core.queue_view import QueueView
from dstackd.errors import CloudError
from dstackd.http.context import HttpContext
from dstackd.http.job_names import one_job
from dstackd.http.queue_insight import QueueInsight
from dstackd.http.responses import Refusal, reply
from dstackd.http.rows import event_json
from dstackd.store import explained, queries

SNAPSHOT_AGE_MAX_MS = 180_000
"""An older look at EC2 says nothing of now."""


class ExplainCalls:
    """The one call."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/jobs/{job}/explain", self._explain)]

    async def _explain(self, request: web.Request) -> web.Response:
        read = self._context.database.read
        row = await one_job(self._context.database, request.match_info["job"])
        subject = await read(partial(explained.read_subject, job_id=row["id"]))
        if subject is None:
            raise Refusal(404, "no_such_job", f"the job {row['id']} has just been deleted")
        now_ms = self._context.clock.now_ms()
        situation = await self._situation(subject, now_ms)
        events = await read(partial(queries.job_events, job_id=row["id"]))
        told = asdict(explain(situation))
        return reply(
            {
                "job": _job(row),
                "now_ms": now_ms,
                **told,
                "attempts": await read(partial(queries.job_attempts, job_id=row["id"])),
                "events": [event_json(event) for event in events],
            }
        )

    async def _situation(self, subject: explained.Subject, now_ms: int) -> Situation:
        context, job = self._context, subject.job
        attempt = self._with_heartbeat(subject.attempt)
        queue, problem = None, ""
        if job.phase is Phase.QUEUED and not job.held and not subject.elements:
            queue, problem = await self._queue(subject, now_ms)
        return Situation(
            job,
            context.limits,
            now_ms,
            attempt=attempt,
            seen=self._seen(attempt, gone=subject.machine_gone, now_ms=now_ms),
            queue=queue,
            queue_problem=problem,
            asking=None if subject.intent is None else _asking(subject.intent),
            elements=subject.elements,
            reason_since_ms=subject.reason_since_ms,
            needs=subject.needs,
        )

    async def _queue(self, subject: explained.Subject, now_ms: int) -> tuple[QueueView | None, str]:
        context = self._context
        if context.insight is None:
            return None, "a backend: this daemon has none"
        asked = QueueInsight(
            context.database, context.insight, limits=context.limits, now_ms=now_ms
        )
        try:
            return await asked.view(subject.job), ""
        except CloudError as error:
            return None, f"AWS to answer: {error.explained}"

    def _with_heartbeat(self, attempt: Attempt | None) -> Attempt | None:
        insight = self._context.insight
        if attempt is None or insight is None:
            return attempt
        return replace(attempt, heartbeat_at_ms=insight.heartbeat_ms(attempt.instance_id))

    def _seen(self, attempt: Attempt | None, *, gone: bool, now_ms: int) -> Observation:
        """As the last sweep shows the machine; absent is only what the table has written down as gone."""
        insight = self._context.insight
        snapshot = None if insight is None else insight.snapshot()
        if (
            attempt is None
            or snapshot is None
            or now_ms - snapshot.taken_at_ms > SNAPSHOT_AGE_MAX_MS
        ):
            return Observation(Seen.GONE) if gone else UNKNOWN
        seen = observe(attempt.instance_id, snapshot, launched_at_ms=attempt.launched_at_ms)
        return UNKNOWN if seen.seen is Seen.ABSENT and not gone else seen


def _asking(intent: explained.OpenIntent) -> Asking:
    if intent.reuses is not None:
        what = f"{intent.reuses}, which is idle, to take it"
        return Asking(what, intent.created_at_ms)
    beside = f", with {intent.count - 1} other job(s)" if intent.count > 1 else ""
    what = f"EC2's answer: {intent.instance_type} ({intent.market}) in {intent.zone} was asked for{beside}"
    return Asking(what, intent.created_at_ms)


def _job(row: dict[str, Any]) -> dict[str, Any]:
    """What of the row stands above an explanation."""
    names = ("id", "name", "project", "priority", "submitted_at_ms", "finished_at_ms", "exit_code")
    return {name: row[name] for name in (*names, "cost_usd", "array_parent", "array_index")}
