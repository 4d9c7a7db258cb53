"""POST /v1/plan: what a job would be launched on, and for how much. Law: asks what a launch would ask first, and launches nothing."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from dstackd.core.plan_view import PlanRow, PlanView
from dstackd.http.asked import json_object
from dstackd.http.context import HttpContext
from dstackd.http.needs import needs_json
from dstackd.http.responses import Refusal, reply
from dstackd.http.submission import read_submission
from dstackd.spec.parse import parse_spec_json

_MIB_A_GIB = 1024


class PlanCalls:
    """The one call."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/plan", self._plan)]

    async def _plan(self, request: web.Request) -> web.Response:
        job = read_submission(await json_object(request))
        if self._context.plan is None:
            raise Refusal(503, "no_backend", "this daemon has no backend, so it can plan nothing")
        view = await self._context.plan(parse_spec_json(job.spec))
        needs = await needs_json(self._context.database, job.spec)
        return reply(plan_json(view) | {"needs": needs})


def plan_json(view: PlanView) -> dict[str, Any]:
    """The answer; README.md describes it."""
    return {
        "offerings": [_row_json(row) for row in view.rows],
        "first": view.first,
        "why_none": view.why_none or None,
        "total": view.total,
    }


def _row_json(row: PlanRow) -> dict[str, Any]:
    offering, block = row.offering, row.block
    gpu = {"name": offering.gpu_name, "count": offering.gpu_count} if offering.gpu else None
    return {
        "instance_type": offering.instance_type,
        "zone": offering.zone,
        "subnet": offering.subnet_id,
        "market": offering.market,
        "price_usd_h": round(offering.price_usd_h, 6),
        "estimated": offering.estimated,
        "vcpus": offering.vcpus,
        "memory_gib": offering.memory_mib / _MIB_A_GIB,
        "gpu": gpu,
        "blocked": block and {"until_ms": block.until_ms, "reason": block.message},
    }
