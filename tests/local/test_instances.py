"""DescribeInstances and TerminateInstances as EC2 documents them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from tests.local.conftest import TAG, Account, is_alive, wait_until


def ids_of(answer: dict[str, Any]) -> list[str]:
    """Instance ids of one page."""
    return [one["InstanceId"] for group in answer["Reservations"] for one in group["Instances"]]


def pages(account: Account, tag: str, size: int) -> Iterator[list[str]]:
    """Walk over the pages of all instances with a tag."""
    token: dict[str, str] = {}
    while True:
        answer = account.ec2.describe_instances(
            Filters=[{"Name": f"tag:{TAG}", "Values": [tag]}], MaxResults=size, **token
        )
        yield ids_of(answer)
        if "NextToken" not in answer:
            return
        token = {"NextToken": answer["NextToken"]}


def test_filters(account: Account) -> None:
    """Tags, state, lifecycle, token and spot request select; filters are and-ed, values or-ed."""
    [spot] = account.launch(tag="filters", spot=True, ClientToken="filters-spot")
    [plain] = account.launch(tag="filters", ClientToken="filters-plain")
    request_id = account.describe(spot)["SpotInstanceRequestId"]

    def found(**filters: list[str]) -> set[str]:
        chosen = [{"Name": key.replace("_", "-"), "Values": it} for key, it in filters.items()]
        chosen.append({"Name": f"tag:{TAG}", "Values": ["filters"]})
        return set(ids_of(account.ec2.describe_instances(Filters=chosen)))

    assert found() == {spot, plain}
    assert found(instance_lifecycle=["spot"]) == {spot}
    assert found(spot_instance_request_id=[request_id]) == {spot}
    assert found(client_token=["filters-plain"]) == {plain}
    assert found(client_token=["filters-*"], instance_type=["m5.large"]) == {spot, plain}
    assert found(instance_state_name=["pending", "running"]) == {spot, plain}
    assert found(instance_state_name=["terminated"]) == set()


def test_an_unknown_filter_is_a_bad_value(account: Account) -> None:
    """A filter that does not exist is InvalidParameterValue."""
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        account.ec2.describe_instances(Filters=[{"Name": "colour", "Values": ["red"]}])


def test_pages_count_instances(account: Account) -> None:
    """A reservation larger than a page is split, and a walk over the pages shows each one once."""
    ids = account.launch(tag="pages", MaxCount=7) + account.launch(tag="pages", MaxCount=5)
    walked = list(pages(account, "pages", 5))
    assert [len(one) for one in walked] == [5, 5, 2]
    assert sorted(one for page in walked for one in page) == sorted(ids)


@pytest.mark.parametrize("size", [4, 1001])
def test_page_sizes_have_bounds(account: Account, size: int) -> None:
    """MaxResults is 5 to 1000."""
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        account.ec2.describe_instances(MaxResults=size)


def test_ids_and_a_page_size_do_not_combine(account: Account) -> None:
    """InstanceIds with MaxResults is InvalidParameterCombination."""
    [one] = account.launch()
    with pytest.raises(ClientError, match="InvalidParameterCombination"):
        account.ec2.describe_instances(InstanceIds=[one], MaxResults=5)


def test_a_terminated_instance_disappears(account: Account) -> None:
    """It is described as terminated for a time, then unknown."""
    [one] = account.launch()
    account.ec2.terminate_instances(InstanceIds=[one])
    account.wait_for_state(one, "terminated")
    assert account.describe(one)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    account.cloud.control.faults(terminated_visible_s=0)
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        account.describe(one)


def test_one_unknown_id_terminates_nothing(account: Account) -> None:
    """TerminateInstances is all or nothing on ids."""
    [one] = account.launch()
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        account.ec2.terminate_instances(InstanceIds=[one, "i-00000000000000000"])
    assert account.wait_for_state(one, "running")["reason"] == ""


def test_termination_takes_its_time_and_can_be_repeated(account: Account) -> None:
    """The answer says shutting-down; a second call says so too or terminated, and is no error."""
    [one] = account.launch()
    account.wait_for_state(one, "running")
    [change] = account.ec2.terminate_instances(InstanceIds=[one])["TerminatingInstances"]
    assert change["PreviousState"]["Name"] == "running"
    assert change["CurrentState"]["Name"] == "shutting-down"
    account.wait_for_state(one, "terminated")
    [change] = account.ec2.terminate_instances(InstanceIds=[one])["TerminatingInstances"]
    assert change["CurrentState"]["Name"] == "terminated"


TREE = """#!/bin/bash
trap 'echo term >> signals; sleep 0.2; echo cleaned >> signals; exit 0' TERM
sleep 600 &
echo $! > child
python3 -c 'import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvpe("sh", ["sh", "-c", "trap : TERM; echo $$ > stubborn; while :; do sleep 1; done"],
                   {"PATH": os.environ["PATH"]})
    os._exit(0)
os.wait()
'
echo ready > ready
wait
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see the tree")
def test_terminate_ends_the_whole_tree(account: Account) -> None:
    """SIGTERM first, then SIGKILL: also for a process in its own session that ignores SIGTERM."""
    account.cloud.control.faults(terminate_grace_s=1.5)
    [one] = account.launch(UserData=TREE)
    account.wait_for_file(one, "ready")
    pids = [int(account.wait_for_file(one, name)) for name in ("child", "stubborn")]
    assert [is_alive(pid) for pid in pids] == [True, True]
    account.ec2.terminate_instances(InstanceIds=[one])
    view = account.wait_for_state(one, "terminated")
    assert (account.home(one) / "signals").read_text() == "term\ncleaned\n"
    assert [is_alive(pid) for pid in pids] == [False, False]
    assert view["pid"] is not None
    wait_until(lambda: not is_alive(view["pid"] or 0))


def test_tags_of_what_does_not_exist_are_refused(account: Account) -> None:
    """CreateTags on an unknown instance or spot request is NotFound."""
    for unknown, code in (
        ("i-00000000000000000", "InvalidInstanceID.NotFound"),
        ("sir-00000000", "InvalidSpotInstanceRequestID.NotFound"),
    ):
        with pytest.raises(ClientError) as caught:
            account.ec2.create_tags(Resources=[unknown], Tags=[{"Key": "a", "Value": "b"}])
        assert caught.value.response["Error"]["Code"] == code
