"""Error answers with AWS's codes and statuses.

Law: moto takes an EC2 error's status from the service model, which lists none, so each is 400.
EC2 answers some with 500 and 503, and SDKs retry those: the status is part of the promise.
"""

from collections.abc import Callable, Mapping
from typing import Any

from moto.core.serialize import EC2Serializer
from moto.ec2.exceptions import EC2ClientError

# AWS, "Error codes for the Amazon EC2 API": server errors, and the two client errors not 400.
_STATUS: Mapping[str, int] = {
    "DryRunOperation": 412,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "RequestLimitExceeded": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}


def refuse(code: str, message: str) -> EC2ClientError:
    """Return the EC2 error to raise."""
    return EC2ClientError(code, message)


def install() -> None:
    """Give EC2's errors their documented HTTP status; measured with moto 5.2.5: 400 for all."""
    original: Callable[..., Any] = EC2Serializer._serialized_error_to_response

    def with_status(self: Any, resp: Any, error: Exception, shape: Any, serialized: Any) -> Any:
        answer = original(self, resp, error, shape, serialized)
        answer["status_code"] = _STATUS.get(shape.error_code, answer["status_code"])
        return answer

    EC2Serializer._serialized_error_to_response = with_status  # type: ignore[method-assign, assignment]
