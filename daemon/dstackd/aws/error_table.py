"""THE table of AWS error codes: what each one means for the caller, how much it rules out, what would help.

Law: data and one pure look-up. A code is classified here and nowhere else; throttling is never read as
a lack of capacity, and an unknown outcome is never read as "not done".
Sources: EC2 API reference, "Error codes"; S3, IAM, STS and CloudWatch Logs API references, "Errors".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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

MINUTE_S = 60.0
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `text`, when given, has to occur in AWS's message; `operation` is an operation's bare name.

    `scope` and `block_s` say how much a CapacityShortage rules out, and for how long at first.
    """

    code: str
    error: type[CloudError]
    advice: str = ""
    scope: BlockScope | None = None
    block_s: float = 0.0
    text: str = ""
    operation: str = ""

    def covers(self, message: str, operation: str) -> bool:
        """Whether the row is about this occurrence of its code."""
        return self.text in message and self.operation in {"", operation}


def _all(error: type[CloudError], *codes: str, advice: str = "") -> tuple[Rule, ...]:
    return tuple(Rule(code, error, advice) for code in codes)


def _shortage(*codes: str, scope: BlockScope, block_s: float, advice: str = "") -> tuple[Rule, ...]:
    return tuple(Rule(code, CapacityShortage, advice, scope, block_s) for code in codes)


_QUOTA = "ask for a higher quota under Service Quotas > Amazon EC2; new accounts have none for GPUs"
_KEYS = "check the backend's access key, or the role that the default credential chain finds"
_POLICY = "compare the caller's IAM policy with iam-policy-template.json"
_CLOCK = "the clock of this host is wrong; turn on time synchronisation"
_SUPPORT = "the account cannot launch there yet; AWS Support has to clear it"
_IMAGES = "correct the backend's image ids; AMI ids differ by region"
_FRESH = "new IAM and EC2 resources take up to some minutes to be seen; this passes by itself"

_SHORTAGES = (
    # Three minutes is what Karpenter keeps an offering out for after the same answers.
    *_shortage(
        "InsufficientInstanceCapacity",  # HTTP 500: an SDK would retry it
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "SpotMaxPriceTooLow",
        scope=BlockScope.OFFERING,
        block_s=3 * MINUTE_S,
    ),
    *_shortage(
        "Unsupported",
        "UnsupportedOperation",
        "InstanceTypeNotSupported",
        scope=BlockScope.OFFERING,
        block_s=6 * HOUR_S,
        advice="the zone does not offer this type, or the image does not boot on it",
    ),
    *_shortage(
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        scope=BlockScope.QUOTA,
        block_s=5 * MINUTE_S,
        advice=_QUOTA,
    ),
    *_shortage(
        "InsufficientFreeAddressesInSubnet",
        "InsufficientVolumeCapacity",
        scope=BlockScope.SUBNET,
        block_s=5 * MINUTE_S,
        advice="the subnet or its zone is full; configure a larger subnet, or none",
    ),
    *_shortage(
        "InvalidSubnetID.NotFound",
        "InvalidSubnet",
        scope=BlockScope.SUBNET,
        block_s=HOUR_S,
        advice="the subnet is gone; correct `subnet` in the backend's configuration",
    ),
    *_shortage(
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        scope=BlockScope.MARKET,
        block_s=6 * HOUR_S,
        advice="create the spot role once: aws iam create-service-linked-role"
        " --aws-service-name spot.amazonaws.com",
    ),
    *_shortage(
        "VolumeLimitExceeded",
        "MaxIOPSLimitExceeded",
        "NetworkInterfaceLimitExceeded",
        scope=BlockScope.REGION,
        block_s=5 * MINUTE_S,
        advice="ask for a higher quota of volumes or network interfaces",
    ),
    *_shortage(
        "PendingVerification",
        "OptInRequired",
        "Blocked",
        scope=BlockScope.REGION,
        block_s=HOUR_S / 2,
        advice=_SUPPORT,
    ),
)

_THROTTLES = (
    *_all(
        Throttled,
        "RequestLimitExceeded",
        "EC2ThrottledException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
        "SlowDown",  # S3, HTTP 503
        "ConcurrentModification",  # IAM: not done, ask again
        "ConcurrentModificationException",
    ),
    # Nothing was launched, and nothing is wrong: the profile or group is younger than IAM's or EC2's
    # caches (seen from seconds to minutes). The same request with the same token will do later.
    Rule("InvalidParameterValue", Throttled, _FRESH, text="Invalid IAM Instance Profile"),
    Rule("InvalidParameterValue", Throttled, _FRESH, text="has no associated IAM Roles"),
    Rule("InvalidGroup.NotFound", Throttled, _FRESH, operation="RunInstances"),
)

_UNKNOWN_OUTCOMES = _all(
    CloudUnavailable,
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "ServerInternal",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "ServiceFailure",
    "ServiceFailureException",
    "Unavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "OperationAborted",  # S3 409: another writer at the same moment
    "OperationAbortedException",
    "ConditionalRequestConflict",  # S3 409 on a conditional write
    "UnreadableAnswer",  # ours: an error without a code is somebody else's, a proxy's perhaps
)

_DENIALS = (
    *_all(
        Unauthorized,
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "UnrecognizedClientException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        advice=_KEYS,
    ),
    *_all(
        Unauthorized,
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "Forbidden",
        "403",  # S3 answers HEAD without a body
        advice=_POLICY,
    ),
    *_all(
        Unauthorized,
        "RequestExpired",
        "RequestTimeTooSkewed",
        "RequestInTheFuture",
        advice=_CLOCK,
    ),
    Rule(
        "OperationNotPermitted",
        Unauthorized,
        "somebody turned termination protection on; turn it off in the EC2 console",
        operation="TerminateInstances",
    ),
)

_ABSENCES = _all(
    NotFound,
    "InvalidInstanceID.NotFound",
    "InvalidInstanceID.Malformed",  # an id that EC2 cannot have given out
    "InvalidGroup.NotFound",
    "InvalidSpotInstanceRequestID.NotFound",
    "InvalidSpotInstanceRequestID.Malformed",
    "NoSuchEntity",
    "NoSuchEntityException",
    "NoSuchKey",
    "NoSuchLifecycleConfiguration",
    "404",  # S3 answers HEAD without a body
    "NoSuchUpload",
    "ResourceNotFoundException",
)

_PRECONDITIONS = (
    *_all(
        PreconditionFailed,
        "PreconditionFailed",
        "412",
        "EntityAlreadyExists",
        "EntityAlreadyExistsException",
        "InvalidGroup.Duplicate",
        "ResourceAlreadyExistsException",
    ),
    # A profile holds one role; ours may be the one that it has.
    Rule("LimitExceeded", PreconditionFailed, operation="AddRoleToInstanceProfile"),
    Rule("LimitExceededException", PreconditionFailed, operation="AddRoleToInstanceProfile"),
)

_ENDS = (
    Rule("IdempotentInstanceTerminated", LaunchOver),
    Rule("IdempotentParameterMismatch", InvalidRequest),
    *_all(
        InvalidRequest,
        "InvalidAMIID.NotFound",
        "InvalidAMIID.Malformed",
        "InvalidAMIID.Unavailable",
        advice=_IMAGES,
    ),
    Rule("InvalidBlockDeviceMapping", InvalidRequest, "the image needs a larger `resources.disk`"),
    Rule("AuthFailure", InvalidRequest, _IMAGES, text="Not authorized for images"),
    *_all(
        InvalidRequest,
        "NoSuchBucket",
        "PermanentRedirect",
        "301",
        "AuthorizationHeaderMalformed",  # S3: signed for another region
        "IllegalLocationConstraintException",
        advice="the bucket has to exist in the backend's region",
    ),
)

RULES: tuple[Rule, ...] = (
    *_SHORTAGES,
    *_THROTTLES,
    *_UNKNOWN_OUTCOMES,
    *_DENIALS,
    *_ABSENCES,
    *_PRECONDITIONS,
    *_ENDS,
)


def _by_code(rules: Iterable[Rule]) -> Mapping[str, tuple[Rule, ...]]:
    grouped: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        grouped[rule.code] = (*grouped.get(rule.code, ()), rule)
    # The more particular row is asked first.
    return MappingProxyType(
        {
            code: tuple(sorted(found, key=lambda rule: not (rule.text or rule.operation)))
            for code, found in grouped.items()
        }
    )


_RULES_BY_CODE = _by_code(RULES)


def rule_for(code: str, *, message: str = "", operation: str = "", http_status: int = 0) -> Rule:
    """The row that covers an answer; for a code that has none, the rule of its HTTP status.

    A status of 0 means that no answer came: unknown outcome.
    """
    for rule in _RULES_BY_CODE.get(code, ()):
        if rule.covers(message, operation):
            return rule
    return Rule(code, _by_status(http_status), _POLICY if http_status == _FORBIDDEN else "")


_VCPU_LIMIT = re.compile(r"current vCPU limit of (\d{1,9})\b")


def limit_vcpus(code: str, message: str) -> int | None:
    """The account's vCPU quota, which only the message of VcpuLimitExceeded tells: "You have requested more vCPU
    capacity than your current vCPU limit of 32 allows for the instance bucket that the specified instance type belongs
    to." (EC2 User Guide, "Troubleshoot instance launch issues"). None where no number is in it.
    """
    found = _VCPU_LIMIT.search(message) if code == "VcpuLimitExceeded" else None
    return None if found is None else int(found[1])


_FORBIDDEN = 403
_TOO_MANY = 429
_SERVER_SIDE = 500


def _by_status(http_status: int) -> type[CloudError]:
    if http_status == _TOO_MANY:
        return Throttled
    if http_status == 0 or http_status >= _SERVER_SIDE:
        return CloudUnavailable
    return Unauthorized if http_status == _FORBIDDEN else InvalidRequest
