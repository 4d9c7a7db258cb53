"""A daemon that a test scripts: for answers that the real one never gives on purpose.

Law: the standard library's HTTP server on a Unix socket; the truth about good answers is the real
server, in tests/http.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from typing_extensions import override

from tests.http.world import short_folder


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `promised_bytes` more than the content: the connection breaks in the middle of it."""

    content: bytes
    status: int = 200
    promised_bytes: int | None = None


Answer = Callable[[str, dict[str, str]], Reply]


@dataclass
class Double:
    """Where it listens, and what it was asked: path and query."""

    socket: Path
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def as_json(value: object, *, status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(json.dumps(value).encode(), status)


def as_lines(*values: object, cut: bool = False) -> Reply:
    """A stream of JSON lines, which breaks off behind the last one if `cut`."""
    content = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    return Reply(content, promised_bytes=len(content) + 10 if cut else None)


@contextmanager
def playing(answer: Answer) -> Iterator[Double]:
    """A server that answers each request with `answer(path, query)`, for the block."""
    with short_folder() as folder:
        double = Double(folder / "double.sock")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = dict(parse_qsl(parts.query))
                double.asked.append((parts.path, query))
                reply = answer(parts.path, query)
                self.send_response(reply.status)
                length = reply.promised_bytes
                self.send_header("Content-Length", str(length or len(reply.content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(reply.content)
                self.close_connection = True

            def do_POST(self) -> None:
                # Closing with a part unread would reset the connection under the answer.
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.do_GET()

            @override
            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: the client's address is empty on a Unix socket."""

        with socketserver.ThreadingUnixStreamServer(str(double.socket), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield double
            finally:
                server.shutdown()
                thread.join()


def job_row(**columns: object) -> dict[str, object]:
    """A job as GET /v1/jobs/{id} shows it: one that has succeeded."""
    row: dict[str, object] = {
        "seq": 1,
        "id": "abc",
        "spec": {"commands": ["true"]},
        "project": "main",
        "priority": 0,
        "unique_key": None,
        "run_at_ms": None,
        "backend": None,
        "cancel_requested": False,
        "submitted_at_ms": 1_000_000,
        "phase": "succeeded",
        "reason": "exited",
        "message": "exit code 0",
        "phase_since_ms": 1_002_000,
        "finished_at_ms": 1_002_000,
        "exit_code": 0,
        "name": "",
        "attempt": 1,
        "ran_attempts": 1,
        "boot_failures": 0,
        "cost_usd": 0.0,
        "array_parent": None,
        "array_index": None,
    }
    return {**row, **columns}


def described(**columns: object) -> Reply:
    """The answer of GET /v1/jobs/{id}."""
    return as_json({"job": job_row(**columns), "attempts": [], "events": [], "elements": []})
