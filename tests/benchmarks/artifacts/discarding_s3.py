"""An S3 that reads what it is sent and forgets it, as a process of its own: `python discarding_s3.py`
prints its port. Law: the same for every client; it does as little as it can, so that the clients' own
work is what a benchmark sees.
"""

from __future__ import annotations

import asyncio
import itertools

from typing_extensions import override

ETAG = "d41d8cd98f00b204e9800998ecf8427e"
_UPLOAD = b"<InitiateMultipartUploadResult><UploadId>u%d</UploadId></InitiateMultipartUploadResult>"
_DONE = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
_EMPTY = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"
)
_MISSING = b"<Error><Code>NoSuchKey</Code><Message>forgotten</Message></Error>"
_numbers = itertools.count(1)
_BUFFER_BYTES = 4 * 1024 * 1024


class Connection(asyncio.BufferedProtocol):
    """One client's connection: heads are read, bodies are counted and dropped."""

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER_BYTES)
        self._head = b""
        self._method, self._target = "", ""
        self._left = 0
        self._reading_head = True

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @override
    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        if not self._reading_head and self._left > nbytes:
            self._left -= nbytes
            return
        received = bytes(memoryview(self._buffer)[:nbytes])
        while received:
            received = self._take(received)

    def _take(self, received: bytes) -> bytes:
        if self._reading_head:
            self._head += received
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return b""
            self._head = b""
            self._begin(head.decode("latin-1"))
            received = rest
        taken = min(self._left, len(received))
        self._left -= taken
        if self._left == 0:
            self._reading_head = True
            self._answer()
        return received[taken:]

    def _begin(self, head: str) -> None:
        request, *lines = head.split("\r\n")
        self._method, self._target, _ = request.split(" ")
        headers = {
            name.strip().lower(): text.strip()
            for name, _, text in (line.partition(":") for line in lines)
        }
        self._left = int(headers.get("content-length", 0))
        self._reading_head = False
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self) -> None:
        status, body = self._reply()
        length = f"content-length: {len(body)}\r\n"
        head = f'HTTP/1.1 {status} x\r\n{length}etag: "{ETAG}"\r\n\r\n'
        self._transport.write(head.encode() + (b"" if self._method == "HEAD" else body))

    def _reply(self) -> tuple[int, bytes]:
        if self._method == "POST":
            return (200, _UPLOAD % next(_numbers)) if "uploads" in self._target else (200, _DONE)
        if self._method in {"GET", "HEAD"}:
            return (200, _EMPTY) if "list-type" in self._target else (404, _MISSING)
        return 200, b""


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
