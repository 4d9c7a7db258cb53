"""/v1/jobs/{id}/artifacts. Law: shows what a sealed manifest lists, and reads no other object of the bucket.

A manifest comes from the machine, so its paths are looked at before they become part of a key.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any

from aiohttp import web

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestError, ManifestFile
from dstackd.errors import NotFound, OperatingError
from dstackd.http.asked import refuse_parameter, whole
from dstackd.http.context import HttpContext
from dstackd.http.job_names import one_job
from dstackd.http.responses import Refusal, reply, streamed
from dstackd.ports import Bucket
from dstackd.store import queries

MANIFESTS_KEPT = 8
"""Whoever pulls a thousand files asks for their manifest a thousand times; a sealed one never changes."""


class ArtifactCalls:
    """The two calls, and the manifests that were read last."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._kept: dict[str, Manifest] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/jobs/{job}/artifacts", self._list),
            web.get("/v1/jobs/{job}/artifacts/content", self._content, allow_head=False),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        manifest = await self._asked_for(request)
        files = [asdict(file) for file in manifest.files]
        return reply({"attempt": manifest.attempt, "verdict": manifest.verdict, "files": files})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        path = request.query.get("path")
        if path is None:
            refuse_parameter("path", "is missing", "write the path of a file in the artifacts")
        manifest = await self._asked_for(request)
        file = next((file for file in manifest.files if file.path == path), None)
        where = f"attempt {manifest.attempt} of job {manifest.job_id}"
        if file is None:
            message = f"{path[:200]!r} is not among the artifacts of {where}"
            raise Refusal(404, "no_such_artifact", message)
        key = protocol.artifact_key(manifest.job_id, manifest.attempt, path)
        async with aclosing(_chunks(self._bucket, key)) as chunks:
            try:
                first = await anext(chunks, b"")
            except NotFound:
                message = f"{path!r} is listed by the manifest of {where}, but gone from the bucket"
                raise Refusal(404, "artifact_gone", message) from None
            return await _send(request, file, first, chunks)

    @property
    def _bucket(self) -> Bucket:
        if self._context.bucket is None:
            raise Refusal(503, "no_backend", "this daemon has no backend, so it can read no bucket")
        return self._context.bucket

    async def _asked_for(self, request: web.Request) -> Manifest:
        """The manifest of the attempt in the query, or the newest one that there is."""
        number = whole(request.query, "attempt", low=1)
        job = await one_job(self._context.database, request.match_info["job"])
        rows = await self._context.database.read(partial(queries.job_attempts, job_id=job["id"]))
        for row in reversed(rows):
            if number in (None, row["number"]):
                manifest = await self._manifest(job["id"], row["number"])
                if manifest is not None:
                    return manifest
        which = f"attempt {number} of " if number is not None else ""
        message = f"{which}job {job['id']} has no sealed artifacts (phase {job['phase']})"
        raise Refusal(404, "no_artifacts", message + _seal_note(rows, number))

    async def _manifest(self, job_id: str, attempt: int) -> Manifest | None:
        key = protocol.manifest_key(job_id, attempt)
        if key in self._kept:
            return self._kept[key]
        try:
            manifest = artifact_manifest.decode(await self._bucket.get(key))
        except NotFound:
            return None
        except ManifestError as error:
            raise Refusal(502, "bad_manifest", f"{key}: {error}") from None
        if (manifest.job_id, manifest.attempt) != (job_id, attempt):
            raise Refusal(502, "bad_manifest", f"{key}: is the manifest of another attempt")
        for file in manifest.files:
            if not _is_inside(file.path):
                raise Refusal(502, "bad_manifest", f"{key}: {file.path!r} leaves the job's folder")
        while len(self._kept) >= MANIFESTS_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = manifest
        return manifest


def _is_inside(path: str) -> bool:
    return not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


def _seal_note(rows: list[dict[str, Any]], number: int | None) -> str:
    notes = (row["seal_message"] for row in reversed(rows) if number in (None, row["number"]))
    note = next((note for note in notes if note), "")
    return f": {note}" if note else ""


async def _chunks(bucket: Bucket, key: str) -> AsyncGenerator[bytes, None]:
    """`bucket.read` as a generator that can be closed, whatever the bucket's iterator is."""
    async for chunk in bucket.read(key):
        yield chunk


async def _send(
    request: web.Request, file: ManifestFile, first: bytes, rest: AsyncIterator[bytes]
) -> web.StreamResponse:
    headers = {"Content-Type": "application/octet-stream", "ETag": f'"{file.sha256}"'}
    response = web.StreamResponse(headers=headers)
    response.content_length = file.size
    async with streamed(request, response):
        sent_bytes = len(first)
        await response.write(first)
        async for chunk in rest:
            sent_bytes += len(chunk)
            await response.write(chunk)
        if sent_bytes != file.size:
            raise OperatingError(f"{file.path}: {sent_bytes} bytes, {file.size} in the manifest")
    return response
