"""HTTP to one host over connections that stay open. Law: one try, no policy; every wait is bounded.

Proxies are not consulted: the metadata service must never be asked through one, and the AWS
endpoints of a machine are reached directly or through a VPC endpoint.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Union
from urllib.parse import urlsplit

from dstackd.runner.errors import NoRoom, Unreachable
from dstackd.runner.pace import Deadline

CHUNK_BYTES = 262_144
BODY_BYTES_MAX = 256 * 1024 * 1024
"""Of an answer that is kept in memory: a launch document with many large jobs."""
WHOLE_TIMEOUTS = 4
"""So many times the time-out of one read, for a body that is kept in memory."""

Connection = Union[http.client.HTTPConnection, http.client.HTTPSConnection]


class Sink(Protocol):
    """Takes a body in chunks."""

    def begin(self) -> None:
        """A body follows from its start; forget what came before."""
        ...

    def write(self, chunk: bytes, /) -> object: ...


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names are in lower case. `body` is empty where a sink took it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Endpoint:
    """One host. May be used from several threads: each exchange has a connection of its own."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self.host = parts.netloc
        self.base_path = parts.path.rstrip("/")

    def exchange(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        sink: Sink | None = None,
    ) -> Answer:
        """Send a request. A 2xx body goes to `sink` in chunks if there is one.

        Raises Unreachable, NoRoom.
        """
        connection, fresh = self._take()
        done = False
        try:
            try:
                response = _send(connection, method, target, headers, body)
            except ConnectionError:
                if fresh:
                    raise
                # The other side may close an idle connection at any moment; that is no failure.
                connection.close()
                response = _send(connection, method, target, headers, body)
            with response:  # which has the socket where the answer says that it is the last one
                answer = _receive(response, sink, within_s=WHOLE_TIMEOUTS * self._timeout_s)
            done = True
        # ValueError: http.client's own of a header or a length that is none.
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Unreachable(f"{method} {self.host}: {error!r}") from error
        finally:
            self._give_back(connection, usable=done)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> tuple[Connection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self.host, timeout=self._timeout_s, blocksize=CHUNK_BYTES), True

    def _give_back(self, connection: Connection, *, usable: bool) -> None:
        # http.client has closed the socket if the answer said so.
        if not usable or connection.sock is None:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)


def _send(
    connection: Connection, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> http.client.HTTPResponse:
    connection.request(method, target, body=body or None, headers=dict(headers))
    return connection.getresponse()


def _receive(response: http.client.HTTPResponse, sink: Sink | None, *, within_s: float) -> Answer:
    body = b""
    if sink is None or not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP
        body = _read_whole(response, Deadline(within_s))
    else:
        _pour(response, sink)
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


def _read_whole(response: http.client.HTTPResponse, deadline: Deadline) -> bytes:
    """The body, which has a bound, and so has the time that it may take: one that comes byte by byte meets no other."""
    expected = response.length
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise http.client.HTTPException(f"a body of more than {BODY_BYTES_MAX} bytes")
        if deadline.left_s() == 0:
            raise TimeoutError("the body has not come to its end")
    if expected is not None and size != expected:
        raise http.client.IncompleteRead(b"", expected - size)
    response.read()  # nothing; http.client sees only here that the connection is free again
    return b"".join(chunks)


def _pour(response: http.client.HTTPResponse, sink: Sink) -> None:
    _to_disk(sink.begin)
    expected = response.length
    received = 0
    while True:
        chunk = response.read(CHUNK_BYTES)
        if not chunk:
            break
        received += len(chunk)
        _to_disk(partial(sink.write, chunk))
    if expected is not None and received != expected:
        # http.client returns a short body in silence when it is read in chunks.
        raise http.client.IncompleteRead(b"", expected - received)


def _to_disk(step: Callable[[], object]) -> None:
    # Told apart from the connection's OSError, which is worth a repeat.
    try:
        step()
    except OSError as error:
        raise NoRoom(str(error)) from error
