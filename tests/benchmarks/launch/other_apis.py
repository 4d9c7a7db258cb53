"""IAM, STS and CloudWatch Logs: enough for a daemon to begin. Law: says yes; nothing is kept and no line is ever there."""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.launch.plan import ACCOUNT


def iam(parameters: Mapping[str, str]) -> bytes:
    """Any operation succeeds; an instance profile is there and holds the role of its own name."""
    operation = parameters.get("Action", "")
    name = parameters.get("InstanceProfileName", "")
    profile = (
        f"<InstanceProfile><InstanceProfileName>{name}</InstanceProfileName><Roles><member>"
        f"<RoleName>{name}</RoleName></member></Roles></InstanceProfile>"
    )
    return _query(operation, profile if operation == "GetInstanceProfile" else "")


def sts(parameters: Mapping[str, str]) -> bytes:
    """GetCallerIdentity."""
    caller = f"<Account>{ACCOUNT}</Account><Arn>arn:aws:iam::{ACCOUNT}:user/bench</Arn><UserId>AIDA</UserId>"
    return _query(parameters.get("Action", ""), caller)


def logs(operation: str) -> bytes:
    """Empty pages."""
    return b'{"events": []}' if operation == "FilterLogEvents" else b"{}"


def _query(operation: str, result: str) -> bytes:
    return (
        f"<{operation}Response><{operation}Result>{result}</{operation}Result>"
        f"<ResponseMetadata><RequestId>fake</RequestId></ResponseMetadata></{operation}Response>"
    ).encode()
