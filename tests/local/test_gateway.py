"""Who may talk to the local cloud, what is recorded, and the control requests."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError  # type: ignore[import-untyped]

from dstackd.local.control import ControlError
from tests.local.conftest import TAG, Account, make_client


def records_of(account: Account, since: int) -> list[dict[str, Any]]:
    """Call records above a number."""
    found: list[dict[str, Any]] = account.cloud.control.calls(since=since)["records"]
    return found


def last_call(account: Account) -> int:
    """Number of the last call recorded."""
    return int(account.cloud.control.calls()["last"])


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "http://example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "rebound.example.com"},
    ],
)
@pytest.mark.parametrize("path", ["/local/machines", "/"])
def test_web_pages_are_refused(account: Account, path: str, header: dict[str, str]) -> None:
    """A browser, or a name that was pointed at loopback, gets nothing: this cloud runs scripts."""
    port = int(account.cloud.endpoint_url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers=header)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert (response.status, body) == (403, {"error": "not for web pages"})


def test_calls_of_s3_are_counted_by_operation(account: Account) -> None:
    """Every S3 operation is told by its name, with bucket and key."""
    s3 = account.client("s3")
    before = last_call(account)
    s3.create_bucket(Bucket="counted")
    s3.put_object(Bucket="counted", Key="inbox/a", Body=b"a", IfNoneMatch="*")
    s3.list_objects_v2(Bucket="counted", Prefix="inbox/")
    s3.get_object(Bucket="counted", Key="inbox/a")["Body"].read()
    s3.head_object(Bucket="counted", Key="inbox/a")
    upload = s3.create_multipart_upload(Bucket="counted", Key="b")["UploadId"]
    part = s3.upload_part(Bucket="counted", Key="b", UploadId=upload, PartNumber=1, Body=b"b")
    s3.complete_multipart_upload(
        Bucket="counted",
        Key="b",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    s3.copy_object(Bucket="counted", Key="c", CopySource="counted/b")
    s3.delete_objects(Bucket="counted", Delete={"Objects": [{"Key": "inbox/a"}]})
    s3.get_bucket_location(Bucket="counted")
    records = records_of(account, before)
    assert [one["operation"] for one in records] == [
        "CreateBucket",
        "PutObject",
        "ListObjectsV2",
        "GetObject",
        "HeadObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "CopyObject",
        "DeleteObjects",
        "GetBucketLocation",
    ]
    assert {one["service_name"] for one in records} == {"s3"}
    assert {one["status"] for one in records} == {200}
    put = records[1]
    assert put["parameters"] == {"Bucket": "counted", "Key": "inbox/a", "IfNoneMatch": "*"}
    assert (put["principal"], put["access_key"]) == ("client", "AKIAOFTHEDAEMON")


def test_calls_of_ec2_carry_the_tags_of_their_targets(account: Account) -> None:
    """A policy can be checked against the record: operation, parameters, tags, status."""
    [one] = account.launch(tag="targets")
    before = last_call(account)
    account.ec2.terminate_instances(InstanceIds=[one])
    [call] = records_of(account, before)
    assert (call["service_name"], call["operation"]) == ("ec2", "TerminateInstances")
    assert call["parameters"] == {"InstanceId.1": one}
    assert call["resource_tags"] == {one: {TAG: "targets"}}
    assert (call["status"], call["region"]) == (200, "us-east-1")


def test_secrets_and_scripts_are_not_recorded(account: Account) -> None:
    """Of a secret and of user-data the record holds the size only."""
    before = last_call(account)
    account.client("secretsmanager").create_secret(Name="/dstack/b/secrets/s", SecretString="hush")
    account.launch(UserData="#!/bin/sh\n# hush-hush\nsleep 600\n")
    text = json.dumps(records_of(account, before))
    assert '"SecretString": "<4 characters>"' in text
    assert '"UserData": "<' in text
    assert "hush" not in text


def test_counts_are_by_side(account: Account) -> None:
    """Calls of clients and calls of machines are counted apart."""
    before = account.cloud.control.calls()["client"].get("sts:GetCallerIdentity", 0)
    account.client("sts").get_caller_identity()
    counts = account.cloud.control.calls()
    assert counts["client"]["sts:GetCallerIdentity"] == before + 1
    assert isinstance(counts["machines"], dict)


def test_refused_calls_are_recorded_with_their_status(account: Account) -> None:
    """The record tells which calls failed."""
    before = last_call(account)
    client = make_client("s3", account.cloud.endpoint_url, "AKIAOFTHEDAEMON")
    with pytest.raises(client.exceptions.ClientError):
        client.head_bucket(Bucket="no-such-bucket")
    [call] = records_of(account, before)
    assert (call["operation"], call["status"]) == ("HeadBucket", 404)


@pytest.mark.parametrize(
    ("service_name", "operation", "method", "parameters"),
    [
        ("ec2", "DescribeSubnets", "describe_subnets", {}),
        ("s3", "ListBuckets", "list_buckets", {}),
        ("iam", "GetRole", "get_role", {"RoleName": "x"}),
        ("logs", "DescribeLogGroups", "describe_log_groups", {}),
        ("secretsmanager", "GetSecretValue", "get_secret_value", {"SecretId": "x"}),
    ],
)
def test_a_call_can_be_made_to_fail(
    account: Account, service_name: str, operation: str, method: str, parameters: dict[str, str]
) -> None:
    """An SDK reads the code, the text and the status of a planned error in every protocol."""
    account.cloud.control.fail(
        f"{service_name}:{operation}", code="SlowDown", status=503, message="not so <fast>"
    )
    with pytest.raises(ClientError) as caught:
        getattr(account.client(service_name), method)(**parameters)
    response = caught.value.response
    assert response["Error"]["Code"] == "SlowDown"
    assert response["Error"]["Message"] == "not so <fast>"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_a_lost_answer_is_told_by_its_token(account: Account) -> None:
    """The launch happened, the connection broke; the same token finds the same instance."""
    request = account.request(tag="lost", ClientToken="lost-answer")
    account.cloud.control.fail("ec2:RunInstances", status=0, executed=True)
    with pytest.raises(ConnectionClosedError):
        account.ec2.run_instances(**request)
    [again] = account.ec2.run_instances(**request)["Instances"]
    [group] = account.ec2.describe_instances(Filters=[{"Name": f"tag:{TAG}", "Values": ["lost"]}])[
        "Reservations"
    ]
    assert [one["InstanceId"] for one in group["Instances"]] == [again["InstanceId"]]


def test_a_planned_failure_counts_down(account: Account) -> None:
    """After its times are over a call works again, and a plan can be taken back."""
    sts = account.client("sts")
    account.cloud.control.fail("sts:GetCallerIdentity", times=2)
    for _ in range(2):
        with pytest.raises(ClientError):
            sts.get_caller_identity()
    sts.get_caller_identity()
    account.cloud.control.fail("sts:GetCallerIdentity", times=5)
    account.cloud.control.fail("sts:GetCallerIdentity", times=0)
    sts.get_caller_identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"boot_delay": 1},
        {"boot_delay_s": -1},
        {"boot_delay_s": "1"},
        {"capacity": {"m5.large": 1}},
        {"capacity": 3},
    ],
)
def test_a_bad_knob_is_refused(account: Account, changes: dict[str, Any]) -> None:
    """An unknown knob or a bad value changes nothing and is explained."""
    before = account.cloud.control.faults()
    with pytest.raises(ControlError):
        account.cloud.control.faults(**changes)
    assert account.cloud.control.faults() == before


def test_an_unknown_control_request_is_an_error(account: Account) -> None:
    """What the control API does not know is refused by name."""
    with pytest.raises(ControlError, match="/local/nonsense"):
        account.cloud.control._ask("GET", "/local/nonsense")


def test_status(account: Account) -> None:
    """The cloud says which moto it corrects and where its machines live."""
    status = account.cloud.control.status()
    assert status["moto_version"] == "5.2.5"
    assert status["directory"] == str(account.cloud.directory)
