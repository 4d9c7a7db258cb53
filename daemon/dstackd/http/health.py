"""/livez, /readyz, /healthz. Law: answers from memory or a shared read; asking often costs the database and AWS nothing.

/livez is about this process only: it fails when a loop hangs, on the same condition as systemd's watchdog. A restart would
not mend a database or AWS, so those are /readyz and /healthz. Programs look at the status code, people add `?verbose`.
"""

from __future__ import annotations

import json

from aiohttp import web

from dstackd.http import health_checks as checks
from dstackd.http.context import HttpContext
from dstackd.http.probe import Probes

AGE_MAX_S = 1.0
COUNTS_AGE_MAX_S = 5.0
WAIT_S = 1.0
"""A database that does not answer within this does not answer."""


class HealthPages:
    """The three pages."""

    def __init__(self, context: HttpContext, probes: Probes) -> None:
        self._context = context
        self._probes = probes

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/healthz", self._healthz),
        ]

    async def _livez(self, request: web.Request) -> web.Response:
        now_s = self._context.clock.monotonic_s()
        problems = {
            f"loop {pulse.name}": checks.loop_problem(pulse, now_s=now_s)
            for pulse in self._context.vitals.loops.values()
        }
        return _page(request, "livez", problems)

    async def _readyz(self, request: web.Request) -> web.Response:
        vitals = self._context.vitals
        answer = await self._probes.database.answer(age_max_s=AGE_MAX_S, wait_s=WAIT_S)
        problems = {
            "database": answer.error,
            "schema": checks.schema_problem(vitals),
            "lease": checks.lease_problem(vitals),
            "start": checks.start_problem(vitals),
        }
        return _page(request, "readyz", problems)

    async def _healthz(self, _request: web.Request) -> web.Response:
        context, vitals = self._context, self._context.vitals
        database = await self._probes.database.answer(age_max_s=AGE_MAX_S, wait_s=WAIT_S)
        counts = await self._probes.counts.answer(age_max_s=COUNTS_AGE_MAX_S, wait_s=WAIT_S)
        found = [
            checks.database_check(database),
            checks.schema_check(vitals),
            checks.lease_check(vitals),
            checks.start_check(vitals),
            checks.watch_check(vitals),
            checks.rules_check(vitals),
            *checks.loop_checks(vitals, now_s=context.clock.monotonic_s()),
            *checks.aws_checks(context.api_calls()),
            *checks.queue_checks(counts, now_ms=context.clock.now_ms()),
        ]
        return web.Response(
            status=503 if checks.overall(found) is checks.Status.FAIL else 200,
            text=json.dumps(checks.to_json(found, version=context.version)),
            content_type="application/health+json",
        )


def _page(request: web.Request, name: str, problems: dict[str, str]) -> web.Response:
    """Kubernetes' form: `ok`, or a line for each check."""
    failed = any(problems.values())
    if not failed and "verbose" not in request.query:
        return web.Response(text="ok\n")
    lines = [
        f"[-]{check} failed: {problem}" if problem else f"[+]{check} ok"
        for check, problem in problems.items()
    ]
    verdict = f"{name} check {'failed' if failed else 'passed'}"
    return web.Response(status=503 if failed else 200, text="\n".join([*lines, verdict, ""]))
