"""What a machine may do in AWS, and the names of what grants it. Law: pure; equal backends give equal documents.

A policy cannot be changed under the daemon's own policy (no iam:CreatePolicyVersion), so its name
carries a digest of its document: a new document becomes a new policy, attached beside the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from dstackd.protocol import PREFIX, job_log_group, runner_log_group, secret_name

POLICY_VERSION = "2012-10-17"


@dataclass(frozen=True, slots=True)
class Account:
    """Whose resources the policy names. `partition`: `aws`, `aws-cn`, `aws-us-gov`."""

    partition: str
    id: str


@dataclass(frozen=True, slots=True)
class Names:
    """What the backend's own resources are called. The instance profile has the role's name."""

    role: str
    policy_prefix: str
    security_group: str


def names_of(bucket: str) -> Names:
    """Names inside the resources of `iam-policy-template.json` (`{bucket_name_under_score}`)."""
    under_score = bucket.replace("-", "_").lower()
    return Names(
        role=f"dstack_role_{under_score}",
        policy_prefix=f"dstack_policy_{under_score}",
        security_group=f"dstack_security_group_{under_score}",
    )


def policy_name(bucket: str, document: str) -> str:
    """The name for exactly this document."""
    digest = hashlib.sha256(document.encode()).hexdigest()[:8]
    return f"{names_of(bucket).policy_prefix}_{digest}"


def policy_arn(account: Account, name: str) -> str:
    """The ARN of a managed policy in the account; the daemon's policy has no call to look it up."""
    return f"arn:{account.partition}:iam::{account.id}:policy/{name}"


def trust_document() -> str:
    """Only EC2 machines take the role."""
    return _document(
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    )


def runner_document(
    account: Account, *, region: str, bucket: str, input_buckets: Sequence[str] = ()
) -> str:
    """Read and write below our prefix of the bucket, write into the two log groups, read the bucket's
    secrets, the account's images and the buckets that inputs may come from, nothing else.
    """
    bucket_arn = f"arn:{account.partition}:s3:::{bucket}"
    groups = f"arn:{account.partition}:logs:{region}:{account.id}:log-group:"
    return _document(
        {
            "Effect": "Allow",
            # Without tagging, S3 refuses an object that is written with a tag.
            "Action": [
                "s3:AbortMultipartUpload",
                "s3:GetObject",
                "s3:PutObject",
                "s3:PutObjectTagging",
            ],
            "Resource": f"{bucket_arn}/{PREFIX}*",
        },
        # Without a condition on the prefix: S3 says 404 for a key that is not there only to who may list the bucket, and
        # 403 to others (GetObject, API reference). The runner has to tell "not there" from "not allowed".
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": bucket_arn},
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": [
                f"{groups}{group(bucket)}:*" for group in (job_log_group, runner_log_group)
            ],
        },
        *_secrets_and_images(account, region=region, bucket=bucket),
        *_input_buckets(account, input_buckets),
    )


def _input_buckets(account: Account, buckets: Sequence[str]) -> tuple[dict[str, object], ...]:
    if not buckets:
        return ()
    arns = [f"arn:{account.partition}:s3:::{bucket}" for bucket in sorted(set(buckets))]
    return (
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": arns},
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": [f"{arn}/*" for arn in arns]},
    )


def _secrets_and_images(
    account: Account, *, region: str, bucket: str
) -> tuple[dict[str, object], ...]:
    """This bucket's secrets, and images of the account's own registry. An image of another account needs
    `registry_auth`: whose repositories those are is not for this policy to say.
    """
    secrets = f"arn:{account.partition}:secretsmanager:{region}:{account.id}:secret:"
    return (
        {
            "Effect": "Allow",
            "Action": "secretsmanager:GetSecretValue",
            # Secrets Manager adds six characters of its own to a secret's name.
            "Resource": f"{secrets}{secret_name(bucket, '*')}",
        },
        # It knows no resources: what the token opens is what the next statement says.
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
            ],
            "Resource": f"arn:{account.partition}:ecr:*:{account.id}:repository/*",
        },
    )


def _document(*statements: dict[str, object]) -> str:
    return json.dumps({"Version": POLICY_VERSION, "Statement": list(statements)}, sort_keys=True)
