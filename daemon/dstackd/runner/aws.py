"""Signed calls with retries. Law: the only place that decides which AWS error is worth a repeat."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from dstackd import protocol
from dstackd.runner import sigv4
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import AwsError, RunnerError, Unreachable
from dstackd.runner.pace import Deadline, backoff_s
from dstackd.runner.wall_clock import WallClock
from dstackd.runner.wire import Answer, Endpoint, Sink

TIMEOUT_S = 30.0
"""Connect, and each read or write: a stalled connection is given up after this."""

ERROR_BYTES_MAX = 65_536
ERROR_CHARS_MAX = 1_000

_STALE_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "UnrecognizedClientException",
    }
)
_WRONG_CLOCK = frozenset(
    {"RequestTimeTooSkewed", "RequestExpired", "InvalidSignatureException", "SignatureDoesNotMatch"}
)
_LATER = frozenset(
    {
        # A role that was made seconds ago is not known everywhere yet.
        "AccessDenied",
        "AccessDeniedException",
        "ConditionalRequestConflict",
        "LimitExceededException",
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_TOO_MANY, _SERVER_ERROR = 429, 500


def is_retryable(error: RunnerError) -> bool:
    """Whether the identical call may succeed later."""
    if isinstance(error, AwsError):
        return (
            error.status >= _SERVER_ERROR
            or error.status == _TOO_MANY
            or error.code in _LATER | _STALE_CREDENTIALS | _WRONG_CLOCK
        )
    return isinstance(error, Unreachable)


class AwsApi:
    """One AWS service in one region. May be used from several threads."""

    def __init__(
        self, service: str, *, url: str, region: str, credentials: InstanceCredentials
    ) -> None:
        self._service = service
        self._region = region
        self._credentials = credentials
        self._endpoint = Endpoint(url, timeout_s=TIMEOUT_S)

    def call(
        self,
        method: str,
        path: str,
        *,
        patience_s: float,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        sink: Sink | None = None,
    ) -> Answer:
        """Call until it worked, at least once, for about `patience_s`. `path` is percent-encoded.
        Raises AwsError, Unreachable.
        """
        request = sigv4.Request(
            method=method,
            path=(self._endpoint.base_path + path) or "/",
            host=self._endpoint.host,
            query=query,
            headers=headers or {},
            body=body,
        )
        deadline = Deadline(patience_s)
        tries = 0
        while True:
            try:
                return self._once(request, sink)
            except (AwsError, Unreachable) as error:
                wait_s = backoff_s(tries)
                if not is_retryable(error) or wait_s >= deadline.left_s():
                    raise
                if isinstance(error, AwsError) and error.code in _STALE_CREDENTIALS:
                    self._credentials.distrust()
            time.sleep(wait_s)
            tries += 1

    def call_json(self, target: str, body: bytes, *, patience_s: float) -> bytes:
        """Call `target` of a service that speaks JSON; the answer's body. Raises as `call`."""
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
        return self.call("POST", "/", headers=headers, body=body, patience_s=patience_s).body

    @property
    def clock(self) -> WallClock:
        """AWS's time, as far as its answers have told it."""
        return self._credentials.clock

    def close(self) -> None:
        self._endpoint.close()

    def _once(self, request: sigv4.Request, sink: Sink | None) -> Answer:
        asked_at = time.time()
        now = time.gmtime(self.clock.now())
        headers = sigv4.sign(
            request,
            credentials=self._credentials.current(),
            region=self._region,
            service=self._service,
            amz_date=time.strftime("%Y%m%dT%H%M%SZ", now),
        )
        query = sigv4.encode_query(request.query)
        target = f"{request.path}?{query}" if query else request.path
        answer = self._endpoint.exchange(
            request.method, target, headers=headers, body=request.body, sink=sink
        )
        self.clock.learn(answer.headers.get("date", ""), asked_at=asked_at)
        if answer.status >= 300:  # noqa: PLR2004 - HTTP: 3xx is the wrong endpoint
            raise _error(answer)
        return answer


def _error(answer: Answer) -> AwsError:
    """S3 answers in XML, CloudWatch Logs in JSON; a HEAD or a proxy with neither."""
    text = answer.body[:ERROR_BYTES_MAX].decode("utf-8", "replace")
    code, message = _json_error(text) or (_tag(text, "Code"), _tag(text, "Message"))
    return AwsError(
        code[:ERROR_CHARS_MAX] or f"HTTP{answer.status}",
        status=answer.status,
        message=message[:ERROR_CHARS_MAX] or text[:200],
        region=answer.headers.get("x-amz-bucket-region", ""),
    )


def _json_error(text: str) -> tuple[str, str] | None:
    """(code, message); None for what is no JSON object."""
    try:
        value = protocol.load_json(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    code = str(value.get("__type", "")).rpartition("#")[2]
    return code, str(value.get("message") or value.get("Message") or "")


def _tag(text: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return found.group(1) if found else ""
