"""What each error of AWS, and of the way to AWS, means."""

from __future__ import annotations

import botocore.exceptions as raised  # type: ignore[import-untyped] # ships no types
import pytest

from dstackd.aws.error_table import RULES
from dstackd.aws.translation import refusal, translate, translating
from dstackd.errors import (
    BlockScope,
    CapacityShortage,
    CloudError,
    CloudUnavailable,
    InvalidRequest,
    LaunchOver,
    NotFound,
    PreconditionFailed,
    Throttled,
    Unauthorized,
)

RUN = "ec2:RunInstances"


def answer(
    code: str, *, status: int = 400, message: str = "text", operation: str = RUN
) -> CloudError:
    """What becomes of an error answer of AWS."""
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate(raised.ClientError(response, operation.rpartition(":")[2]), operation)


@pytest.mark.parametrize(
    ("code", "scope", "block_s"),
    [
        ("InsufficientInstanceCapacity", BlockScope.OFFERING, 180),
        ("Unsupported", BlockScope.OFFERING, 21_600),
        ("VcpuLimitExceeded", BlockScope.QUOTA, 300),
        ("MaxSpotInstanceCountExceeded", BlockScope.QUOTA, 300),
        ("InsufficientFreeAddressesInSubnet", BlockScope.SUBNET, 300),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", BlockScope.MARKET, 21_600),
        ("PendingVerification", BlockScope.REGION, 1800),
    ],
)
def test_a_shortage_says_what_to_leave_alone(code: str, scope: BlockScope, block_s: float) -> None:
    """A shortage blocks no more of the market than it is about."""
    error = answer(code, status=500)
    assert isinstance(error, CapacityShortage)
    assert (error.scope, error.block_s, error.code) == (scope, block_s, code)


@pytest.mark.parametrize(
    ("code", "status", "message", "operation", "expected"),
    [
        ("RequestLimitExceeded", 503, "", RUN, Throttled),
        ("ThrottlingException", 400, "", "logs:FilterLogEvents", Throttled),
        ("SlowDown", 503, "", "s3:PutObject", Throttled),
        (
            "InvalidParameterValue",
            400,
            "Value (x) ... Invalid IAM Instance Profile name",
            RUN,
            Throttled,
        ),
        ("InvalidParameterValue", 400, 'Profile "x" has no associated IAM Roles', RUN, Throttled),
        ("InvalidParameterValue", 400, "Invalid value 'x' for InstanceType.", RUN, InvalidRequest),
        ("InvalidGroup.NotFound", 400, "", RUN, Throttled),
        ("InvalidGroup.NotFound", 400, "", "ec2:DescribeSecurityGroups", NotFound),
        ("InternalError", 500, "", RUN, CloudUnavailable),
        ("ConditionalRequestConflict", 409, "", "s3:PutObject", CloudUnavailable),
        ("PreconditionFailed", 412, "", "s3:PutObject", PreconditionFailed),
        ("EntityAlreadyExists", 409, "", "iam:CreateRole", PreconditionFailed),
        ("LimitExceeded", 409, "", "iam:AddRoleToInstanceProfile", PreconditionFailed),
        ("LimitExceeded", 409, "", "iam:CreateRole", InvalidRequest),
        ("LimitExceededException", 400, "", "logs:CreateLogGroup", InvalidRequest),
        ("NoSuchKey", 404, "", "s3:GetObject", NotFound),
        ("404", 404, "", "s3:HeadObject", NotFound),
        ("NoSuchBucket", 404, "", "s3:GetObject", InvalidRequest),
        ("403", 403, "", "s3:HeadObject", Unauthorized),
        ("ExpiredToken", 400, "", "s3:GetObject", Unauthorized),
        ("InvalidClientTokenId", 403, "", "sts:GetCallerIdentity", Unauthorized),
        ("UnauthorizedOperation", 403, "", RUN, Unauthorized),
        ("AuthFailure", 401, "Not authorized for images: [ami-1]", RUN, InvalidRequest),
        ("AuthFailure", 401, "AWS was not able to validate the credentials", RUN, Unauthorized),
        ("InvalidInstanceID.NotFound", 400, "", "ec2:TerminateInstances", NotFound),
        ("IdempotentParameterMismatch", 400, "", RUN, InvalidRequest),
        ("IdempotentInstanceTerminated", 400, "", RUN, LaunchOver),
        ("SomethingNew", 400, "", RUN, InvalidRequest),
        ("SomethingNew", 403, "", RUN, Unauthorized),
        ("SomethingNew", 429, "", RUN, Throttled),
        ("SomethingNew", 502, "", RUN, CloudUnavailable),
    ],
)
def test_a_code_is_named_for_what_to_do_next(
    code: str, status: int, message: str, operation: str, expected: type[CloudError]
) -> None:
    """Each code, with its message and operation where these matter, is one class of error."""
    error = answer(code, status=status, message=message, operation=operation)
    assert type(error) is expected
    assert (error.code, error.message, error.operation) == (code, message, operation)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (raised.EndpointConnectionError(endpoint_url="x"), CloudUnavailable),
        (raised.ConnectTimeoutError(endpoint_url="x"), CloudUnavailable),
        (raised.ReadTimeoutError(endpoint_url="x"), CloudUnavailable),
        (raised.ConnectionClosedError(endpoint_url="x"), CloudUnavailable),
        (TimeoutError("slow"), CloudUnavailable),
        (ConnectionResetError("gone"), CloudUnavailable),
        (raised.NoCredentialsError(), Unauthorized),
        (raised.ParamValidationError(report="x"), InvalidRequest),
    ],
)
def test_a_failure_on_the_way_leaves_the_outcome_unknown(
    failure: Exception, expected: type[CloudError]
) -> None:
    """Without an answer the same call has to be repeated; without credentials or sense it need not be."""
    with pytest.raises(CloudError) as caught, translating(RUN):
        raise failure
    assert type(caught.value) is expected
    assert caught.value.code == type(failure).__name__


def test_errors_of_our_own_are_not_touched() -> None:
    """A bug of this program is never dressed up as a failure of AWS."""
    with pytest.raises(KeyError), translating(RUN):
        raise KeyError("ours")


def test_no_code_has_two_rows_that_say_the_same() -> None:
    """The table has one row for a code, and further ones only for a message or an operation."""
    keys = [(rule.code, rule.text, rule.operation) for rule in RULES]
    assert len(keys) == len(set(keys))


def test_a_shortage_has_a_scope_and_a_time_and_nothing_else_has() -> None:
    """A row is complete for its class."""
    for rule in RULES:
        is_shortage = rule.error is CapacityShortage
        assert (rule.scope is not None, rule.block_s > 0) == (is_shortage, is_shortage), rule


def test_what_an_operator_can_mend_says_how() -> None:
    """Every denial and every quota comes with advice."""
    for rule in RULES:
        mendable = rule.error is Unauthorized or rule.scope in {BlockScope.QUOTA, BlockScope.REGION}
        assert rule.advice or not mendable, rule
    assert "Service Quotas" in refusal("VcpuLimitExceeded", "", operation=RUN).advice
