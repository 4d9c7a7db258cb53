"""RunInstances as EC2 documents it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from dstackd.local import corrections
from tests.local.conftest import TAG, Account, wait_until


def error_of(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    """The code and the HTTP status."""
    response: dict[str, Any] = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def instances_with_token(account: Account, token: str) -> list[dict[str, Any]]:
    """What DescribeInstances finds by client token."""
    answer = account.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])
    return [one for group in answer["Reservations"] for one in group["Instances"]]


def make_profile(account: Account, name: str, *, with_role: bool = True) -> None:
    """An instance profile, with a role of the same name in it."""
    iam = account.client("iam")
    iam.create_instance_profile(InstanceProfileName=name)
    if with_role:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": []}))
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def test_another_version_of_moto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections made for one version of moto are not applied to another."""
    monkeypatch.setattr(corrections, "MOTO_VERSION", "5.0.0")
    state: Any = None
    with pytest.raises(RuntimeError, match=r"install moto\[server\]==5\.0\.0"):
        corrections.install(state)


def test_as_many_as_there_is_capacity_for(account: Account) -> None:
    """Between MinCount and MaxCount, the largest number that the offering has room for."""
    account.cloud.control.faults(capacity={"c5.large|us-east-1b|spot": 3})
    ids = account.launch(
        spot=True, InstanceType="c5.large", SubnetId=account.subnet("us-east-1b"), MaxCount=8
    )
    assert len(ids) == 3


def test_indexes_count_from_zero(account: Account) -> None:
    """Each instance of a reservation is described with its own launch index."""
    ids = account.launch(MaxCount=3)
    assert [account.describe(one)["AmiLaunchIndex"] for one in ids] == [0, 1, 2]


def test_less_than_the_minimum_is_no_capacity(account: Account) -> None:
    """Below MinCount nothing is launched; the answer is InsufficientInstanceCapacity, status 500."""
    account.cloud.control.faults(capacity={"c5.large|*|*": 1})
    with pytest.raises(ClientError) as caught:
        account.launch(InstanceType="c5.large", MinCount=2, MaxCount=4, ClientToken="too-few")
    assert error_of(caught) == ("InsufficientInstanceCapacity", 500)
    assert instances_with_token(account, "too-few") == []


def test_capacity_comes_back(account: Account) -> None:
    """A terminated instance makes room, and a call that found none may be repeated as it is."""
    account.cloud.control.faults(capacity={"c5.xlarge|*|*": 1})
    [first] = account.launch(InstanceType="c5.xlarge")
    again = account.request(InstanceType="c5.xlarge", ClientToken="comes-back")
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        account.ec2.run_instances(**again)
    account.ec2.terminate_instances(InstanceIds=[first])
    account.wait_for_state(first, "terminated")
    assert len(account.ec2.run_instances(**again)["Instances"]) == 1


def test_a_repeated_token_launches_once(account: Account) -> None:
    """The same call with the same token answers with the first call's instances."""
    request = account.request(MaxCount=3, ClientToken="once")
    answers = [account.ec2.run_instances(**request) for _ in range(2)]
    assert answers[0]["ReservationId"] == answers[1]["ReservationId"]
    assert len(instances_with_token(account, "once")) == 3


def test_a_token_with_other_parameters_is_refused(account: Account) -> None:
    """The same token with another request is IdempotentParameterMismatch and launches nothing."""
    request = account.request(ClientToken="mismatch")
    account.ec2.run_instances(**request)
    with pytest.raises(ClientError) as caught:
        account.ec2.run_instances(**request | {"InstanceType": "m5.xlarge"})
    assert error_of(caught) == ("IdempotentParameterMismatch", 400)
    assert len(instances_with_token(account, "mismatch")) == 1


def test_a_token_of_terminated_instances_is_over(account: Account) -> None:
    """Once all its instances are terminated, a token answers IdempotentInstanceTerminated."""
    request = account.request(ClientToken="over")
    [one] = account.ec2.run_instances(**request)["Instances"]
    account.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    account.wait_for_state(one["InstanceId"], "terminated")
    with pytest.raises(ClientError) as caught:
        account.ec2.run_instances(**request)
    assert error_of(caught) == ("IdempotentInstanceTerminated", 400)


def test_a_token_is_good_for_one_zone(account: Account) -> None:
    """The same token in a subnet of another zone launches a second time."""
    for zone in ("us-east-1a", "us-east-1b"):
        account.launch(tag="zonal", ClientToken="zonal", SubnetId=account.subnet(zone))
    zones = {one["Placement"]["AvailabilityZone"] for one in instances_with_token(account, "zonal")}
    assert zones == {"us-east-1a", "us-east-1b"}


def test_volumes_are_tagged_in_the_call(account: Account) -> None:
    """Tags for volumes land on the volumes of all instances."""
    account.launch(tag="volumes", MaxCount=2)
    volumes = account.ec2.describe_volumes(Filters=[{"Name": f"tag:{TAG}", "Values": ["volumes"]}])
    assert len(volumes["Volumes"]) == 2


def test_the_profile_is_attached_to_all(account: Account) -> None:
    """Every instance of a reservation has the instance profile."""
    make_profile(account, "for-all")
    ids = account.launch(MaxCount=3, IamInstanceProfile={"Name": "for-all"})
    names = {account.describe(one)["IamInstanceProfile"]["Arn"].rpartition("/")[2] for one in ids}
    assert names == {"for-all"}


def test_an_unknown_profile_is_a_bad_value(account: Account) -> None:
    """EC2 says InvalidParameterValue, as it does for a profile that has not spread yet."""
    with pytest.raises(ClientError, match="Invalid IAM Instance Profile name") as caught:
        account.launch(IamInstanceProfile={"Name": "nobody"})
    assert error_of(caught) == ("InvalidParameterValue", 400)


def test_a_profile_without_a_role_is_a_bad_value(account: Account) -> None:
    """A profile that holds no role yet is refused too."""
    make_profile(account, "empty", with_role=False)
    with pytest.raises(ClientError, match="has no associated IAM Roles") as caught:
        account.launch(IamInstanceProfile={"Name": "empty"})
    assert error_of(caught) == ("InvalidParameterValue", 400)


def test_user_data_has_a_limit_in_raw_bytes(account: Account) -> None:
    """16,384 bytes pass, one more does not, whatever their base64 takes."""
    script = "#!/bin/sh\n#".ljust(16_384, "x")
    assert len(account.launch(UserData=script)) == 1
    with pytest.raises(ClientError, match="User data is limited to 16384 bytes") as caught:
        account.launch(UserData=script + "x")
    assert error_of(caught) == ("InvalidUserData.Malformed", 400)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "m5.gigantic"}, "InvalidParameterValue"),
        ({"InstanceType": "m7g.large"}, "InvalidParameterValue"),  # arm64 with an x86_64 image
        ({"MinCount": 3, "MaxCount": 2}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-00000000000000000"]}, "InvalidGroup.NotFound"),
        (
            {"TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "a/b", "Value": "c"}]}
            ]},
            "InvalidParameterValue",
        ),
    ],
)  # fmt: skip
def test_what_ec2_refuses_is_refused(account: Account, changes: dict[str, Any], code: str) -> None:
    """A launch that EC2 would refuse is refused with its code."""
    with pytest.raises(ClientError) as caught:
        account.launch(**changes)
    assert error_of(caught) == (code, 400)


def test_a_dry_run_launches_nothing(account: Account) -> None:
    """A dry run that would succeed is DryRunOperation with status 412."""
    with pytest.raises(ClientError) as caught:
        account.launch(DryRun=True, ClientToken="dry")
    assert error_of(caught) == ("DryRunOperation", 412)
    assert instances_with_token(account, "dry") == []


def test_an_instance_is_pending_until_it_boots(account: Account) -> None:
    """With a boot delay the instance is pending for that long, and no process runs for it."""
    account.cloud.control.faults(boot_delay_s=1.0)
    [one] = account.launch()
    view = account.cloud.control.machine(one)
    assert (view["state"], view["pid"]) == ("pending", None)
    assert account.wait_for_state(one, "running")["pid"] is not None


def test_a_pending_instance_can_be_terminated(account: Account) -> None:
    """Termination during the boot delay ends it without ever starting a process."""
    account.cloud.control.faults(boot_delay_s=600)
    [one] = account.launch()
    account.ec2.terminate_instances(InstanceIds=[one])
    assert account.wait_for_state(one, "terminated")["pid"] is None


def test_a_new_instance_may_be_unknown_for_a_while(account: Account) -> None:
    """In the window of eventual consistency Describe, Terminate and CreateTags do not know it."""
    account.cloud.control.faults(not_found_s=1.5)
    [one] = account.launch(ClientToken="unknown-yet")
    ec2 = account.ec2
    tags = [{"Key": "a", "Value": "b"}]
    calls: list[Callable[[], Any]] = [
        lambda: ec2.describe_instances(InstanceIds=[one]),
        lambda: ec2.terminate_instances(InstanceIds=[one]),
        lambda: ec2.create_tags(Resources=[one], Tags=tags),
    ]
    for call in calls:
        with pytest.raises(ClientError) as caught:
            call()
        assert error_of(caught) == ("InvalidInstanceID.NotFound", 400)
    wait_until(lambda: instances_with_token(account, "unknown-yet"))
