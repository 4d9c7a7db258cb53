"""The instance metadata service, version 2. Law: reads only; never version 1.

Source: AWS, "Use the Instance Metadata Service to access instance metadata".
"""

from __future__ import annotations

import threading
import time

from dstackd.runner.errors import Unreachable
from dstackd.runner.wire import Answer, Endpoint

DEFAULT_URL = "http://169.254.169.254"
TIMEOUT_S = 3.0
TOKEN_TTL_S = 21_600
_RENEW_BEFORE_S = 60
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404


class Imds:
    """Metadata by path. May be used from several threads."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        self._endpoint = Endpoint(url, timeout_s=TIMEOUT_S)
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    def get(self, path: str) -> str | None:
        """Text at /latest/`path`; None when there is no such thing. Raises Unreachable."""
        answer = self._ask(path)
        if answer.status == _UNAUTHORIZED:
            self._forget_token()
            answer = self._ask(path)
        if answer.status == _NOT_FOUND:
            return None
        if answer.status != _OK:
            raise Unreachable(f"metadata {path}: HTTP {answer.status}")
        return answer.body.decode("utf-8", "replace")

    def require(self, path: str) -> str:
        """Text at /latest/`path`. Raises Unreachable, also when it is not there (yet)."""
        text = self.get(path)
        if not text:
            raise Unreachable(f"metadata {path}: not there")
        return text

    def close(self) -> None:
        self._endpoint.close()

    def _ask(self, path: str) -> Answer:
        headers = {"X-aws-ec2-metadata-token": self._current_token()}
        return self._endpoint.exchange("GET", f"/latest/{path}", headers=headers)

    def _current_token(self) -> str:
        with self._lock:
            if time.monotonic() >= self._renew_at:
                self._token = self._new_token()
                self._renew_at = time.monotonic() + TOKEN_TTL_S - _RENEW_BEFORE_S
            return self._token

    def _new_token(self) -> str:
        answer = self._endpoint.exchange(
            "PUT",
            "/latest/api/token",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)},
        )
        if answer.status != _OK:
            raise Unreachable(f"metadata token: HTTP {answer.status}")
        return answer.body.decode("utf-8", "replace")

    def _forget_token(self) -> None:
        with self._lock:
            self._renew_at = 0.0
