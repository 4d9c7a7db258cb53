"""GET /v1/openapi.json. Law: made of the table of endpoints, once; describes the Unix socket, which has all of them."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from dstackd.http.context import HttpContext
from dstackd.http.endpoints import ENDPOINTS, HEALTH, JSON, TEXT, Endpoint, Query
from dstackd.http.openapi_schemas import SCHEMAS
from dstackd.http.responses import reply

_JOB = {
    "name": "job",
    "in": "path",
    "required": True,
    "description": "The id of a job, or a beginning of it that only one job has.",
    "schema": {"type": "string", "minLength": 1},
}
_REASONS = {
    400: "A parameter or the body cannot be read.",
    404: "There is no such thing.",
    409: "Several jobs begin so, or what was asked for has changed.",
    413: "The body is too large.",
    421: "The Host header names another host (TCP only).",
    422: "A field is not as it should be; `fields` names each.",
    502: "AWS refused, or a list in the bucket cannot be read.",
    503: "It cannot answer now: the database, or there is no backend.",
}


class OpenApiPage:
    """The one call."""

    def __init__(self, context: HttpContext) -> None:
        self._document = document(version=context.version)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/openapi.json", self._show)]

    async def _show(self, _request: web.Request) -> web.Response:
        return reply(self._document)


def document(*, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dstackd",
            "version": version,
            "description": "HTTP on the daemon's Unix socket. An answer of lines (application/x-ndjson) has a schema for each line.",
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _identifier(endpoint),
        "summary": endpoint.summary,
        "responses": {
            **{str(status): _answer(endpoint) for status in (endpoint.status, *endpoint.also)},
            **{str(status): _refusal(endpoint, status) for status in endpoint.refusals},
        },
    }
    parameters = [_JOB] if "{job}" in endpoint.path else []
    if parameters or endpoint.query:
        operation["parameters"] = [*parameters, *map(_parameter, endpoint.query)]
    if endpoint.body:
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": _reference(endpoint.body)}},
        }
    return operation


def _identifier(endpoint: Endpoint) -> str:
    """`get_jobs_job_logs`."""
    words = re.findall("[a-z]+", endpoint.path.removeprefix("/v1"))
    return "_".join([endpoint.method, *words])


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    shape = {"schema": _reference(endpoint.answer)}
    return {"description": endpoint.summary, "content": {endpoint.media: shape}}


def _refusal(endpoint: Endpoint, status: int) -> dict[str, Any]:
    """A page of health that says no has its own form."""
    own = endpoint.media in {TEXT, HEALTH} and status in endpoint.refuses
    media, name = (endpoint.media, endpoint.answer) if own else (JSON, "Error")
    content = {media: {"schema": _reference(name)}}
    return {"description": _REASONS[status], "content": content}


def _parameter(query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": "query",
        "required": query.required,
        "description": query.meaning,
        "schema": query.schema,
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
