"""What every request passes. Law: the TCP listener shows health and metrics only; errors leave in one shape."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from dstackd.errors import CloudError, StoreBusy
from dstackd.http.responses import Refusal, refusal_reply
from dstackd.store.queries import DATABASE_ERRORS

_LOG = structlog.get_logger(__name__)

_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain"})

Step = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def as_middleware(step: Step) -> Middleware:
    """The step in the form of aiohttp, which hands on the rest of the chain by a keyword of its own."""

    @web.middleware
    async def called_by_aiohttp(request: web.Request, **rest: Handler) -> web.StreamResponse:
        return await step(request, rest["handler"])

    return cast("Middleware", called_by_aiohttp)


def guard(*, public_paths: Iterable[str], host_names: Iterable[str]) -> Step:
    """Let anything through on the Unix socket, and on TCP the public paths for requests that mean this host.

    A web page can make a browser send requests to loopback under a name that its owner points there (DNS rebinding). So the
    Host header must be an address, which nobody can point elsewhere, a loopback name, or one of `host_names`.
    """
    public = frozenset(public_paths)
    known_names = _LOCAL_NAMES | {name.lower().rstrip(".") for name in host_names}

    async def check(request: web.Request, rest: Handler) -> web.StreamResponse:
        if not _is_on_unix_socket(request):
            if not _means_this_host(request.headers.get("Host", ""), known_names):
                message = "the Host header names another host; use localhost or an IP address"
                raise Refusal(421, "wrong_host", message)
            resource = request.match_info.route.resource
            if resource is None or resource.canonical not in public:
                message = (
                    "this address shows health and metrics only; the API is on the Unix socket"
                )
                raise Refusal(403, "unix_socket_only", message)
        return await rest(request)

    return check


async def answer_errors(request: web.Request, rest: Handler) -> web.StreamResponse:
    """Every error as JSON, with the right status."""
    try:
        return await rest(request)
    except Refusal as refusal:
        return refusal_reply(refusal)
    except web.HTTPException as error:
        return refusal_reply(_of_aiohttp(request, error))
    except CloudError as error:
        message = f"AWS: {error}" + (f"; {error.advice}" if error.advice else "")
        return refusal_reply(Refusal(502, error.code, message))
    except StoreBusy as error:
        return refusal_reply(Refusal(503, "busy", str(error), headers={"Retry-After": "1"}))
    except ConnectionResetError:
        raise  # the client is gone, and nobody waits for an answer
    except DATABASE_ERRORS as error:
        _LOG.warning("http_database_failed", path=request.path, error=str(error))
        message = f"the database does not answer ({type(error).__name__})"
        return refusal_reply(Refusal(503, "database", message, headers={"Retry-After": "1"}))
    except Exception:  # noqa: BLE001 - one request's bug is logged, answered, and no reason to stop the daemon
        _LOG.exception("http_request_failed", method=request.method, path=request.path)
        message = "this is a bug of dstackd; its log says more"
        return refusal_reply(Refusal(500, "internal_error", message))


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> Refusal:
    allow = error.headers.get("Allow")
    headers = {"Allow": allow} if allow else {}
    message = f"{request.method} {request.path}: {error.reason}"
    code = error.reason.lower().replace(" ", "_")
    return Refusal(error.status, code, message, headers=headers)


def _is_on_unix_socket(request: web.Request) -> bool:
    """False in doubt: a connection that is already gone has no socket."""
    if request.transport is None:
        return False
    accepted = request.transport.get_extra_info("socket")
    return accepted is not None and accepted.family == socket.AF_UNIX


def _means_this_host(header: str, known_names: frozenset[str]) -> bool:
    name, colon, port = header.rpartition(":")
    if not colon or not port.isdecimal():
        name = header
    name = name.lower().rstrip(".")
    if name in known_names:
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
