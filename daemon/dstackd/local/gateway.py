"""The front of the local cloud: who may talk to it, control requests, and the record of calls.

Law: one WSGI application around moto's. A request of a web page is refused: the cloud runs
user-data, so a page that could reach it from a browser could run anything on this computer.
"""

import json
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from dstackd.local.calls import Call, CallLog, Environ
from dstackd.local.failures import LOST, Failure, Failures

StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Route = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_BODY_LIMIT_BYTES = 1_048_576


class Gateway:
    """Route `/local/...` without a signature to `routes`, everything else to moto."""

    def __init__(
        self,
        moto: Application,
        *,
        calls: CallLog,
        failures: Failures,
        routes: Mapping[tuple[str, str], Route],
    ) -> None:
        self._moto = moto
        self._failures = failures
        self._calls = calls
        self._routes = routes

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if _from_a_browser(environ) or not _for_loopback(environ):
            return _answer(start_response, "403 Forbidden", {"error": "not for web pages"})
        path = environ.get("PATH_INFO", "")
        if path.startswith("/local/") and "HTTP_AUTHORIZATION" not in environ:
            return self._control(environ, start_response, path)
        call = self._calls.begin(environ)

        def note_status(status: str, *rest: Any) -> Any:  # noqa: ANN401  WSGI's own shape
            call.status = int(status.partition(" ")[0])
            return start_response(status, *rest)

        failure = self._failures.take(f"{call.service_name}:{call.operation}")
        if failure is None:
            return self._moto(environ, note_status)
        return self._fail(environ, note_status, call, failure)

    def _fail(
        self, environ: Environ, start_response: StartResponse, call: Call, failure: Failure
    ) -> Iterable[bytes]:
        if failure.executed:
            _run_and_discard(self._moto, environ)
        if failure.status == LOST:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("made to lose the answer")
        kind, body = failure.body(call.service_name)
        start_response(f"{failure.status} made to fail", [("Content-Type", kind)])
        return [body.encode()]

    def _control(
        self, environ: Environ, start_response: StartResponse, path: str
    ) -> Iterable[bytes]:
        route = self._routes.get((environ["REQUEST_METHOD"], path.removeprefix("/local/")))
        if route is None:
            return _answer(start_response, "404 Not Found", {"error": f"no such request: {path}"})
        try:
            return _answer(start_response, "200 OK", route(_parameters(environ)))
        except KeyError as error:
            return _answer(start_response, "404 Not Found", {"error": f"unknown: {error}"})
        except (TypeError, ValueError) as error:
            return _answer(start_response, "400 Bad Request", {"error": str(error)})


def _run_and_discard(application: Application, environ: Environ) -> None:
    answer = application(environ, lambda *_: None)
    for _ in answer:
        pass
    if hasattr(answer, "close"):
        answer.close()


def _parameters(environ: Environ) -> dict[str, Any]:
    length = min(int(environ.get("CONTENT_LENGTH") or 0), _BODY_LIMIT_BYTES)
    if length:
        body = json.loads(environ["wsgi.input"].read(length))
        if not isinstance(body, dict):
            raise ValueError("the body is a JSON object")
        return body
    return {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}


def _from_a_browser(environ: Environ) -> bool:
    return "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ


def _for_loopback(environ: Environ) -> bool:
    """A name that an attacker's DNS points to 127.0.0.1 arrives with that name as its host."""
    host = environ.get("HTTP_HOST", "").rpartition(":")[0] or environ.get("HTTP_HOST", "")
    return host in {"127.0.0.1", "localhost"} or host.endswith(".localhost")


def _answer(start_response: StartResponse, status: str, body: Mapping[str, Any]) -> Iterable[bytes]:
    text = json.dumps(body).encode()
    start_response(
        status, [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
    )
    return [text]
