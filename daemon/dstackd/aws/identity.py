"""The role, profile, security group and log groups of a backend's machines. Law: create or adopt, never change.

Every step can be repeated, so a start that broke off half-way is mended by the next one. What IAM does
not show yet (NotFound) and what it refuses for now (Throttled) is raised; the caller comes again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from dstackd.aws.access import AwsAccess
from dstackd.aws.runner_policy import (
    Account,
    Names,
    names_of,
    policy_arn,
    policy_name,
    runner_document,
    trust_document,
)
from dstackd.aws.session import Clients
from dstackd.aws.translation import reading
from dstackd.aws.untyped import Untyped
from dstackd.errors import InvalidRequest, NotFound, PreconditionFailed
from dstackd.ports import Compute
from dstackd.protocol import TAG_BUCKET, TAG_OWNER, job_log_group, runner_log_group


@dataclass(frozen=True, slots=True)
class Identity:
    """What a launch names."""

    instance_profile: str
    security_group_id: str


class IdentitySetup:
    """Sets the backend's identity up once at the start of a daemon: about ten calls."""

    def __init__(
        self, clients: Clients, access: AwsAccess, *, owner: str, compute: Compute
    ) -> None:
        self._clients = clients
        self._access = access
        self._compute = compute
        self._names: Names = names_of(access.bucket)
        self._tags = {TAG_BUCKET: access.bucket, TAG_OWNER: owner}

    async def ensure(self) -> Identity:
        """Make sure that everything is there. Raises any CloudError; repeating it is always right."""
        subnets = await self._compute.subnets()
        account = await self._account()
        await self._ensure_role()
        await self._ensure_policy(account)
        await self._ensure_profile()
        for group in (job_log_group, runner_log_group):
            await self._ensure_log_group(group(self._access.bucket))
        group_id = await self._ensure_security_group(subnets[0].vpc_id)
        return Identity(instance_profile=self._names.role, security_group_id=group_id)

    async def _account(self) -> Account:
        caller = await self._clients.sts.call("GetCallerIdentity")
        with reading("sts:GetCallerIdentity"):
            partition = str(caller["Arn"]).split(":")[1]
            return Account(partition=partition, id=str(caller["Account"]))

    async def _ensure_role(self) -> None:
        with suppress(PreconditionFailed):
            await self._clients.iam.call(
                "CreateRole",
                RoleName=self._names.role,
                AssumeRolePolicyDocument=trust_document(),
                Description=f"Machines of dstackd for bucket {self._access.bucket}",
                Tags=self._listed_tags(),
            )

    async def _ensure_policy(self, account: Account) -> None:
        bucket = self._access.bucket
        document = runner_document(
            account,
            region=self._access.region,
            bucket=bucket,
            input_buckets=self._access.input_buckets,
        )
        name = policy_name(bucket, document)
        with suppress(PreconditionFailed):
            await self._clients.iam.call(
                "CreatePolicy",
                PolicyName=name,
                PolicyDocument=document,
                Tags=self._listed_tags(),
            )
        # Attaching twice is no error, and the policy has no call to see what is attached.
        await self._clients.iam.call(
            "AttachRolePolicy", RoleName=self._names.role, PolicyArn=policy_arn(account, name)
        )

    async def _ensure_profile(self) -> None:
        name = self._names.role
        if name in await self._roles_of_profile():
            return
        with suppress(PreconditionFailed):
            await self._clients.iam.call(
                "CreateInstanceProfile", InstanceProfileName=name, Tags=self._listed_tags()
            )
        with suppress(PreconditionFailed):
            await self._clients.iam.call(
                "AddRoleToInstanceProfile", InstanceProfileName=name, RoleName=name
            )
        roles = await self._roles_of_profile()
        if roles and name not in roles:
            raise InvalidRequest(
                "ForeignRole",
                f"instance profile {name} holds the role {roles[0]}",
                operation="iam:AddRoleToInstanceProfile",
                advice=f"remove the role from the instance profile {name} in the IAM console",
            )

    async def _roles_of_profile(self) -> tuple[str, ...]:
        """Empty as well when there is no profile."""
        try:
            answer = await self._clients.iam.call(
                "GetInstanceProfile", InstanceProfileName=self._names.role
            )
        except NotFound:
            return ()
        with reading("iam:GetInstanceProfile"):
            return tuple(role["RoleName"] for role in answer["InstanceProfile"]["Roles"])

    async def _ensure_log_group(self, group: str) -> None:
        with suppress(PreconditionFailed):
            await self._clients.logs.call("CreateLogGroup", logGroupName=group, tags=self._tags)

    async def _ensure_security_group(self, vpc_id: str) -> str:
        """Its id. A group lets everything out and nothing in until somebody says otherwise: ours stays so."""
        found = await self._find_security_group(vpc_id)
        if found:
            return found
        try:
            answer = await self._clients.ec2.call(
                "CreateSecurityGroup",
                GroupName=self._names.security_group,
                Description=f"Machines of dstackd for bucket {self._access.bucket}",
                VpcId=vpc_id,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": self._listed_tags()}],
            )
        except PreconditionFailed:
            found = await self._find_security_group(vpc_id)
            if not found:
                raise
            return found
        with reading("ec2:CreateSecurityGroup"):
            return str(answer["GroupId"])

    async def _find_security_group(self, vpc_id: str) -> str:
        answer = await self._clients.ec2.call(
            "DescribeSecurityGroups",
            Filters=[
                {"Name": "vpc-id", "Values": [vpc_id]},
                {"Name": "group-name", "Values": [self._names.security_group]},
            ],
        )
        with reading("ec2:DescribeSecurityGroups"):
            groups = answer["SecurityGroups"]
            return str(groups[0]["GroupId"]) if groups else ""

    def _listed_tags(self) -> list[dict[str, Untyped]]:
        return [{"Key": key, "Value": value} for key, value in self._tags.items()]
