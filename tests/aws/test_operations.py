"""The table of operations against the policy, the code, and botocore's own model."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import botocore.session  # type: ignore[import-untyped] # ships no types
import pytest

import dstackd.aws
from dstackd.aws.operations import OPERATIONS, Permission

FOLDER = Path(dstackd.aws.__file__).parent
BUCKET = "my-proj"
BUCKET_UNDER_SCORE = "my_proj"


def statements() -> list[dict[str, Any]]:
    """The policy as an operator fills it in."""
    text = (FOLDER / "iam-policy-template.json").read_text(encoding="utf-8")
    filled = text.replace("{bucket_name_under_score}", BUCKET_UNDER_SCORE)
    found: list[dict[str, Any]] = json.loads(filled.replace("{bucket_name}", BUCKET))["Statement"]
    return found


def allowed(permission: Permission) -> bool:
    """Whether some statement allows the action on the resource."""
    resource = permission.resource.format(bucket=BUCKET, bucket_=BUCKET_UNDER_SCORE)
    return any(
        permission.action in statement["Action"]
        and any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
        for statement in statements()
    )


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def called() -> Iterator[tuple[str, str]]:
    """(service, operation) of every `<client>.call("Operation")` and `.pages("Operation")` in aws/."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=client, attr="call" | "pages"),
                    args=[ast.Constant(value=str(operation)), *_],
                ):
                    name = client.attr if isinstance(client, ast.Attribute) else ast.unparse(client)
                    yield name.strip("_").removesuffix("_launch"), operation
                case _:
                    pass


@pytest.mark.parametrize(("service", "operation"), sorted(OPERATIONS))
def test_an_operation_is_within_the_policy(service: str, operation: str) -> None:
    """Every permission that an operation needs is allowed by the template, on the resource in question."""
    denied = [one for one in OPERATIONS[service, operation] if not allowed(one)]
    assert denied == []


def test_the_evaluation_refuses() -> None:
    """The test above could fail: other actions, other buckets and a bare `*` are outside the policy."""
    assert not allowed(Permission("ec2:StopInstances"))
    assert not allowed(Permission("s3:GetObject", "arn:aws:s3:::other/key"))
    assert not allowed(Permission("logs:FilterLogEvents"))


def test_the_table_is_what_the_code_calls() -> None:
    """No operation is called without a row, and no row is left of a call that is gone."""
    assert set(called()) == set(OPERATIONS)


def test_the_operations_exist() -> None:
    """Every row is an operation of botocore's model, spelt alike."""
    session = botocore.session.get_session()
    for service in {service for service, _ in OPERATIONS}:
        known = set(session.get_service_model(service).operation_names)
        assert {operation for one, operation in OPERATIONS if one == service} <= known
