"""From botocore's exceptions to the errors of this program. Law: nothing of botocore or aiohttp leaves aws/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import aiohttp
import botocore.exceptions as raised  # type: ignore[import-untyped] # botocore ships no types
import botocore.parsers  # type: ignore[import-untyped] # as above

from dstackd.aws.error_table import Rule, limit_vcpus, rule_for
from dstackd.aws.untyped import Untyped
from dstackd.errors import (
    BlockScope,
    CapacityShortage,
    CloudError,
    CloudUnavailable,
    InvalidRequest,
    Unauthorized,
)

MESSAGE_CHARS_MAX = 8192
"""Of an error; EC2 names up to a hundred machines in one."""
UNREADABLE = "UnreadableAnswer"
"""The code of an answer that is none of AWS's, or not what was asked for."""
ERROR_FROM = 300
"""Of HTTP's statuses: 3xx is the wrong endpoint."""
_TRANSPORT = (
    raised.ConnectionError,
    raised.HTTPClientError,  # the base of every timeout and closed connection
    raised.ResponseStreamingError,
    botocore.parsers.ResponseParserError,  # a proxy's page instead of an answer
    aiohttp.ClientError,
    OSError,  # includes TimeoutError
)
_NO_CREDENTIALS = (
    raised.NoCredentialsError,
    raised.PartialCredentialsError,
    raised.CredentialRetrievalError,
)
_ERRORS = (raised.ClientError, raised.BotoCoreError, *_TRANSPORT)


@contextmanager
def translating(operation: str) -> Iterator[None]:
    """Raise a CloudError in place of whatever botocore raises inside. `operation`: `ec2:RunInstances`."""
    try:
        yield
    except _ERRORS as error:
        raise translate(error, operation) from error


@contextmanager
def reading(operation: str) -> Iterator[None]:
    """Raise CloudUnavailable in place of what reading a part of an answer raises that is not there, or is something else: such an
    answer says nothing.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CloudUnavailable(UNREADABLE, named(error), operation=operation) from error


def named(error: Exception) -> str:
    """The error with its kind, of a bearable length."""
    return f"{type(error).__name__}: {error}"[:MESSAGE_CHARS_MAX]


def translate(error: Exception, operation: str) -> CloudError:
    """The CloudError that says what to do next."""
    if isinstance(error, raised.ClientError):
        code, message, status = error_of(error.response)
        return refusal(code, message, operation=operation, http_status=status)
    # A transport's error may quote what came.
    name, problem = type(error).__name__, str(error)[:MESSAGE_CHARS_MAX]
    if isinstance(error, _NO_CREDENTIALS):
        advice = "give the backend an access key, or this host an instance role"
        return Unauthorized(name, problem, operation=operation, advice=advice)
    if isinstance(error, _TRANSPORT):
        return CloudUnavailable(name, problem, operation=operation)
    return InvalidRequest(name, problem, operation=operation)


def refusal(code: str, message: str, *, operation: str, http_status: int = 0) -> CloudError:
    """The CloudError for an error code of AWS."""
    bare_operation = operation.rpartition(":")[2]
    rule = rule_for(code, message=message, operation=bare_operation, http_status=http_status)
    return _raised_by(rule, code, message, operation)


def _raised_by(rule: Rule, code: str, message: str, operation: str) -> CloudError:
    if rule.error is CapacityShortage:
        return CapacityShortage(
            code,
            message,
            operation=operation,
            advice=rule.advice,
            scope=rule.scope or BlockScope.OFFERING,
            block_s=rule.block_s,
            limit_vcpus=limit_vcpus(code, message),
        )
    return rule.error(code, message, operation=operation, advice=rule.advice)


def error_of(response: Untyped) -> tuple[str, str, int]:
    """(code, message, HTTP status) of an answer; the code is empty when it was no error."""
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    error = response.get("Error") or {}
    code = str(error.get("Code") or "")
    if not code and status >= ERROR_FROM:
        code = UNREADABLE
    return code, str(error.get("Message") or ""), status


def date_of(response: Untyped) -> int | None:
    """The Date header of an answer, in milliseconds since 1970; None: it has none that can be read."""
    header = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return int(parsedate_to_datetime(header).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
