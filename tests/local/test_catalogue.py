"""Instance types and images."""

from __future__ import annotations

from tests.local.conftest import Account


def test_instance_types_come_in_pages(account: Account) -> None:
    """MaxResults is honoured, up to 100 a page, and a walk shows each type once."""
    names: list[str] = []
    request: dict[str, object] = {"MaxResults": 100}
    sizes = []
    while True:
        answer = account.ec2.describe_instance_types(**request)
        sizes.append(len(answer["InstanceTypes"]))
        names += [one["InstanceType"] for one in answer["InstanceTypes"]]
        if "NextToken" not in answer:
            break
        request["NextToken"] = answer["NextToken"]
    assert set(sizes[:-1]) == {100}
    assert len(names) == len(set(names)) > 500
    assert len(account.ec2.describe_instance_types(MaxResults=5)["InstanceTypes"]) == 5


def test_types_are_found_by_name(account: Account) -> None:
    """InstanceTypes chooses."""
    answer = account.ec2.describe_instance_types(InstanceTypes=["g5.xlarge"])
    assert [one["InstanceType"] for one in answer["InstanceTypes"]] == ["g5.xlarge"]


def test_there_is_an_image_for_each_architecture(account: Account) -> None:
    """Owner and name pattern find exactly one image, and arm64 machines start from theirs."""
    assert account.image("x86_64") != account.image("arm64")
    [one] = account.launch(ImageId=account.image("arm64"), InstanceType="m7g.large")
    assert account.describe(one)["Architecture"] == "arm64"
