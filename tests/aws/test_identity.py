"""Role, profile, security group and log groups: made once, adopted ever after."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dstackd.aws.identity import IdentitySetup
from dstackd.aws.runner_policy import Account, names_of, policy_name, runner_document
from dstackd.errors import InvalidRequest
from tests.aws.local_world import LocalWorld

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACCOUNT = Account(partition="aws", id="123456789012")


def attached(world: LocalWorld) -> list[str]:
    """The policies on the machines' role."""
    answer = world.ground.admin.iam.list_attached_role_policies(RoleName=role(world))
    return [policy["PolicyName"] for policy in answer["AttachedPolicies"]]


def role(world: LocalWorld) -> str:
    """Name of the machines' role and of its profile."""
    return names_of(world.bucket_name).role


def tags_of(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Tags as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in listed}


async def test_everything_is_made_once(local_world: LocalWorld) -> None:
    """The second daemon finds what the first one made, and makes nothing twice."""
    first = await local_world.identity.ensure()
    assert await local_world.identity.ensure() == first
    assert first.instance_profile == role(local_world)
    admin = local_world.ground.admin
    profile = admin.iam.get_instance_profile(InstanceProfileName=role(local_world))
    assert [one["RoleName"] for one in profile["InstanceProfile"]["Roles"]] == [role(local_world)]
    assert len(attached(local_world)) == 1
    groups = admin.ec2.describe_security_groups(GroupIds=[first.security_group_id])
    (group,) = groups["SecurityGroups"]
    assert group["IpPermissions"] == []
    tags = {"dstack_bucket": local_world.bucket_name, "dstackd:owner": local_world.owner}
    assert tags_of(group["Tags"]) == tags
    assert tags_of(admin.iam.get_role(RoleName=role(local_world))["Role"]["Tags"]) == tags
    for kind in ("jobs", "runners"):
        name = f"/dstack/{kind}/{local_world.bucket_name}"
        assert admin.logs.list_tags_log_group(logGroupName=name)["tags"] == tags


@pytest.mark.parametrize("steps", range(5))
async def test_a_set_up_that_broke_off_is_finished(local_world: LocalWorld, steps: int) -> None:
    """Wherever the first start ended, the second one ends with everything in place."""
    setup: IdentitySetup = local_world.identity
    account = await setup._account()
    subnets = await local_world.compute.subnets()
    begun = (
        setup._ensure_role,
        lambda: setup._ensure_policy(account),
        setup._ensure_profile,
        lambda: setup._ensure_log_group(f"/dstack/jobs/{local_world.bucket_name}"),
        lambda: setup._ensure_security_group(subnets[0].vpc_id),
    )
    for step in begun[:steps]:
        await step()
    identity = await setup.ensure()
    assert identity == await setup.ensure()
    assert len(attached(local_world)) == 1


async def test_a_profile_without_its_role_is_finished(local_world: LocalWorld) -> None:
    """A profile that exists and is empty gets the role."""
    iam = local_world.ground.admin.iam
    iam.create_instance_profile(InstanceProfileName=role(local_world))
    await local_world.identity.ensure()
    answer = iam.get_instance_profile(InstanceProfileName=role(local_world))
    assert len(answer["InstanceProfile"]["Roles"]) == 1


async def test_a_profile_with_another_role_is_told(local_world: LocalWorld) -> None:
    """Machines would run with rights that somebody else chose: that is refused, with advice."""
    iam = local_world.ground.admin.iam
    foreign = f"foreign-{local_world.clock.new_id()}"
    iam.create_role(RoleName=foreign, AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName=role(local_world))
    iam.add_role_to_instance_profile(InstanceProfileName=role(local_world), RoleName=foreign)
    with pytest.raises(InvalidRequest) as caught:
        await local_world.identity.ensure()
    assert foreign in caught.value.message
    assert caught.value.advice


async def test_a_machine_may_do_little() -> None:
    """The runner's policy is the bucket's prefix, two log groups, the bucket's secrets and the account's
    images; a changed document has a new name.
    """
    document = json.loads(runner_document(ACCOUNT, region="eu-west-1", bucket="my-proj"))
    resources = [one["Resource"] for one in document["Statement"]]
    logs = "arn:aws:logs:eu-west-1:123456789012:log-group:/dstack"
    assert resources == [
        "arn:aws:s3:::my-proj/dstackd/*",
        "arn:aws:s3:::my-proj",
        [f"{logs}/jobs/my-proj:*", f"{logs}/runners/my-proj:*"],
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:/dstack/my-proj/secrets/*",
        "*",
        "arn:aws:ecr:*:123456789012:repository/*",
    ]
    [unbounded] = [one for one in document["Statement"] if one["Resource"] == "*"]
    assert unbounded["Action"] == "ecr:GetAuthorizationToken"
    actions = {action for one in document["Statement"] for action in _listed(one["Action"])}
    assert actions == {
        "s3:GetObject",
        "s3:PutObject",
        "s3:PutObjectTagging",
        "s3:AbortMultipartUpload",
        "s3:ListBucket",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "secretsmanager:GetSecretValue",
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
    }
    names = {policy_name("my-proj", text) for text in ("a", "b")}
    assert len(names) == 2
    assert all(name.startswith("dstack_policy_my_proj_") for name in names)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


async def test_input_buckets_are_listed_and_read_and_nothing_else() -> None:
    """Each bucket of the configuration, whole; the project's own stays as it is unless it is named."""
    asked = {"region": "eu-west-1", "bucket": "my-proj"}
    plain = json.loads(runner_document(ACCOUNT, **asked))["Statement"]
    more = json.loads(runner_document(ACCOUNT, **asked, input_buckets=("b", "a")))["Statement"]
    assert more[: len(plain)] == plain
    assert more[len(plain) :] == [
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": ["arn:aws:s3:::a", "arn:aws:s3:::b"],
        },
        {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": ["arn:aws:s3:::a/*", "arn:aws:s3:::b/*"],
        },
    ]
