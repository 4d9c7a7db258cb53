"""HTTP for aiobotocore, with a bound on what one answer may hold. Law: a body is read whole only up to the bound; objects are streamed.

Aiobotocore reads every answer into memory, however long it is.
"""

from __future__ import annotations

import aiohttp
from aiobotocore.awsrequest import AioAWSResponse  # type: ignore[import-untyped] # ships no types
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped] # as above
from botocore.exceptions import (  # type: ignore[import-untyped] # as above
    ConnectionClosedError,
    HTTPClientError,
)
from typing_extensions import override

from dstackd.aws.untyped import Untyped

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""A page of 1,000 instances has 3 MB."""
_CHUNK_BYTES = 262_144


class BoundedSession(AIOHTTPSession):  # type: ignore[misc] # as above
    """In the place of aiobotocore's own."""

    @override
    async def send(self, request: Untyped) -> Untyped:
        streamed, request.stream_output = request.stream_output, True
        try:
            answer = await super().send(request)
        finally:
            request.stream_output = streamed
        bounded = _BoundedAnswer(answer.url, answer.status_code, answer.headers, answer.raw)
        if not streamed:
            await bounded.content
        return bounded


class _BoundedAnswer(AioAWSResponse):  # type: ignore[misc] # as above
    _content: bytes | None

    @override
    async def _content_prop(self) -> bytes:
        if self._content is None:
            self._content = await _read(self.raw, self.url)
        return self._content


async def _read(raw: aiohttp.ClientResponse, url: str) -> bytes:
    """The whole body. Raises what botocore repeats a call after."""
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        async for chunk in raw.content.iter_chunked(_CHUNK_BYTES):
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > ANSWER_BYTES_MAX:
                raise HTTPClientError(error=f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionClosedError(error=error, endpoint_url=url) from error
    finally:
        if not raw.content.is_eof():
            raw.close()
    return b"".join(chunks)
