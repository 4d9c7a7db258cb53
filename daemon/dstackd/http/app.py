"""The one application behind both listeners. Law: routes and middleware are put together here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from dstackd.http.artifacts import ArtifactCalls
from dstackd.http.context import HttpContext
from dstackd.http.explain import ExplainCalls
from dstackd.http.following import FollowBoard
from dstackd.http.health import HealthPages
from dstackd.http.jobs import JobCalls
from dstackd.http.logs import LogCalls
from dstackd.http.metrics import MetricsPage
from dstackd.http.middleware import answer_errors, as_middleware, guard
from dstackd.http.openapi import OpenApiPage
from dstackd.http.plan import PlanCalls
from dstackd.http.probe import Probes
from dstackd.http.reaping import ReapCalls
from dstackd.http.responses import add_headers
from dstackd.http.schedules import ScheduleCalls
from dstackd.spec.limits import SPEC_BYTES_MAX

BODY_BYTES_MAX = 6 * SPEC_BYTES_MAX + 4096
"""A spec whose every character is escaped (`\\u0041` is 6 bytes), and the rest of a submission."""


def build_app(
    context: HttpContext, *, probes: Probes, board: FollowBoard, host_names: Iterable[str]
) -> web.Application:
    """The application; `probes` and `board` need somebody who runs them."""
    public = [*HealthPages(context, probes).routes(), *MetricsPage(context, probes).routes()]
    private = [
        *JobCalls(context).routes(),
        *ExplainCalls(context).routes(),
        *LogCalls(context, board).routes(),
        *ArtifactCalls(context).routes(),
        *PlanCalls(context).routes(),
        *ReapCalls(context).routes(),
        *ScheduleCalls(context).routes(),
        *OpenApiPage(context).routes(),
    ]
    check = guard(public_paths=[route.path for route in public], host_names=host_names)
    app = web.Application(
        middlewares=[as_middleware(answer_errors), as_middleware(check)],
        client_max_size=BODY_BYTES_MAX,
    )
    app.add_routes([*public, *private])
    app.on_response_prepare.append(add_headers)
    return app
