"""HTTP on the daemon's Unix socket. Law: standard library only; no retries, the caller knows what is worth one."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

_TIMEOUT_S: Final = 5.0

Unavailable = (OSError, http.client.HTTPException)
"""What a request raises when the daemon is not there, or goes away in the middle of its answer."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(os.fspath(self._path))


def status_of(path: Path, target: str) -> int:
    """The HTTP status of a GET. Raises Unavailable."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        return connection.getresponse().status
    finally:
        connection.close()


def json_lines(path: Path, target: str) -> Iterator[dict[str, Any]]:
    """The objects of a stream, as they come. Raises Unavailable; a refusal counts as that too."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{target}: {response.status} {response.read()!r}")
        if connection.sock is not None:
            connection.sock.settimeout(None)
        while line := response.readline():
            yield json.loads(line)
    finally:
        connection.close()
