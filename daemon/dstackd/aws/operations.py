"""THE table of AWS operations that this program may call, and the IAM permissions each one needs.

Law: a call that is not a row here is refused before it is sent (`session.py`), and a test holds every
permission inside `iam-policy-template.json`. Sources: the Service Authorization Reference; for the
permissions of a dependent action, the API reference of the operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Permission:
    """An IAM action on a resource. The resource may hold `{bucket}` and `{bucket_}` (`-` as `_`)."""

    action: str
    resource: str = "*"


_BUCKET = "arn:aws:s3:::{bucket}"
_OBJECT = "arn:aws:s3:::{bucket}/dstackd/key"
_GROUP = "arn:aws:logs:eu-west-1:123456789012:log-group:/dstack/jobs/{bucket}:*"
_RUNNER_GROUP = "arn:aws:logs:eu-west-1:123456789012:log-group:/dstack/runners/{bucket}:*"
_ROLE = "arn:aws:iam::123456789012:role/dstack_role_{bucket_}"
_PROFILE = "arn:aws:iam::123456789012:instance-profile/dstack_role_{bucket_}"
_POLICY = "arn:aws:iam::123456789012:policy/dstack_policy_{bucket_}_0123abcd"


def _needs(*actions: str, resource: str = "*") -> tuple[Permission, ...]:
    return tuple(Permission(action, resource) for action in actions)


OPERATIONS: Mapping[tuple[str, str], tuple[Permission, ...]] = MappingProxyType(
    {
        # Allowed on what carries the tag `dstack_bucket` with the bucket's name, and on nothing else.
        ("ec2", "CancelSpotInstanceRequests"): _needs("ec2:CancelSpotInstanceRequests"),
        ("ec2", "CreateSecurityGroup"): _needs("ec2:CreateSecurityGroup", "ec2:CreateTags"),
        ("ec2", "DescribeImages"): _needs("ec2:DescribeImages"),
        ("ec2", "DescribeInstances"): _needs("ec2:DescribeInstances"),
        ("ec2", "DescribeInstanceTypes"): _needs("ec2:DescribeInstanceTypes"),
        ("ec2", "DescribeSecurityGroups"): _needs("ec2:DescribeSecurityGroups"),
        ("ec2", "DescribeSpotInstanceRequests"): _needs("ec2:DescribeSpotInstanceRequests"),
        ("ec2", "DescribeSpotPriceHistory"): _needs("ec2:DescribeSpotPriceHistory"),
        ("ec2", "DescribeSubnets"): _needs("ec2:DescribeSubnets"),
        # Tags in the call need CreateTags, a profile needs PassRole on its role.
        ("ec2", "RunInstances"): (
            *_needs("ec2:RunInstances", "ec2:CreateTags"),
            *_needs("iam:PassRole", resource=_ROLE),
        ),
        # Allowed on what carries the tag `dstack_bucket` with the bucket's name, and on nothing else.
        ("ec2", "TerminateInstances"): _needs("ec2:TerminateInstances"),
        ("s3", "CompleteMultipartUpload"): _needs("s3:PutObject", resource=_OBJECT),
        # A copy takes the tags along, where there are any.
        ("s3", "CopyObject"): _needs(
            *("s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:PutObjectTagging"),
            resource=_OBJECT,
        ),
        ("s3", "CreateMultipartUpload"): _needs("s3:PutObject", resource=_OBJECT),
        ("s3", "DeleteObjects"): _needs("s3:DeleteObject", resource=_OBJECT),
        ("s3", "GetBucketLifecycleConfiguration"): _needs(
            "s3:GetLifecycleConfiguration", resource=_BUCKET
        ),
        ("s3", "GetObject"): _needs("s3:GetObject", resource=_OBJECT),
        ("s3", "HeadObject"): _needs("s3:GetObject", resource=_OBJECT),
        ("s3", "ListObjectsV2"): _needs("s3:ListBucket", resource=_BUCKET),
        ("s3", "PutBucketLifecycleConfiguration"): _needs(
            "s3:PutLifecycleConfiguration", resource=_BUCKET
        ),
        ("s3", "PutObject"): _needs("s3:PutObject", resource=_OBJECT),
        ("s3", "UploadPart"): _needs("s3:PutObject", resource=_OBJECT),
        ("s3", "UploadPartCopy"): _needs("s3:GetObject", "s3:PutObject", resource=_OBJECT),
        ("logs", "CreateLogGroup"): (
            *_needs("logs:CreateLogGroup", "logs:TagLogGroup", resource=_GROUP),
            *_needs("logs:CreateLogGroup", "logs:TagLogGroup", resource=_RUNNER_GROUP),
        ),
        ("logs", "FilterLogEvents"): _needs("logs:FilterLogEvents", resource=_GROUP),
        ("iam", "AddRoleToInstanceProfile"): (
            *_needs("iam:AddRoleToInstanceProfile", resource=_PROFILE),
            *_needs("iam:PassRole", resource=_ROLE),
        ),
        ("iam", "AttachRolePolicy"): _needs("iam:AttachRolePolicy", resource=_ROLE),
        ("iam", "CreateInstanceProfile"): _needs(
            "iam:CreateInstanceProfile", "iam:TagInstanceProfile", resource=_PROFILE
        ),
        ("iam", "CreatePolicy"): _needs("iam:CreatePolicy", "iam:TagPolicy", resource=_POLICY),
        ("iam", "CreateRole"): _needs("iam:CreateRole", "iam:TagRole", resource=_ROLE),
        ("iam", "GetInstanceProfile"): _needs("iam:GetInstanceProfile", resource=_PROFILE),
        ("sts", "GetCallerIdentity"): (),  # works even under an explicit deny (STS API reference)
    }
)

_READS = ("Describe", "Filter", "Get", "Head", "List")


def changes_something(operation: str) -> bool:
    """Whether a call of it leaves the account other than it was."""
    return not operation.startswith(_READS)
