"""A server that answers with the bytes that it was given, HTTP or not. Law: loopback, a thread of its own, no knowledge of AWS."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from typing_extensions import override

REQUEST_BYTES_MAX = 1 << 20


@dataclass
class Odd:
    """What it sends, and how. `drip_s`: one byte, then a pause, without an end. `endless`: the last piece for ever."""

    content: bytes = b""
    drip_s: float = 0.0
    endless: bytes = b""
    asked: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


def http(
    body: bytes, *, status: int = 200, headers: tuple[str, ...] = ("Content-Type: text/xml",)
) -> bytes:
    """A whole answer with the right length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def odd_server() -> Iterator[Odd]:
    """It answers every request, whatever it is, and closes the connection."""
    odd = Odd()

    class Answerer(socketserver.StreamRequestHandler):
        timeout = 5

        @override
        def handle(self) -> None:
            with suppress(OSError, ValueError):
                _read_request(self)
                odd.asked += 1
                self.wfile.write(odd.content)
                self.wfile.flush()
                while odd.endless and not odd.over.is_set():
                    self.wfile.write(odd.endless)
                while odd.drip_s and not odd.over.is_set():
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(odd.drip_s)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        @override
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients go away in the middle: that is what is tried here."""

    with Server(("127.0.0.1", 0), Answerer) as server:
        odd.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield odd
        finally:
            odd.over.set()
            server.shutdown()
            thread.join()


def _read_request(handler: socketserver.StreamRequestHandler) -> None:
    length = 0
    while (line := handler.rfile.readline(REQUEST_BYTES_MAX)) not in {b"\r\n", b""}:
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "content-length":
            length = int(value)
        if name.lower() == "expect":
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            handler.wfile.flush()
    handler.rfile.read(length)
