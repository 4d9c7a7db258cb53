"""Calls that are made to fail: an error in place of an answer, or an answer that is lost.

Law: decides and renders; the gateway executes. Errors have the form of the protocol that the
service speaks, so an SDK reads them as it reads AWS's own.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

LOST = 0
"""The status of a call whose connection is closed without an answer."""

_QUERY_APIS = frozenset({"iam", "sts"})


@dataclass(frozen=True, slots=True)
class Failure:
    """How one call fails."""

    code: str
    status: int
    message: str
    executed: bool
    """Whether AWS did what was asked before the answer failed."""

    def body(self, service_name: str) -> tuple[str, str]:
        """Return content type and body."""
        code, message = escape(self.code), escape(self.message)
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if service_name == "ec2":
            return "text/xml", f"<Response><Errors>{error}</Errors></Response>"
        if service_name == "s3":
            return "application/xml", error
        if service_name in _QUERY_APIS:
            return "text/xml", f"<ErrorResponse>{error}</ErrorResponse>"
        body = {"__type": self.code, "message": self.message}
        return "application/x-amz-json-1.1", json.dumps(body)


@dataclass(slots=True)
class Failures:
    """The failures that are still to come, by `service:Operation`."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: dict[str, tuple[int, Failure]] = field(default_factory=dict)

    def plan(self, order: Mapping[str, Any]) -> None:
        """Let the next `times` calls of `operation` fail; 0 forgets. ValueError on a bad order."""
        operation, times = str(order["operation"]), int(order.get("times", 1))
        status = int(order.get("status", 400))
        if ":" not in operation or times < 0 or not (status == LOST or 400 <= status < 600):  # noqa: PLR2004
            raise ValueError("operation is `service:Operation`, times >= 0, status 400-599 or 0")
        failure = Failure(
            code=str(order.get("code", "InternalError")),
            status=status,
            message=str(order.get("message", "made to fail")),
            executed=bool(order.get("executed", False)),
        )
        with self._lock:
            self._left[operation] = (times, failure)

    def take(self, operation: str) -> Failure | None:
        """Return the failure of this call, and count it."""
        with self._lock:
            times, failure = self._left.pop(operation, (0, None))
            if failure is not None and times > 1:
                self._left[operation] = (times - 1, failure)
            return failure if times else None
