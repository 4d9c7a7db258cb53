"""The OpenAPI document is true: every route is in it, and real answers are as it says, field by field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jsonschema_rs

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.http.app import build_app
from dstackd.http.endpoints import ENDPOINTS, LINES, Endpoint
from dstackd.http.following import FollowBoard
from dstackd.http.openapi import document
from dstackd.http.probe import make_probes
from dstackd.vitals import ApiCalls
from tests.http.region import a_region
from tests.http.world import World, get, post, running

SHA256 = "0" * 64


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON, which may have no field then that it does not name."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def validator(name: str) -> jsonschema_rs.Validator:
    """Holds values to the named schema, in which no object may have more than it names."""
    schemas = document(version="")["components"]["schemas"]
    schemas = json.loads(json.dumps(schemas), object_hook=closed)
    return jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    )


def problems(name: str, value: object) -> list[str]:
    """What is wrong with the value."""
    found = validator(name).iter_errors(value)
    return [f"{error.message} at {error.instance_path}" for error in found]


@asynccontextmanager
async def a_full_world() -> AsyncIterator[tuple[World, str]]:
    """A server that has one of everything, and the id of its job."""
    region = a_region()
    async with running(plan=region.plan, backend=region.backend) as world:
        job_id = await world.insert_job()
        await world.insert_attempt(job_id, 1, instance_id="i-1")
        await world.sql(
            "INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone,"
            " market, price_usd_h, launched_at_ms) VALUES ('i-1', 'b', 'l', 0, 'm5.large', 'z1', 'spot', 0.1, 1)"
        )
        await world.sql(
            "INSERT INTO event (at_ms, job_id, kind, message, detail) VALUES (1, ?, 'k', 'm', '{}')",
            job_id,
        )
        world.log(job_id, 1, 2, 4)
        await world.end_attempt(job_id, 1, lines_sent=5)
        await world.finish_job(job_id)
        files = (ManifestFile("a", 3, SHA256, 0o644), ManifestFile("gone", 1, SHA256, 0o644))
        manifest = Manifest(job_id, 1, artifact_manifest.COMPLETE, files)
        world.bucket.objects |= {
            protocol.manifest_key(job_id, 1): artifact_manifest.encode(manifest),
            protocol.artifact_key(job_id, 1, "a"): b"abc",
        }
        yield world, job_id


async def test_every_route_has_its_line() -> None:
    """The table of endpoints and the application's routes are the same set: a new route is one line in `http/endpoints.py`."""
    async with running() as world:
        context = world.context
        probes = make_probes(context.database, clock=context.clock)
        board = FollowBoard(context.database)
        app = build_app(context, probes=probes, board=board, host_names=())
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    lines = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS]
    assert sorted(lines) == sorted(routes)


def test_the_document_is_one() -> None:
    """It is JSON, every reference leads somewhere, no operation's id is there twice, every schema is used and is one."""
    text = json.dumps(document(version="1"), allow_nan=False)
    shown = json.loads(text)
    operations = [each for path in shown["paths"].values() for each in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert sorted(set(ids)) == sorted(ids)
    named = set(shown["components"]["schemas"])
    used = {name for name in named if f'"#/components/schemas/{name}"' in text}
    assert used == named
    assert text.count('"$ref"') == sum(text.count(f'"#/components/schemas/{n}"') for n in named)
    for name in named:
        validator(name)


async def test_it_is_served() -> None:
    """The document is at /v1/openapi.json, on the Unix socket only."""
    async with running() as world:
        status, shown = await get(world.api, "/v1/openapi.json")
        assert (status, shown) == (200, json.loads(json.dumps(document(version="1.2.3"))))
        status, refused = await get(world.web, "/v1/openapi.json")
        assert (status, refused["error"]["code"]) == (403, "unix_socket_only")


QUERIES: Mapping[str, str] = {
    "/livez": "verbose",
    "/v1/jobs": "all=1",
    "/v1/jobs/{job}/artifacts/content": "path=a",
}
BODY = {"spec": {"commands": ["true"]}, "project": "p", "priority": 1}


async def test_real_answers_are_as_described() -> None:
    """Each call on a server that has one of everything answers with the status, the type and the fields of its line."""
    async with a_full_world() as (world, job_id):
        now_s = world.clock.monotonic_s()
        world.vitals.add_loop("loop", interval_s=1, pass_max_s=60, now_s=now_s)
        world.calls.append(
            ApiCalls("ec2", "RunInstances", 2, (("Throttled", 1),), 0.5, None, 7, "Throttled")
        )
        found = {
            f"{endpoint.method} {endpoint.path}": await _wrong(world, job_id, endpoint)
            for endpoint in ENDPOINTS
        }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


async def _wrong(world: World, job_id: str, endpoint: Endpoint) -> list[str]:
    path = endpoint.path.replace("{job}", job_id)
    query = QUERIES.get(endpoint.path, "")
    body = BODY if endpoint.body else None
    async with world.api.request(endpoint.method, f"{path}?{query}", json=body) as response:
        content = await response.read()
        head = (response.status, response.content_type)
    if head != (endpoint.status, endpoint.media):
        return [f"{head}: {content[:200]!r}"]
    if endpoint.media == LINES:
        values = [json.loads(line) for line in content.splitlines()]
    else:
        values = [json.loads(content)] if endpoint.media.endswith("json") else []
    return [problem for value in values for problem in problems(endpoint.answer, value)]


async def test_real_errors_are_as_described() -> None:
    """An error has the common shape, with its fields."""
    async with running() as world:
        status, answer = await post(world.api, "/v1/jobs", {"spec": {}, "x": 1})
    assert status in next(each.refusals for each in ENDPOINTS if each.body)
    assert answer["error"]["fields"]
    assert problems("Error", answer) == []
