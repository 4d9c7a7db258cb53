"""The daemon as its clients see it: HTTP on a Unix socket.

Law: standard library only (and click's exception); no retries except where a caller asks for them.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from dstackd.cli import exit_codes
from dstackd.cli.failures import Failure, config_errors
from dstackd.config_paths import ClientConfig, client_config
from dstackd.plain_text import harmless

TIMEOUT_S: Final = 30.0
_CHUNK_BYTES: Final = 1 << 20

_SERVER_ERROR: Final = 500
_WRONG_REQUEST: Final = frozenset({400, 404, 413, 422})


class Unreachable(Failure):
    """No daemon answers, or it cannot now (5xx), or the answer broke off: what a restart looks like."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=exit_codes.UNREACHABLE)


class Refused(Failure):
    """The daemon will not do it (4xx)."""

    def __init__(self, message: str, *, status: int) -> None:
        wrong = status in _WRONG_REQUEST
        super().__init__(message, exit_code=exit_codes.USAGE if wrong else exit_codes.REFUSED)


class Daemon:
    """One method a kind of request. Every method raises Unreachable and Refused."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config

    def get(self, *path: str, **query: object) -> dict[str, Any]:
        """The JSON object at `path`; what is None in `query` is left out."""
        with self._answer("GET", path, query=query) as response:
            return _json_object(response.read())

    def post(self, *path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Send `body`; the JSON object of the answer."""
        with self._answer("POST", path, body=body) as response:
            return _json_object(response.read())

    def lines(self, *path: str, **query: object) -> Iterator[dict[str, Any]]:
        """The objects of a stream as they come, for as long as it lasts."""
        with self._answer("GET", path, query=query, timeout_s=None) as response:
            while line := response.readline():
                yield _json_object(line)

    def chunks(self, *path: str, **query: object) -> Iterator[bytes]:
        """The content at `path` in parts. It may be shorter than it should be: compare its size."""
        with self._answer("GET", path, query=query) as response:
            while chunk := response.read(_CHUNK_BYTES):
                yield chunk

    def check(self, *path: str) -> None:
        """Nothing, when the answer is good."""
        with self._answer("GET", path) as response:
            response.read()

    @contextmanager
    def _answer(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        timeout_s: float | None = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, to be read in the block and nothing else done: an OSError there is the
        daemon's. `timeout_s` None: its content may take for ever.
        """
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        target = "/" + "/".join(quote(part, safe="") for part in path)
        if given:
            target += f"?{urlencode(given, errors='surrogatepass')}"
        connection = http.client.HTTPConnection("localhost")
        try:
            stream = connection.sock = _connect(self.config.socket)
            content = None if body is None else json.dumps(body).encode()
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, target, content, headers)
            response = connection.getresponse()
            if not response.isclosed():  # with nothing to read, the socket may be gone already
                stream.settimeout(timeout_s)
            _raise_if_refused(response)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(unreachable_message(self.config, error)) from error
        finally:
            connection.close()


def connect(given: Path | None) -> Daemon:
    """The daemon of the configuration that `--config` names, or that is found."""
    with config_errors():
        return Daemon(client_config(given, environ=os.environ, folder=Path.cwd()))


def unreachable_message(config: ClientConfig, error: Exception) -> str:
    """Where was looked, why it did not work, and what to do."""
    source = config.source or "the defaults: there is no configuration file"
    config_option = f" --config {config.source}" if config.source else ""
    lines = [f"no daemon answers at {config.socket} (from {source}): {_why(error)}"]
    if isinstance(error, PermissionError):
        lines.append("only its owner and group may connect: become a member of the group")
    else:
        lines.append(
            f"start it: dstackd run{config_option}, or on a cloud of this host: dstackd dev"
        )
        lines.append("or name the configuration of one that runs: --config FILE or $DSTACKD_CONFIG")
    if config.database is not None and config.database.exists():
        query = "SELECT id, phase, reason, message FROM job ORDER BY seq DESC LIMIT 20"
        lines.append(f"the queue itself: sqlite3 -readonly {config.database} '{query}'")
    return "\n".join(lines)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(os.fspath(path))
    except OSError as error:
        connection.close()
        if error.errno is None:  # Python's own, of a path that no socket can have
            raise OSError(errno.ENAMETOOLONG, str(error)) from None
        raise
    return connection


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise http.client.HTTPException(f"the answer is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise http.client.HTTPException("the answer is not a JSON object")
    return value


def _raise_if_refused(response: http.client.HTTPResponse) -> None:
    if response.status < http.client.BAD_REQUEST:
        return
    message = _error_message(response.read()) or f"HTTP status {response.status}"
    if response.status >= _SERVER_ERROR:
        raise Unreachable(f"the daemon cannot answer now: {message}")
    raise Refused(message, status=response.status)


def _error_message(content: bytes) -> str:
    try:
        error = json.loads(content)["error"]
        fields = [f"{each['field']}: {each['problem']}; {each['fix']}" for each in error["fields"]]
        lines = fields or [error["message"]]
    except (ValueError, LookupError, TypeError):
        lines = [content.decode(errors="replace")[:200]]
    return "\n".join(harmless(line) for line in lines)
