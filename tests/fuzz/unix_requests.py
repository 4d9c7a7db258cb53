"""Requests over a Unix socket, for a library that speaks with `requests`. Law: the transport and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from typing_extensions import override
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

BASE_URL = "http://localhost"


class _Connection(HTTPConnection):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


class _Pool(HTTPConnectionPool):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    @override
    def _new_conn(self) -> HTTPConnection:
        return _Connection(self._path, timeout_s=self._timeout_s)


class _Adapter(HTTPAdapter):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._pool = _Pool(path, timeout_s=timeout_s)
        super().__init__()

    @override
    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    @override
    def close(self) -> None:
        self._pool.close()


def session(path: Path, *, timeout_s: float) -> requests.Session:
    """A session whose requests to BASE_URL go to the socket."""
    made = requests.Session()
    made.trust_env = False
    made.mount(BASE_URL, _Adapter(path, timeout_s=timeout_s))
    return made
