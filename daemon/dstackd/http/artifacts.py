"""/v1/jobs/{id}/artifacts. Law: a part is never taken for the whole: what is not as its manifest says breaks the connection or is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from aiohttp import web

from dstackd.artifact_manifest import ManifestFile, fields_of
from dstackd.errors import CloudError, NotFound, OperatingError
from dstackd.http.artifact_checks import as_they_are, check_all
from dstackd.http.artifact_sets import ArtifactSet, ArtifactSets
from dstackd.http.asked import refuse_parameter
from dstackd.http.context import HttpContext
from dstackd.http.responses import Refusal, json_line, reply, streamed
from dstackd.ports import Bucket


class ArtifactCalls:
    """The three calls."""

    def __init__(self, context: HttpContext) -> None:
        self._sets = ArtifactSets(context)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/jobs/{job}/artifacts", self._list),
            web.get("/v1/jobs/{job}/artifacts/content", self._content, allow_head=False),
            web.get("/v1/jobs/{job}/artifacts/verify", self._verify, allow_head=False),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        artifacts = await self._sets.asked_for(request, newest=True)
        if "as_they_are" in request.query and not artifacts.sealed:
            files_now = await as_they_are(self._sets.bucket, artifacts)
            artifacts = self._sets.correct(artifacts, files_now)
        files = [fields_of(file) for file in artifacts.manifest.files]
        return reply({**_head(artifacts), "files": files})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        path = request.query.get("path")
        if path is None:
            refuse_parameter("path", "is missing", "write the path of a file in the artifacts")
        artifacts = await self._sets.asked_for(request)
        file = next((file for file in artifacts.manifest.files if file.path == path), None)
        if file is None:
            message = f"{path[:200]!r} is not among the artifacts of {artifacts.shown}"
            raise Refusal(404, "no_such_artifact", message)
        key = artifacts.key_of(file)
        async with aclosing(_chunks(self._sets.bucket, key)) as chunks:
            try:
                if not artifacts.sealed:
                    await self._refuse_replaced(key, file)
                first = await anext(chunks, b"")
            except NotFound:
                message = f"{path!r} is listed by the manifest of {artifacts.shown}, but gone from the bucket"
                raise Refusal(404, "artifact_gone", message) from None
            return await _send(request, file, first, chunks)

    async def _refuse_replaced(self, key: str, file: ManifestFile) -> None:
        """While the job runs, an object may be newer than the list. The reader compares the content; its size is promised first."""
        if (await self._sets.bucket.facts(key)).size_bytes != file.size:
            message = (
                f"{file.path!r} was uploaded anew since it was listed; list the artifacts again"
            )
            raise Refusal(409, "artifact_replaced", message)

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        """Lines: what is looked at; each file that is not as listed; how far it is; `done`, or why it broke off."""
        artifacts = await self._sets.asked_for(request, newest=True)
        manifest = artifacts.manifest
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        async with streamed(request, response):
            counts = {"files": len(manifest.files), "bytes": manifest.size_bytes}
            await response.write(json_line({**_head(artifacts), **counts}))
            await response.write(json_line(await _check(response, self._sets.bucket, artifacts)))
        return response


async def _check(response: web.StreamResponse, bucket: Bucket, artifacts: ArtifactSet) -> object:
    """Write a line for each problem; the last line."""
    checked = read_bytes = problems = 0
    try:
        async with aclosing(check_all(bucket, artifacts)) as checks:
            async for some in checks:
                bad = [each for each in some if each.problem]
                for each in bad:
                    line = {"path": each.path, "problem": each.problem}
                    await response.write(json_line(line))
                problems += len(bad)
                checked += len(some)
                read_bytes += sum(each.read_bytes for each in some)
                await response.write(json_line({"checked": checked}))
    except CloudError as error:
        return {"error": f"{error}; {error.advice}" if error.advice else str(error)}
    return {"done": True, "checked": checked, "problems": problems, "read_bytes": read_bytes}


def _head(artifacts: ArtifactSet) -> dict[str, object]:
    manifest = artifacts.manifest
    return {"attempt": manifest.attempt, "verdict": manifest.verdict, "sealed": artifacts.sealed}


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
