"""What goes out. Law: every error of the API has one shape, `{"error": {"code", "message", "fields"}}`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import structlog
from aiohttp import web

from dstackd.errors import DstackdError
from dstackd.spec.errors import FieldError

_LOG = structlog.get_logger(__name__)

_HEADERS = {
    "Cache-Control": "no-store",
    "Server": "dstackd",
    "X-Content-Type-Options": "nosniff",
}


class Refusal(DstackdError):
    """The request gets an error for an answer. `code` is a word for programs, `message` a sentence for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = tuple(fields)
        self.headers = dict(headers or {})


def reply(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`value` as JSON."""
    return web.json_response(value, status=status, headers=headers)


def refusal_reply(refusal: Refusal) -> web.Response:
    """The error as JSON."""
    error: dict[str, Any] = {
        "code": refusal.code,
        "message": refusal.message,
        "fields": [asdict(field) for field in refusal.fields],
    }
    return reply({"error": error}, status=refusal.status, headers=refusal.headers)


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer: nothing here may be kept by a cache, or read as something else than it says."""
    response.headers.update(_HEADERS)


def json_line(value: object) -> bytes:
    """One line of newline-delimited JSON."""
    return (
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
        + b"\n"
    )


@asynccontextmanager
async def streamed(request: web.Request, response: web.StreamResponse) -> AsyncIterator[None]:
    """Send `response` while the block writes to it.

    Once it has begun an error cannot be answered any more: the connection is cut, so that a reader does not take a part for
    the whole. A reader that went away ends the block quietly.
    """
    await response.prepare(request)
    try:
        yield
    except ConnectionResetError:
        return
    except Exception:  # noqa: BLE001 - logged; all that can still be done is to cut the connection
        _LOG.exception("http_stream_failed", path=request.path)
        if request.transport is not None:
            request.transport.abort()
